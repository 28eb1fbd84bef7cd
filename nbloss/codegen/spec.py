"""What a kernel is asked for, and where it finds the numbers of a call."""

import keyword
from dataclasses import dataclass, field
from typing import Any

from nbloss.codegen import chunks, runtime
from nbloss.codegen.blocks import FIRST_PARAMETER, GRADIENT_SCALE, PARTIALS
from nbloss.formula.trace import Formula

# The block of integers: where the values go, and how many partial sums there are, for the combiner.
# Then come the fields that a kernel has of its own, and last where the partial sums lie.
VALUES, PARTIAL_COUNT, FIRST_FIELD = range(3)


# Names that a source has for other things, or calls.
RESERVED = {
    *keyword.kwlist,
    *runtime.names("float32"),
    *("call", "numbers", "chunk", "row", "rows", "columns", "all_columns", "spatial_size"),
    *("per_row", "rows_per_chunk", "c", "j", "first", "last", "start", "segment", "tile", "tiles"),
    *("number", "sample", "place", "result", "values", "all_values", "partials", "found"),
    *("gradient_factor", "grad_output", "output", "ignore_index", "nothing", "odd", "is_odd"),
    *("is_ignored", "first_bad", "abs", "range", "min", "max"),
    *(
        "cuda",
        "thread",
        "lane",
        "row_of_block",
        "slot",
        "shared",
        "count",
        "size",
        "zero",
        "before",
    ),
    *("origin", "is_there", "is_usable", "value_factor", "per_weight", "errors", "seen", "report"),
    *(
        "weight_blocks",
        "partial_count",
        "floor_divide",
        "store_sum",
        "store_weights",
        "sum_of_weights",
    ),
    *(f"{kind}_over_{group}" for kind in ("sum", "max", "min") for group in ("row", "block")),
}
# How names begin and end that a source makes of those of arguments.
PREFIXES, SUFFIXES = ("all_", "grad_"), ("_step", "_strip", "_")


def identifier(name: str) -> str:
    """Give the name that an argument of the formula has in a source."""
    if name in INTERNAL:
        return name.replace(" ", "_")
    is_taken = name in RESERVED or name.startswith(PREFIXES) or name.endswith(SUFFIXES)
    return f"{name}_" if is_taken else name


def gradient(name: str) -> str:
    """Give the name that the gradient with respect to an operand has in a source."""
    return f"grad_{identifier(name)}"


# What every kernel is given; no argument of a formula can have such a name.
GRADIENT_FACTOR, GRAD_OUTPUT = INTERNAL = ("gradient factor", "grad output")


@dataclass(frozen=True)
class Spec:
    """What a kernel is asked for.

    Attributes
    ----------
    formula : Formula
    options : tuple of (str, Any)
        Other values than the formula's own for its options; 1.0 for an operand that there is not.
    needs_grad : tuple of str
        The operands whose gradients are stored.
    value : {"each", "sum", "weights", ""}
        Whether values are stored one by one, summed, or not needed. "weights" sums the weights of
        rows instead, and finds the first row whose label names no column.
    dtype : str
        Type of the operands and results.
    steps : tuple of (str, int)
        Operands that are not contiguous along the row: 0 for a number that is repeated, -1 for a
        step that is read from the call.
    has_grad_output : bool
        Whether there is a number of `grad_output` for each value.
    ignores : bool
        Whether rows with a certain label cost nothing.
    tiled : bool
        Whether rows lie side by side, as those of scores of shape (N, C, d1, ...) do.
    order : {1, 2}
        Whether the gradients are stored, or the diagonals of the Hessian.
    segment, tile : int
        How many numbers are summed in the computing type, and how many rows lie in a tile.
    """

    formula: Formula
    options: tuple[tuple[str, Any], ...] = ()
    needs_grad: tuple[str, ...] = ()
    value: str = "sum"
    dtype: str = "float32"
    steps: tuple[tuple[str, int], ...] = ()
    has_grad_output: bool = False
    ignores: bool = False
    tiled: bool = False
    order: int = 1
    segment: int = field(default_factory=lambda: chunks.SEGMENT)
    tile: int = field(default_factory=lambda: chunks.TILE)

    @property
    def name(self) -> str:
        """The name of the kernel."""
        name = identifier(self.formula.name)
        return name if name.isidentifier() else "formula"  # that of a lambda

    @property
    def arrays(self) -> dict[str, str]:
        """The arrays that are read, by their names in the source, and how each varies."""
        absent = dict(self.options)
        operands = self.formula.operands.items()
        there = {identifier(n): kind for n, kind in operands if n not in absent}
        if self.has_grad_output:
            there[identifier(GRAD_OUTPUT)] = "per_row" if self.formula.rowwise else "element"
        return there

    @property
    def fields(self) -> dict[str, int]:
        """The integers of a call: their places in the block, by name."""
        names = ["rows", "columns", "rows_per_chunk"]
        names += ["spatial_size"] if self.tiled else []
        names += ["ignore_index"] if self.ignores else []
        for name, kind in self.arrays.items():
            names.append(name)
            names += [f"{name}_row_step"] if kind in ("element", "per_row") else []
            has_step = self.step(name) == -1 or (self.tiled and kind == "element")
            names += [f"{name}_step"] if has_step else []
        names += map(gradient, self.needs_grad)
        places = {name: k for k, name in enumerate(names, FIRST_FIELD)}
        return {"values": VALUES, "partials": PARTIALS, **places}

    @property
    def numbers(self) -> dict[str, int]:
        """The floats of a call: their places in the block, by name."""
        parameters = enumerate(self.formula.parameters, FIRST_PARAMETER)
        return {
            identifier(GRADIENT_FACTOR): GRADIENT_SCALE,
            **{identifier(name): k for k, name in parameters},
        }

    def step(self, name: str) -> int:
        """Say how an operand steps along the row: 1, 0, or -1 for a step that the call says."""
        return {identifier(n): step for n, step in self.steps}.get(name, 1)

    def block(self, partials: int, values: dict[str, Any]) -> tuple[Any, ...]:
        """Lay the integers of a call out, from their values by name.

        Parameters
        ----------
        partials : int
            How many partial sums there are, which the combiner adds up.
        values : dict of str to int or At
            Those that this kernel has no field for are left out.
        """
        fields = {name: place for name, place in self.fields.items() if name != "partials"}
        block = [0, partials] + [0] * (len(fields) - 1)
        for name, place in fields.items():
            block[place] = values[name]
        return tuple(block)
