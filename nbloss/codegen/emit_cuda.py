"""Sources of kernels for CUDA: ``kernel(call, numbers)`` is what each thread does.

Some threads share a row: one, a few of a warp, a warp, or a whole block. Each takes every so many
columns of it, a strip of several at a time, so that several loads are under way at once. Where a
strip of all threads of a row holds the whole row, it is read but once and stays in registers.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from nbloss.codegen.emit import Fold, Writer
from nbloss.codegen.spec import GRADIENT_FACTOR, Spec, identifier
from nbloss.formula.derive import factors
from nbloss.formula.expression import Node, ancestors, parameter
from nbloss.formula.schedule import Walk


@dataclass(frozen=True)
class Share:
    """How the work is shared among threads.

    Attributes
    ----------
    threads : int
        Of a block.
    threads_per_row : int
    strip : int
        How many numbers a thread has at once.
    kept : bool
        Whether a strip of all its threads holds the whole row, so that it is read but once.
    across : bool
        Whether neighbouring threads take neighbouring rows; otherwise they take one row together,
        at most a warp of them, or a whole block.
    warp : int
        Threads of a warp.
    flat : bool
        Of a formula of an element: whether there is a single row.
    """

    threads: int
    threads_per_row: int
    strip: int
    kept: bool
    across: bool = False
    warp: int = 32
    flat: bool = False

    @property
    def rows_per_block(self) -> int:
        """How many rows a block takes at once."""
        return self.threads // self.threads_per_row

    @property
    def shared_size(self) -> int:
        """How many numbers of shared memory the threads of a block need to fold theirs."""
        alone = self.threads_per_row == 1
        return self.threads if self.across and not alone else self.threads // self.warp


def source(spec: Spec, share: Share, weighs: str = "") -> str:
    """Write the kernel of a specification.

    Parameters
    ----------
    spec : Spec
    share : Share
    weighs : {"", "inf", "nan"}, optional
        Whether the kernel divides by the weight of all rows, which a validate has found, and what
        comes of a division by 0.
    """
    return (Rows if spec.formula.rowwise else Elements)(spec, share, weighs).source()


class _Fold(Fold):
    """A reduction by several threads: each has a partial, and then they fold these together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.start = {"sum": "zero", "min": "inf"}.get(self.node.op, "-inf")

    def taking(self, text: str) -> str:
        if self.is_sum:
            return f"{self.partial} += {text}"
        # The largest number that is subtracted before exponentials need not show a NaN.
        join = {"min": "minimum", "max": "maximum", "shift": "larger"}[self.node.op]
        return f"{self.partial} = {join}({self.partial}, {text})"

    def over(self, group: str) -> str:
        """Write how the threads of a row or of a block fold their partials together."""
        kind = {"sum": "sum", "min": "min"}.get(self.node.op, "max")
        return f"{self.name} = {kind}_over_{group}({self.partial}, shared)"


class _Threads(Writer):
    """What the kernels of elements and of rows have in common."""

    fold = _Fold
    keeps = False  # to compute a number again is cheaper than to write and read it

    def __init__(self, spec: Spec, share: Share, weighs: str) -> None:
        self.share, self.weighs = share, weighs
        self.strips: set[str] = set()  # the operands of which a thread has a strip in registers
        super().__init__(spec)

    def loaded(self, name: str, kind: str, column: str) -> str:
        if column == "c" and identifier(name) in self.strips:
            return f"{identifier(name)}_strip[slot]"
        text = super().loaded(name, kind, column)
        if column in self.labels:  # a row without a label may have no column at all
            return f"({text} if is_usable else zero)"
        return text

    def along_row(self, roots: list[Node]) -> list[str]:
        """Name the operands that vary along the row, of those that some numbers are made of."""
        inside = ancestors(*roots, known=self.names, along_rows=True)
        kinds = ("element", "per_column")
        found = (identifier(x.data[0]) for x in inside if x.op == "operand" and x.data[1] in kinds)
        return list(dict.fromkeys(found))

    def head(self, note: str, meets: bool) -> None:
        """Write the head, and what is read from the call."""
        spec = self.spec
        self(f"def {spec.name}(call, numbers):")
        self.indent = 1
        title = self.title()
        self(*title[:-1], "", note, title[-1])
        self("rows, columns = call.rows, call.columns")
        if spec.tiled:
            self("spatial_size = call.spatial_size")
        used = self.used()
        self.read = {n: kind for n, kind in self.arrays.items() if self.is_read(n, kind, used)}
        for name, kind in self.read.items():
            if kind != "index":
                self(f"{self.whole(name, kind)} = pointer(call.{name}, stored)")
            if f"{name}_step" in spec.fields:
                self(f"{name}_step = call.{name}_step")
        of_rows = [*self.schedule.of_rows, *(["values"] if spec.value == "each" else [])]
        for name in (*self.outputs, *of_rows):
            self(f"{self.whole(name)} = pointer(call.{name}, stored)")
        for name in (GRADIENT_FACTOR, *spec.formula.parameters):
            if parameter(name) in used:
                self(f"{identifier(name)} = numbers.{identifier(name)}")
        if spec.value == "sum":
            self("value_factor = numbers.value_factor")
        self("thread = cuda.threadIdx.x")
        if meets or spec.value in ("sum", "weights") or self.weighs:
            self(f"shared = cuda.shared.array({self.share.shared_size}, {self.real})")
        if self.weighs:
            inverse = f"{self.real}(1.0) / all_weights"
            if self.weighs == "nan":
                inverse = f"nan if all_weights == 0.0 else {inverse}"
            self("# Another kernel has found what the rows weigh together.")
            self("all_weights = sum_of_weights(call.partials, call.weight_blocks, shared)")
            self(f"per_weight = {inverse}")
            if parameter(GRADIENT_FACTOR) in used:
                self("gradient_factor *= per_weight")
            if spec.value == "sum":
                self("value_factor *= per_weight")
        if spec.value in ("sum", "weights"):
            self("result = zero")

    def whole(self, name: str, kind: str = "element") -> str:
        """Give the name of an array from its beginning."""
        return name

    def ending(self) -> None:
        total = "sum_over_block(result, shared)"
        if self.spec.value == "weights":
            self(f"store_weights({total}, call.partials)")
        if self.spec.value == "sum":
            self(f"total_ = value_factor * {total}")
            self("store_sum(total_, call.values, call.partials, call.weight_blocks)")


class Elements(_Threads):
    """Single elements: all threads stride over them."""

    def prelude(self) -> None:
        count = self.share.strip
        what = f"{count} elements" if count > 1 else "an element"
        self.head(f"A thread takes {what} at a time.", False)

    def element(self, name: str, kind: str, column: str) -> str:
        if name not in self.arrays:
            return f"{name}[place]"
        column = "place" if self.share.flat else "c"
        step = {0: "", 1: column, -1: f"{column} * {name}_step"}[self.spec.step(name)]
        row = "" if self.share.flat else f"row * call.{name}_row_step"
        return f"{name}[{' + '.join(filter(None, (row, step))) or '0'}]"

    @contextmanager
    def rows(self) -> Iterator[None]:
        strip, threads = self.share.strip, self.share.threads
        names = self.along_row([x for walk in self.schedule.walks for x in walk.roots])
        self("size = rows * columns")
        self(*(f"{n}_strip = cuda.local.array({strip}, {self.real})" for n in names))
        self(f"start = int64(cuda.blockIdx.x) * {threads * strip} + thread")
        with self.block("while start < size:"):
            self("# For all that the compiler knows, a store changes what is loaded after it.")
            with self.block(f"for slot in range({strip}):"):
                self(f"place = min(start + {threads} * slot, size - 1)")
                if not self.share.flat:
                    self("row = floor_divide(place, columns)", "c = place - row * columns")
                self(*(f"{n}_strip[slot] = {self.number_at(n, 'element', 'c')}" for n in names))
            self.strips = set(names)
            with self.block(f"for slot in range({strip}):"):
                self(f"place = start + {threads} * slot")
                with self.block("if place < size:"):
                    yield
            self(f"start += int64(cuda.gridDim.x) * {threads * strip}")

    def row(self) -> None:
        walks = self.schedule.walks
        folds: list[Fold] = [self.fold(x, "result", "") for walk in walks for x in walk.reductions]
        for fold in folds:
            fold.partial = "result"  # of all elements of the thread
        self.body([store for walk in walks for store in walk.stores], folds)


class Rows(_Threads):
    """Rows, each by one thread or by several."""

    def __init__(self, spec: Spec, share: Share, weighs: str) -> None:
        super().__init__(spec, share, weighs)
        self.is_shared_walk = False
        # Threads of several rows meet where one of these rows is folded, those without a row too.
        self.goes_along = share.threads_per_row > 1 and share.rows_per_block > 1
        several = share.threads_per_row > 1
        self.lane = ("lane" if self.goes_along else "thread") if several else "0"
        checked = "is_usable" if self.labels else "is_there" if self.goes_along else ""
        self.usable, self.count = checked, "count" if checked else "columns"

    def prelude(self) -> None:
        made, several = self.schedule, self.share.threads_per_row > 1
        folds = any(walk.reductions for walk in made.walks)
        self.head(self._note(), bool(made.shared) or (folds and several))
        if self.goes_along and self.share.across:
            count = self.share.rows_per_block
            self(f"lane, row_of_block = thread // {count}, thread % {count}")
        elif self.goes_along:
            count = self.share.threads_per_row
            self(f"lane, row_of_block = thread % {count}, thread // {count}")
        self.in_strips = self.along_row([x for walk in made.walks for x in walk.roots])
        for name in self.in_strips:
            self(f"{name}_strip = cuda.local.array({self.share.strip}, {self.real})")

    def _note(self) -> str:
        share = self.share
        count, block = share.threads_per_row, share.rows_per_block == 1
        who = "A thread" if count == 1 else "A block" if block else f"{count} threads"
        if count == share.warp and not block:
            who = "A warp"
        verb = "take" if who.endswith("threads") else "takes"
        where = ", and the next thread the next row" if share.across else ""
        kept = ", which stays in registers" if share.kept and self.schedule.walks else ""
        return f"{who} {verb} a row{kept}{where}."

    def whole(self, name: str, kind: str = "element") -> str:
        return name if kind == "per_column" else f"all_{name}"

    def element(self, name: str, kind: str, column: str) -> str:
        if kind == "per_column" or not self.spec.tiled:
            return super().element(name, kind, column)
        if kind == "per_row":
            return f"{name}[0]"
        return f"{name}[{column} * {'spatial_size' if name in self.results else f'{name}_step'}]"

    # --- the loop over rows -----------------------------------------------------------------------

    @contextmanager
    def rows(self) -> Iterator[None]:
        count = self.share.rows_per_block
        block = "int64(cuda.blockIdx.x)"
        stride = f"int64(cuda.gridDim.x){f' * {count}' if count > 1 else ''}"
        if self.goes_along:
            self(f"first = {block} * {count}")
            with self.block("while first < rows:"):
                self("# Threads without a row go along to where all of a row meet.")
                self("is_there = first + row_of_block < rows")
                self("row = min(first + row_of_block, rows - 1)")
                yield from self._row()
                self(f"first += {stride}")
            return
        alone = f"{block} * {count} + thread" if count > 1 else block
        self(f"row = {alone}")
        with self.block("while row < rows:"):
            yield from self._row()
            self(f"row += {stride}")

    def _row(self) -> Iterator[None]:
        self._offsets()
        self._label()
        if self.usable and not self.labels:
            self("count = columns if is_there else 0")
        self._nothing()
        if self.share.kept and self.in_strips:
            with self._strip(self.lane):
                self._load(self.in_strips)
            self.strips = set(self.in_strips)
        yield

    def _offsets(self) -> None:
        of_rows = [*self.schedule.of_rows, *(["values"] if self.spec.value == "each" else [])]
        row, place, gradient = "row", "", "row * columns"
        if self.spec.tiled:
            self("sample = floor_divide(row, spatial_size)", "place = row - sample * spatial_size")
            row, place = "sample", " + place"
            gradient = "sample * columns * spatial_size + place"
        for name, kind in self.read.items():
            if kind == "element":
                self(f"{name} = offset(all_{name}, {row} * call.{name}_row_step{place})")
            elif kind == "per_row":
                self(f"{name} = offset(all_{name}, row * call.{name}_row_step)")
        self(*(f"{name} = offset(all_{name}, {gradient})" for name in self.outputs))
        self(*(f"{name} = offset(all_{name}, row)" for name in of_rows))

    def _label(self) -> None:
        """Write how labels are read, and told of where they name no column."""
        if not self.labels:
            return
        for label in self.labels:
            self(f"{label} = read_once(call.{label} + 8 * row)")
        is_ignored = ["not is_ignored"] if self.spec.ignores else []
        if is_ignored:
            self(f"is_ignored = {self.labels[0]} == call.ignore_index")
        is_there = ["is_there"] if self.goes_along else []
        inside = [f"{label} >= 0 and {label} < columns" for label in self.labels]
        self(f"is_usable = {' and '.join((*is_there, *is_ignored, *inside))}")
        if self.spec.value != "weights":
            self(f"nothing = {'zero if is_ignored else nan' if is_ignored else 'nan'}")
            for label in self.labels:
                outside = f"({label} < 0 or {label} >= columns)"
                with self.block(f"if {' and '.join((*self._first(), *is_ignored, outside))}:"):
                    self(f"report(call.errors, call.seen, {label})")
        self(*(f"{label} = {label} if is_usable else 0" for label in self.labels))
        self("count = columns if is_usable else 0")

    def _first(self) -> list[str]:
        """Give the conditions that hold for one thread of a row that there is."""
        several = self.share.threads_per_row > 1
        return [*(["is_there"] if self.goes_along else []), *([f"{self.lane} == 0"] * several)]

    def _nothing(self) -> None:
        """Write what the gradients are where there is nothing to compute, or but in one column."""
        if not self.labels or not self.outputs:
            return
        cleared = self.schedule.cleared
        rest = [name for name in self.outputs if name not in cleared]
        for names, tests, text in (
            (cleared, [], "zero if is_usable else nothing"),
            (rest, ["not is_usable"], "nothing"),
        ):
            tests = [*(["is_there"] if self.goes_along else []), *tests]
            heads = [f"if {' and '.join(tests)}:"] if tests else []
            if names:
                with self.block(*heads), self._each_column("columns"):
                    self(*(self.stored(self.element(n, "element", "c"), text) for n in names))

    # --- along a row ------------------------------------------------------------------------------

    @contextmanager
    def _each_column(self, count: str) -> Iterator[None]:
        self(f"c = {self.lane}")
        with self.block(f"while c < {count}:"):
            yield
            self(f"c += {self.share.threads_per_row}")

    @contextmanager
    def _strip(self, start: str) -> Iterator[None]:
        step = self.share.threads_per_row
        place = f"{step} * slot" if step > 1 else "slot"
        with self.block(f"for slot in range({self.share.strip}):"):
            self(f"c = {place}" if start == "0" else f"c = {start} + {place}")
            with self.block(f"if c < {self.count}:"):
                yield

    def _load(self, names: list[str]) -> None:
        self(*(f"{n}_strip[slot] = {self.number_at(n, self.arrays[n], 'c')}" for n in names))

    @contextmanager
    def _strips(self, names: list[str]) -> Iterator[None]:
        """Write a loop over strips, which are loaded before anything is stored."""
        share = self.share
        self(f"start = {self.lane}")
        with self.block(f"while start < {self.count}:"):
            with self._strip("start"):
                self._load(names)
            before, self.strips = self.strips, set(names)
            yield
            self.strips = before
            self(f"start += {share.threads_per_row * share.strip}")

    @contextmanager
    def columns(self, roots: list[Node]) -> Iterator[None]:
        names = self.along_row(roots)
        if self.is_shared_walk:
            self("c = thread")
            with self.block("while c < columns:"):
                yield
                self(f"c += {self.share.threads}")
        elif self.share.kept and self.in_strips:
            with self._strip(self.lane):
                yield
        elif names:
            with self._strips(names), self._strip("start"):
                yield
        else:
            with self._each_column(self.count):
                yield

    @contextmanager
    def folded(self, walk: Walk, folds: list[Fold]) -> Iterator[None]:
        self(*(f"{fold.partial} = {fold.start}" for fold in folds))
        yield
        for fold in folds:
            assert isinstance(fold, _Fold)
            if self.is_shared_walk or self.share.threads_per_row > 1:
                self(fold.over("block" if self.is_shared_walk else "row"))
            else:
                self(f"{fold.name} = {fold.partial}")

    def shared_walk(self, walk: Walk) -> None:
        self.is_shared_walk = True
        self.walk(walk)
        self.is_shared_walk = False

    def row(self) -> None:
        walks = self.schedule.walks
        if len(walks) > 1 and not self.share.kept and is_softmax(*walks[:2]):
            self._softmax(*walks[:2])
            walks = walks[2:]
        self.rest_of_row(walks)

    def _softmax(self, largest: Walk, sums: Walk) -> None:
        """Write a single walk that finds the largest number and sums exponentials relative to it.

        The sums are relative to the largest number so far.
        """
        for walk in (largest, sums):
            self.per_row([self.assign(x) for x in walk.names], walk.names)
        folds: list[Any] = [*self.folds(largest), *self.folds(sums)]
        top, *totals = folds
        self(*(f"{fold.partial} = {fold.start}" for fold in (top, *totals)))
        names = self.along_row([*largest.roots, *sums.roots])
        with self._strips(names):
            self(f"before = {top.partial}")
            with self._strip("start"):
                self.body([], [top])
            self(f"origin = {top.partial} if {top.partial} > -inf else zero")
            self(*(f"{fold.partial} *= exp(before - origin)" for fold in totals))
            self.names[top.node] = "origin"
            with self._strip("start"):
                self.body([], totals)
        several = self.share.threads_per_row > 1
        self(top.over("row") if several else f"{top.name} = {top.partial}")
        self(f"origin = {top.name} if {top.name} > -inf else zero")
        for fold in totals:
            self(f"{fold.partial} *= exp({top.partial} - origin)")
            self(fold.over("row") if several else f"{fold.name} = {fold.partial}")
        self.names.update((fold.node, fold.name) for fold in (top, *totals))

    def store_at_label(self, name: str, label: Node, x: Node) -> None:
        # By the thread that has stored something else there.
        count = self.share.threads_per_row
        owner = [f"{self.lane} == {self.place(label)} % {count}"] if count > 1 else []
        with self.block(f"if {' and '.join(['is_usable', *owner])}:"):
            element = self.element(name, "element", self.place(label))
            self(self.stored(element, self.text(x)))

    def store_of_row(self, name: str, text: str) -> None:
        first = self._first()
        with self.block(f"if {' and '.join(first)}:") if first else nullcontext():
            text = f"{text} if is_usable else nothing" if self.labels else text
            self(self.stored(self.element(name, "per_row", "c"), text))

    def finish(self, value: Node) -> None:
        text = self.text(value)
        if self.spec.value == "each":
            self.store_of_row("values", text)
            return
        is_survey = self.spec.value == "weights"
        first = [*self._first(), *(["is_usable"] if is_survey and self.labels else [])]
        with self.block(f"if {' and '.join(first)}:") if first else nullcontext():
            nothing = " if is_usable else nothing" if self.labels and not is_survey else ""
            self(f"result += {text}{nothing}")


# About how many instructions an operation comes to, where it is more than one.
INSTRUCTIONS = {
    "exp": 8,
    "divide": 8,
    "log": 25,
    "expm1": 25,
    "tanh": 25,
    "log1p": 30,
    "power": 110,
}


def reach(spec: Spec) -> tuple[int, int]:
    """Say how much a kernel does along a row.

    Returns
    -------
    tuple of int
        Of how many operands it reads whole rows, at least 1 if it writes them, or else 0; and how
        many instructions there are for a column, about.
    """
    kind = Rows if spec.formula.rowwise else Elements
    writer = kind(spec, Share(1, 1, 1, False), "")
    every = [walk.roots for walk in writer.schedule.walks]
    roots = [x for own in every for x in own]
    costs = (
        sum(INSTRUCTIONS.get(x.op, 1) for x in ancestors(*own, along_rows=True)) for own in every
    )
    return max(len(writer.along_row(roots)), int(bool(roots or writer.outputs))), max(
        costs, default=1
    )


def is_softmax(first: Walk, second: Walk) -> bool:
    """Whether a walk finds the number that the next one subtracts before it sums exponentials."""
    if [x.op for x in first.reductions] != ["shift"] or first.stores or first.at_labels:
        return False
    (largest,) = first.reductions
    if second.stores or second.at_labels or largest in set(ancestors(*second.names)):
        return False
    return bool(second.reductions) and all(_is_relative(x, largest) for x in second.reductions)


def _is_relative(total: Node, largest: Node) -> bool:
    """Whether a sum is one of exponentials relative to a number, times other factors."""
    if total.op != "sum":
        return False
    relative, others = 0, []
    for factor in factors(total.args[0])[1]:
        x = factor.args[0] if factor.op == "exp" else None
        if x is not None and x.op == "subtract" and x.args[1] is largest:
            relative += 1
            others.append(x.args[0])
        else:
            others.append(factor)
    return relative == 1 and largest not in set(ancestors(*others))
