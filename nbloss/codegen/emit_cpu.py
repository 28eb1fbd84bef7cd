"""Sources of kernels for the CPU: ``kernel(call, numbers, chunk)`` does a number of rows.

Rows that lie one behind the other are done one by one. Rows that lie side by side, as those of
scores of shape (N, C, d1, ...), are done a tile at a time: every loop along the row has a loop over
the tile in it, which goes along the memory, and a number of the row is an array with a place for
each row of the tile.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from nbloss.codegen.emit import Fold, Writer
from nbloss.codegen.spec import GRADIENT_FACTOR, Spec, identifier
from nbloss.formula.expression import CONDITIONS, ROW, Node, parameter
from nbloss.formula.schedule import Walk


def source(spec: Spec) -> str:
    """Write the kernel of a specification."""
    return (Tiles if spec.tiled else Rows)(spec).source()


class Rows(Writer):
    """Rows one by one; of a formula of an element, segments of rows."""

    def prelude(self) -> None:
        spec, formula = self.spec, self.spec.formula
        self(f"def {spec.name}(call, numbers, chunk):")
        self.indent = 1
        self(*self.title(), "wide_vectors()")
        self("rows, columns = call.rows, call.columns")
        if spec.tiled:
            self("spatial_size = call.spatial_size")
        used = self.used()
        for name in (GRADIENT_FACTOR, *formula.parameters):
            if parameter(name) in used:
                self(f"{identifier(name)} = {self.real}(numbers.{identifier(name)})")
        self.read = {n: kind for n, kind in self.arrays.items() if self.is_read(n, kind, used)}
        for name, kind in self.read.items():
            if kind == "per_column":
                self(f"{name} = pointer(call.{name}, stored)")
            elif kind != "index":
                self(f"all_{name} = pointer(call.{name}, stored)")
            if f"{name}_step" in spec.fields:
                self(f"{name}_step = call.{name}_step")
        outputs = (*self.outputs, *self.schedule.of_rows)
        self(*(f"all_{name} = pointer(call.{name}, stored)" for name in outputs))
        if spec.value == "each":
            self("all_values = pointer(call.values, stored)")
        if spec.value == "weights":
            self("result, first_bad = float64(0.0), -1")
        if spec.value == "sum":
            by_row = formula.rowwise
            self(
                "result = float64(0.0)" if by_row else "partials = pointer(call.partials, float64)"
            )

    @contextmanager
    def rows(self) -> Iterator[None]:
        with self._rows() if self.spec.formula.rowwise else self._segments():
            yield

    @contextmanager
    def _rows(self) -> Iterator[None]:
        self(
            "first = chunk * call.rows_per_chunk",
            "last = min(rows, first + call.rows_per_chunk)",
        )
        self._clear("first * columns", "last * columns")
        with self.block("for row in range(first, last):"):
            for name, kind in self.read.items():
                if kind in ("element", "per_row"):
                    self(f"{name} = offset(all_{name}, row * call.{name}_row_step)")
                elif kind == "index":
                    self(f"{name} = read_once(call.{name} + 8 * row)")
            self(*(f"{name} = offset(all_{name}, row * columns)" for name in self.outputs))
            self(*(f"{name} = offset(all_{name}, row)" for name in self.schedule.of_rows))
            if self.spec.value == "each":
                self("values = offset(all_values, row)")
            self._odd_labels()
            yield

    def _clear(self, first: str, last: str) -> None:
        """Write how memory of many rows is cleared in one go."""
        for name in self.schedule.cleared:
            self(f"clear(all_{name}, {first}, {last})")

    def _odd_labels(self) -> None:
        """Write what becomes of rows whose label is ignored, or names no column."""
        if not self.labels:
            return
        tests = [f"{label} < 0 or {label} >= columns" for label in self.labels]
        if self.spec.value == "weights":
            # The labels of the second operand are counted on from those of the first.
            for k, test in enumerate(tests):
                place = {0: "row", 1: "rows + row"}.get(k, f"{k} * rows + row")
                with self.block(f"if {test}:"):
                    self(f"first_bad = {place} if first_bad < 0 else first_bad", "continue")
            return
        test = " or ".join(tests)
        if self.spec.ignores:
            is_ignored = f"{self.labels[0]} == call.ignore_index"
            test = f"{is_ignored} or {test}"
        with self.block(f"if {test}:"):
            if self.spec.ignores:
                self("# The label is ignored; or it was changed after it was validated.")
                self(f"nothing = {self.real}(0.0) if {is_ignored} else nan")
            else:
                self("# The label was changed after it was validated.", "nothing = nan")
            if self.outputs:
                is_clear = self.spec.ignores and self.outputs == self.schedule.cleared
                heads = ["if nothing != 0.0:"] if is_clear else []
                with self.block(*heads, "for c in range(columns):"):
                    self(*(self.stored(f"{name}[c]", "nothing") for name in self.outputs))
            of_rows = [*self.schedule.of_rows, *(["values"] if self.spec.value == "each" else [])]
            self(*(self.stored(f"{name}[0]", "nothing") for name in of_rows))
            if self.spec.value == "sum":
                self("result += nothing")
            self("continue")

    @contextmanager
    def _segments(self) -> Iterator[None]:
        size = self.spec.segment
        self(
            "all_columns = columns",
            f"per_row = (all_columns + {size - 1}) // {size}",
            "first = chunk * call.rows_per_chunk",
        )
        self("last = min(rows * per_row, first + call.rows_per_chunk)")
        with self.block("for segment in range(first, last):"):
            self(
                "row = segment // per_row",
                f"start = (segment - row * per_row) * {size}",
                f"columns = min({size}, all_columns - start)",
            )
            for name, kind in self.read.items():
                along = {0: "", 1: " + start", -1: f" + start * {name}_step"}[self.spec.step(name)]
                if kind == "per_row":
                    along = ""
                self(f"{name} = offset(all_{name}, row * call.{name}_row_step{along})")
            outputs = [*self.outputs, *(["values"] if self.spec.value == "each" else [])]
            self(*(f"{n} = offset(all_{n}, row * all_columns + start)" for n in outputs))
            if not self.spec.steps:
                self("# Of the next segment: the processor itself brings memory page by page.")
                self(*(f"fetch({name}, columns)" for name in self.read))
            yield

    def is_segmented(self, walk: Walk) -> bool:
        """Whether a walk's partials are brought together in float64."""
        return self.spec.formula.rowwise and any(r.op == "sum" for r in walk.reductions)

    @contextmanager
    def folded(self, walk: Walk, folds: list[Fold]) -> Iterator[None]:
        start, of = [f"{x.partial} = {x.start}" for x in folds], walk.reductions
        self.range_of_columns = "range(columns)"
        if not self.is_segmented(walk):
            self.per_row(start, of)
            yield
            self.per_row([x.given(x.partial, self.real) for x in folds], of)
            return
        whole = [f"{x.whole} = {'float64(0.0)' if x.is_sum else x.start}" for x in folds]
        self.per_row(whole, of)
        size = self.spec.segment
        with self.block(f"for start in range(0, columns, {size}):"):
            self.range_of_columns = f"range(start, min(start + {size}, columns))"
            self.per_row(start, of)
            yield
            joined = [
                f"{x.whole} += {x.partial}"
                if x.is_sum
                else f"{x.whole} = {x.join}({x.whole}, {x.partial})"
                for x in folds
            ]
            self.per_row(joined, of)
        self.per_row([x.given(x.whole, self.real) for x in folds], of)

    @contextmanager
    def columns(self, roots: list[Node]) -> Iterator[None]:
        with self.block(f"for c in {self.range_of_columns}:"):
            yield

    def store_at_label(self, name: str, label: Node, x: Node) -> None:
        self(self.stored(self.element(name, "element", self.place(label)), self.text(x)))

    def store_of_row(self, name: str, text: str) -> None:
        self(self.stored(self.element(name, "per_row", "c"), text))

    def finish(self, value: Node) -> None:
        if self.spec.value == "each":
            self(self.stored("values[0]", self.text(value)))
        elif self.spec.value == "weights" or self.spec.formula.rowwise:
            self(f"result += {self.text(value)}")
        else:
            self(f"partials[segment] = {self.text(value)}")

    def ending(self) -> None:
        if self.spec.value == "weights":
            self("found = pointer(call.partials, float64)")
            self("found[2 * chunk] = result", "found[2 * chunk + 1] = first_bad")
        if self.spec.value == "sum" and self.spec.formula.rowwise:
            self("pointer(call.partials, float64)[chunk] = result")


class Tiles(Rows):
    """A tile of rows at a time, which lie side by side."""

    branches = False
    is_of_rows = True  # not of all rows together

    def prelude(self) -> None:
        super().prelude()
        self.tile_arrays: list[tuple[str, str]] = []
        self.before_arrays = len(self.lines)

    def of_row(self, x: Node) -> str:
        return "[j]" if self.varies_by_row(x) else ""

    def element(self, name: str, kind: str, column: str) -> str:
        if kind == "per_row":
            return f"{name}[j]"
        if kind == "per_column":
            return f"{name}[{column}]"
        step = "spatial_size" if name in self.results else f"{name}_step"
        return f"{name}[{column} * {step} + j]"

    def assign(self, x: Node, name: str | None = None) -> str:
        line = super().assign(x, name)
        if self.of_row(x):
            is_label = x.op == "operand" and x.data[1] == "index"
            dtype = "int8" if x.op in CONDITIONS else "int64" if is_label else self.real
            self.tile_arrays.append((self.names[x], dtype))
        return line

    def per_row(self, lines: list[str], of: list[Node]) -> None:
        if lines:
            tiled = any(ROW in x.varies for x in of)
            with self.block("for j in range(tile):") if tiled else nullcontext():
                self(*lines)

    @contextmanager
    def folded(self, walk: Walk, folds: list[Fold]) -> Iterator[None]:
        for x in folds:
            if x.mark:
                partial = self.real if x.is_sum else "ranks"
                whole = "float64" if x.is_sum else "ranks"
                self.tile_arrays += [(x.name, self.real), (f"{x.name}_partial", partial)]
                if self.is_segmented(walk):
                    self.tile_arrays.append((f"{x.name}_all", whole))
        with super().folded(walk, folds):
            yield

    @contextmanager
    def columns(self, roots: list[Node]) -> Iterator[None]:
        tile = ["for j in range(tile):"] if self.is_of_rows else []
        with super().columns(roots), self.block(*tile):
            yield

    def shared_walk(self, walk: Walk) -> None:
        self.is_of_rows = False
        self.walk(walk)
        self.is_of_rows = True

    @contextmanager
    def _rows(self) -> Iterator[None]:
        size = self.spec.tile
        self(
            f"tiles = (spatial_size + {size - 1}) // {size}",
            "first = chunk * call.rows_per_chunk",
            "last = min(rows * tiles, first + call.rows_per_chunk)",
        )
        if self.schedule.cleared:
            with self.block("if tiles == 1:"):
                self._clear("first * columns * spatial_size", "last * columns * spatial_size")
        with self.block("for number in range(first, last):"):
            self("sample = number // tiles", f"place = (number - sample * tiles) * {size}")
            self(f"tile = min({size}, spatial_size - place)")
            for name, kind in self.read.items():
                if kind in ("element", "per_row"):
                    self(f"{name} = offset(all_{name}, sample * call.{name}_row_step + place)")
            for name in self.outputs:
                self(f"{name} = offset(all_{name}, sample * columns * spatial_size + place)")
            for name in self.schedule.of_rows:
                self(f"{name} = offset(all_{name}, sample * spatial_size + place)")
            if self.spec.value == "each":
                self("values = offset(all_values, sample * spatial_size + place)")
            if self.schedule.cleared:
                with self.block(
                    "if tiles > 1:", "for c in range(columns):", "for j in range(tile):"
                ):
                    self(*(f"{n}[c * spatial_size + j] = 0" for n in self.schedule.cleared))
            self._odd_labels()
            yield
            self._spoil()
        arrays = [f"    {n} = stack({size}, {dtype})" for n, dtype in self.tile_arrays]
        self.lines[self.before_arrays : self.before_arrays] = arrays

    def _odd_labels(self) -> None:
        if not self.labels:
            return
        # Rows without a column are computed as if they had the first, and overwritten.
        self.tile_arrays += [(label, "int64") for label in self.labels]
        self.tile_arrays += [("is_odd", "int8"), ("nothing", self.real)]
        self("odd = 0")
        with self.block("for j in range(tile):"):
            for label in self.labels:
                address = f"call.{label} + 8 * (sample * spatial_size + place + j)"
                self(f"{label}[j] = read_once({address})")
            tests = [f"{label}[j] < 0 or {label}[j] >= columns" for label in self.labels]
            if self.spec.ignores:
                self("# The label is ignored; or it was changed after it was validated.")
                self(f"is_ignored = {self.labels[0]}[j] == call.ignore_index")
                self(f"is_odd[j] = {' or '.join(['is_ignored', *tests])}")
                self(f"nothing[j] = {self.real}(0.0) if is_ignored else nan")
            else:
                self("# A label that is odd was changed after it was validated.")
                self(f"is_odd[j] = {' or '.join(tests)}", "nothing[j] = nan")
            self(*(f"{label}[j] = 0 if is_odd[j] else {label}[j]" for label in self.labels))
            self("odd += is_odd[j]")

    def store_at_label(self, name: str, label: Node, x: Node) -> None:
        text = self.text(x)
        if name in self.schedule.cleared:
            # Of a row whose label is ignored, only this column would have to be cleared again.
            text = f"where(is_odd[j], nothing[j], {text})"
        with self.block("for j in range(tile):"):
            self(self.stored(self.element(name, "element", self.place(label)), text))

    def store_of_row(self, name: str, text: str) -> None:
        with self.block("for j in range(tile):"):
            super().store_of_row(name, text)

    def _spoil(self) -> None:
        """Write what becomes of the rows of the tile whose label is ignored, or names no column."""
        of_rows = [*self.schedule.of_rows, *(["values"] if self.spec.value == "each" else [])]
        if not self.labels or not (self.outputs or of_rows):
            return
        with self.block("if odd > 0:", "for j in range(tile):", "if is_odd[j]:"):
            self(*(self.stored(f"{name}[j]", "nothing[j]") for name in of_rows))
            if self.outputs:
                is_clear = self.spec.ignores and self.outputs == self.schedule.cleared
                heads = ["if nothing[j] != 0.0:"] if is_clear else []
                with self.block(*heads, "for c in range(columns):"):
                    for name in self.outputs:
                        self(self.stored(f"{name}[c * spatial_size + j]", "nothing[j]"))

    def finish(self, value: Node) -> None:
        text = self.text(value)
        if self.spec.value == "sum":
            if self.labels:
                text = f"where(is_odd[j], nothing[j], {text})"
            line = f"result = plus(result, float64({text}))"
        else:
            line = self.stored("values[j]", text)
        with self.block("for j in range(tile):"):
            self(line)
