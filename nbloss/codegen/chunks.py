"""How work is cut into pieces: by its shape alone, never by the number of threads.

A segment is a run of elements that is summed in the computing type; a worker's chunk is a number
of segments, whose sums are added in float64. Tests set these to tiny numbers.
"""

import math

SEGMENT = 1024  # elements
CHUNK = 1 << 14  # elements, about
TILE = 256  # rows that lie side by side


def count(total: int, size: int) -> int:
    """How many pieces of a size it takes to cover the total."""
    return -(-total // size)


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether the elements lie one behind the other; steps along axes of length 1 don't count."""
    expected = 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and step != expected:
            return 0 in shape
        expected *= size
    return True


def canonical(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Give steps along axes of length 1, which may be anything, as contiguous memory has them."""
    if 0 in shape:
        return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return tuple(
        step if size != 1 else math.prod(shape[axis + 1 :])
        for axis, (size, step) in enumerate(zip(shape, strides, strict=True))
    )


def layout(shape: tuple[int, ...], strides: list[tuple[int, ...]]) -> tuple | None:
    """Fold a shape into rows and columns, if the strides of all operands allow it.

    Parameters
    ----------
    shape : tuple of int
    strides : list of tuple of int
        The strides of each operand, in elements.

    Returns
    -------
    tuple or None
        ``(rows, columns, outer strides, inner strides)``; None if it takes more than two
        dimensions, or if an operand is traversed backwards.
    """
    dims: list[tuple[int, list[int]]] = []
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        steps = [s[axis] for s in strides]
        if min(steps, default=0) < 0:
            return None
        if dims and all(a == b * size for a, b in zip(dims[-1][1], steps, strict=True)):
            dims[-1] = (dims[-1][0] * size, steps)
        else:
            dims.append((size, steps))
    if len(dims) > 2:
        return None
    zeros = [0] * len(strides)
    while len(dims) < 2:
        dims.insert(0, (1, zeros))
    (rows, outer), (columns, inner) = dims
    return rows, columns, tuple(outer), tuple(inner)


def rows(
    shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], count: int, columns: int
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Lay operands of one shape out as rows along their last dimension.

    Returns
    -------
    tuple or None
        Their row and their column strides; None if their strides do not fit.
    """
    if all(is_contiguous(shape, steps) for steps in strides):
        return (columns,) * len(strides), (1,) * len(strides)
    folded = layout(shape, list(strides))
    if folded is None or folded[:2] != (count, columns):
        return None
    return folded[2], folded[3]
