"""What threads do together: groups of lanes share a row, and blocks add up what they found.

The lanes of a group are threads next to each other: 1, 2, 4, ... of a warp, or a whole block. Where
rows lie across the memory it is the rows' threads that are next to each other, and the lanes of one
are as far apart as a block has rows. All threads of a block call these functions together. Every
result is the same to the bit in each run: what is added to what depends on the numbers of the
threads alone.
"""

from nbloss.engine import scalars


def add(x, y):
    return x + y


def block_fold(merge, x, memory):
    """Merge what the threads of a block hold; each of them gets the result.

    There is a number of shared memory for each warp.
    """
    for distance in WITHIN_WARP:
        x = merge(x, shuffle(x, distance))
    if WARPS > 1:
        thread = cuda.threadIdx.x
        cuda.syncthreads()  # the last result may still be read
        if thread % WARP == 0:
            memory[thread // WARP] = x
        cuda.syncthreads()
        x = memory[0]
        for warp in range(1, WARPS):
            x = merge(x, memory[warp])
    return x


def group_fold(merge, x, memory):
    """Merge what the lanes of a group hold; each of them gets the result.

    There is as much shared memory as SLOTS says.
    """
    if LANES == 1:
        return x
    elif ACROSS:
        thread = cuda.threadIdx.x
        row = thread % ROWS_OF_BLOCK
        cuda.syncthreads()  # the last result may still be read
        memory[thread] = x
        cuda.syncthreads()
        x = memory[row]
        for lane in range(1, LANES):
            x = merge(x, memory[lane * ROWS_OF_BLOCK + row])
        return x
    elif LANES > WARP:
        return block_fold(merge, x, memory)
    else:
        for distance in WITHIN_GROUP:
            x = merge(x, shuffle(x, distance))
        return x


def lane_and_row():
    """Give a thread's number in its group, and the number of the group in the block."""
    if ACROSS:
        return cuda.threadIdx.x // ROWS_OF_BLOCK, cuda.threadIdx.x % ROWS_OF_BLOCK
    else:
        return cuda.threadIdx.x % LANES, cuda.threadIdx.x // LANES


def report(errors, seen, label):
    """Leave word of a label that is out of range, for the next call to find."""
    errors[1] = label
    cuda.threadfence_system()  # a reader that sees the first of these sees the label, too
    errors[0] = 1
    cuda.threadfence_system()
    seen[0] = 1


FOLDS = (block_fold, group_fold, lane_and_row)
MERGES = {"add": add, "larger": scalars.maximum, "smaller": scalars.minimum}


def flags(warp: int, threads: int, lanes: int, across: bool = False) -> dict[str, object]:
    """Give the constants of these functions: powers of two."""
    return {
        "WARP": warp,
        "WARPS": threads // warp,
        "LANES": lanes,
        "ROWS_OF_BLOCK": threads // lanes,
        "ACROSS": across,
        "SLOTS": threads if across else threads // warp,
        "WITHIN_WARP": distances(warp),
        "WITHIN_GROUP": distances(min(lanes, warp)),
        **MERGES,
    }


def distances(count: int) -> tuple[int, ...]:
    """Give 1, 2, 4, ... below a number."""
    return tuple(1 << bit for bit in range(count.bit_length() - 1))
