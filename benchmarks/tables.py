"""The report's tables, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from results import Results
from workloads import (
    BETWEEN,
    DTYPES,
    LARGE,
    MEDIUM,
    SIZES,
    SPATIAL,
    TARGETS,
    TINY,
    TINY_TARGETS,
    TYPICAL,
    Workload,
    spatial_size,
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is words and whose others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def time(seconds: float | None) -> str:
    """Seconds in a unit that fits, to three digits."""
    if seconds is None:
        return "–"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{three(seconds / size)} {unit}"
    raise AssertionError


def three(x: float) -> str:
    """A number to three digits, without an exponent."""
    digits = max(0, 2 - len(str(int(abs(x)))) + 1) if abs(x) >= 1 else 2
    return f"{x:.{digits}f}"


def times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{two(ratio)}×"


def two(x: float) -> str:
    return f"{x:.2f}" if x < 3 else f"{x:.1f}" if x < 30 else f"{x:.0f}"


def size(rows: int, columns: int) -> str:
    return f"{rows} × {columns}"


def typical(loss: str, shape: tuple[int, int], **more: object) -> Workload:
    return Workload(loss, TYPICAL[loss], *shape, **more)  # type: ignore[arg-type]


def name(workload: Workload) -> str:
    """A loss, and what is special about the case."""
    return ", ".join((f"`{workload.loss}`", *SPECIAL.get(workload.case, (words(workload.case),))))


def words(case: str) -> str:
    """A case's name for readers: `10-targets` are labels of a row."""
    return case.replace("-targets", " labels").replace("-", " ")


# Cases whose name says nothing, or not enough.
SPECIAL: dict[str, tuple[str, ...]] = {
    "plain": (),
    "2d": (),
    "default": (),
    "3d": ("3 dimensions",),
    "p-1-swap": ("p = 1", "swap"),
    "few-targets": ("3 labels",),
}


def machine(results: Results) -> str:
    m = results.machine
    return (
        f"{m['processor']}, {m['cores']} cores, {m['threads']} threads ({m['threading layer']}), "
        f"{m['system']}; Python {m['python']}, torch {m['torch']}, Numba {m['numba']}, "
        f"NumPy {m['numpy']}, nbloss {m['nbloss']} at {m['commit']}; {m['date']}."
    )


def targets(results: Results) -> str:
    rows = []
    for one in TARGETS:
        w = one.workload
        ratio = results.ratio(w)
        asked, met = f"{one.ratio:g}×", ratio is not None and ratio >= one.ratio
        to_eager = results.ratio(w, ("eager",))
        if one.eager is not None:
            asked += f", {one.eager:g}× to eager"
            met = met and to_eager is not None and to_eager >= one.eager
        rows.append(
            [
                name(w),
                size(w.rows, w.columns),
                *(time(results.time(w, who)) for who in ("eager", "compile", "nbloss")),
                times(to_eager),
                f"**{times(ratio)}**",
                asked,
                "yes" if met else "no",
            ]
        )
    head = ["loss", "size", "eager", "compile", "nbloss", "to eager", "to the best", "aim", "met"]
    return table(head, rows)


def tiny(results: Results) -> str:
    rows = []
    for loss, aim in TINY_TARGETS.items():
        w = typical(loss, TINY)
        ratio = results.ratio(w, ("eager",))
        rows.append(
            [
                name(w),
                *(time(results.time(w, who)) for who in ("eager", "compile", "nbloss", "numpy")),
                f"**{times(ratio)}**",
                f"{aim:g}×",
                "yes" if ratio is not None and ratio >= aim else "no",
            ]
        )
    head = ["loss", "eager", "compile", "nbloss", "nbloss on arrays", "to eager", "aim", "met"]
    return table(head, rows)


def between(results: Results) -> str:
    """The ratio at every size, and the lowest of them."""
    rows, found = [], []
    for loss in TYPICAL:
        ratios = [results.ratio(typical(loss, shape)) for shape in SIZES]
        found += [(r, loss, s) for r, s in zip(ratios, SIZES, strict=True) if r and s != TINY]
        rows.append([f"`{loss}`", *map(times, ratios)])
    low, loss, shape = min(found)
    verdict = (
        f"The lowest between the smallest and the largest is {times(low)} (`{loss}`, "
        f"{size(*shape)}); the aim is {BETWEEN}×."
    )
    return table(["loss", *(size(*shape) for shape in SIZES)], rows) + f"\n\n{verdict}"


def spatial(results: Results) -> str:
    """Inputs of shape (N, C, d1, d2), as far as they were measured."""
    rows = []
    for w in SPATIAL:
        if w not in results.seconds:
            continue
        ignored = ", every other target ignored" if w.case.endswith("-ignored") else ""
        rows.append(
            [
                f"`{w.loss}`{ignored}",
                " × ".join(map(str, (w.rows, w.columns, *spatial_size(w.case)))),
                *(time(results.time(w, who)) for who in ("eager", "compile", "nbloss")),
                times(results.ratio(w, ("eager",))),
                f"**{times(results.ratio(w))}**",
            ]
        )
    if not rows:
        return "This run has none of them."
    return table(["loss", "shape", "eager", "compile", "nbloss", "to eager", "to the best"], rows)


def passes(results: Results) -> str:
    rows = []
    for loss in TYPICAL:
        for part in ("forward", "backward", "both"):
            w = typical(loss, MEDIUM, part=part)
            rows.append(
                [
                    f"`{loss}`, {part}",
                    *(
                        time(results.time(w, who))
                        for who in ("eager", "compile", "nbloss", "numpy")
                    ),
                    times(results.ratio(w)),
                ]
            )
    return table(["loss", "eager", "compile", "nbloss", "nbloss on arrays", "to the best"], rows)


def dtypes(results: Results) -> str:
    rows = []
    for loss in TYPICAL:
        cells = []
        for dtype in ("float32", *DTYPES):
            w = typical(loss, MEDIUM, dtype=dtype)
            cells.append(f"{time(results.time(w, 'nbloss'))} ({times(results.ratio(w))})")
        rows.append([f"`{loss}`", *cells])
    return table(["loss", "float32", *DTYPES], rows)


def threads(results: Results) -> str:
    rows = []
    for loss in TYPICAL:
        one, two = typical(loss, MEDIUM, threads=1), typical(loss, MEDIUM)
        alone, together = results.time(one, "nbloss"), results.time(two, "nbloss")
        gain = alone / together if alone and together else None
        rows.append(
            [
                f"`{loss}`",
                *(time(results.time(one, who)) for who in ("eager", "compile", "nbloss")),
                times(results.ratio(one)),
                time(together),
                times(gain),
            ]
        )
    head = ["loss", "eager", "compile", "nbloss", "to the best", "nbloss, 2 threads", "gain"]
    return table(head, rows)


def floors(results: Results) -> str:
    rows = []
    for loss in TYPICAL:
        w = typical(loss, LARGE)
        part = results.of_floor(w)
        mine = results.time(w, "nbloss")
        speed = "–" if mine is None else f"{results.moved[w] / mine / 1e9:.1f} GB/s"
        copy = time(results.time(w, "copy"))
        rows.append([f"`{loss}`", time(mine), copy, speed, "–" if part is None else f"{part:.0%}"])
    return table(["loss", "nbloss", "a copy", "nbloss moves", "of the copy's speed"], rows)


def first_calls(results: Results) -> str:
    found = {(row["loss"], row["contender"]): row for row in results.first_calls}
    rows = []
    for loss in TYPICAL:
        cells = []
        for who in ("nbloss", "compile"):
            row = found.get((loss, who), {})
            cells += [time(row.get("cold")), time(row.get("cached"))]
        rows.append([f"`{loss}`", *cells])
    head = ["loss", "nbloss", "nbloss, cached", "torch.compile", "torch.compile, cached"]
    return table(head, rows)


def memory(results: Results) -> str:
    found = {(row["loss"], row["contender"]): row for row in results.memory}
    rows = []
    for loss in TYPICAL:
        cells = []
        for what in ("allocated", "resident"):
            for who in ("eager", "compile", "nbloss"):
                row = found.get((loss, who))
                got = None if row is None else row[what]
                cells.append("–" if got is None else f"{got / 1e6:.0f} MB")
        rows.append([f"`{loss}`", *cells])
    head = [
        "loss",
        *(
            f"{w}, {who}"
            for w in ("allocated", "resident")
            for who in ("eager", "compile", "nbloss")
        ),
    ]
    return table(head, rows)


def held(results: Results) -> str:
    found = {(row["loss"], row["contender"], row["checkpoint"]): row for row in results.held}
    rows = []
    for loss in TYPICAL:
        got = [
            found.get((loss, who, checkpointed))
            for checkpointed in (False, True)
            for who in ("eager", "nbloss")
        ]
        cells = ["–" if row is None else f"{row['held'] / 1e6:.0f} MB" for row in got]
        rows.append([f"`{loss}`", *cells])
    head = ["loss", "eager", "nbloss", "eager, checkpoint", "nbloss, checkpoint"]
    return table(head, rows)


def headline(results: Results) -> str:
    """What the README says."""
    rows = []
    for w in (one.workload for one in TARGETS if one.headline):
        rows.append(
            [
                name(w),
                size(w.rows, w.columns),
                *(time(results.time(w, who)) for who in ("eager", "compile", "nbloss")),
                f"**{times(results.ratio(w))}**",
            ]
        )
    head = ["loss", "size", "torch eager", "torch.compile", "nbloss", "times as fast"]
    return table(head, rows)


TABLES = {
    "machine": machine,
    "targets": targets,
    "tiny": tiny,
    "between": between,
    "spatial": spatial,
    "passes": passes,
    "dtypes": dtypes,
    "threads": threads,
    "floors": floors,
    "first-calls": first_calls,
    "memory": memory,
    "held": held,
}
