"""The report's figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from results import Results
from tables import name, size, times, typical
from workloads import GRID, GRID_ROWS, SIZES, TARGETS, TYPICAL, Workload

# Of the palette of Okabe and Ito, which the colour-blind tell apart.
COLOURS = {
    "eager": "#999999",
    "compile": "#E69F00",
    "nbloss": "#0072B2",
    "numpy": "#56B4E9",
    "copy": "#CC79A7",
}
NAMES = {
    "eager": "torch eager",
    "compile": "torch.compile",
    "nbloss": "nbloss",
    "numpy": "nbloss on NumPy arrays",
    "copy": "copying as many bytes",
}
STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "svg.fonttype": "none",  # text as text, a fifth of the size
    "svg.hashsalt": "nbloss",  # the same figure gives the same file
}


def growth(results: Results) -> Figure:
    """Time against size, a panel for each loss."""
    figure, axes = plt.subplots(
        2, 4, figsize=(12, 6), sharex=True, sharey=True, layout="constrained"
    )
    for ax, loss in zip(axes.flat, TYPICAL, strict=True):
        for who, colour in COLOURS.items():
            points = [
                (w.rows * w.columns, found * 1e3)
                for w in (typical(loss, shape) for shape in SIZES)
                if (found := results.time(w, who)) is not None
            ]
            if points:
                style = "--" if who == "copy" else "-"
                ax.loglog(
                    *zip(*points, strict=True), style, marker=".", color=colour, label=NAMES[who]
                )
        ax.set_title(loss, fontsize=9)
        ax.minorticks_off()
    for ax in axes[-1]:
        ax.set_xlabel("elements of the input")
    for ax in axes[:, 0]:
        ax.set_ylabel("forward + backward, ms")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def label(workload: Workload) -> str:
    return f"{name(workload).replace('`', '')}\n{size(workload.rows, workload.columns)}"


def speedups(results: Results) -> Figure:
    """Bars: how many times as fast as each of torch's two ways."""
    found = [one.workload for one in TARGETS if results.ratio(one.workload) is not None]
    found.sort(key=lambda w: results.ratio(w, ("eager",)) or 0.0)
    figure, ax = plt.subplots(figsize=(8, 0.5 * len(found) + 1.2), layout="constrained")
    for shift, who in ((0.2, "eager"), (-0.2, "compile")):
        for place, w in enumerate(found):
            ratio = results.ratio(w, (who,))
            if ratio is not None:
                ax.barh(
                    place + shift, ratio - 1.0, 0.38, left=1.0, color=COLOURS[who], label=NAMES[who]
                )
                ax.annotate(
                    times(ratio), (ratio, place + shift), (3, 0), textcoords="offset points",
                    va="center", fontsize=7,
                )  # fmt: skip
    ax.axvline(1.0, color="black", linewidth=0.8)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}×")
    ax.margins(y=0.01)
    ax.set_yticks(range(len(found)), [label(w) for w in found], fontsize=8)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("nbloss is so many times as fast, forward + backward")
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    ax.legend(handles.values(), [f"as {name}" for name in handles], loc="lower right")
    return figure


def many_labels(results: Results) -> Figure:
    """How multi-label margin grows with the number of labels, for some numbers of classes."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    widths = sorted({classes for classes, _ in GRID})
    for who in ("eager", "nbloss"):
        for style, classes in zip((":", "--", "-"), widths, strict=True):
            points = []
            for width, count in GRID:
                w = Workload("multilabel_margin_loss", f"{count}-targets", GRID_ROWS, width)
                found = results.time(w, who)
                if width == classes and found is not None:
                    points.append((count, found * 1e3))
            if points:
                text = f"{NAMES[who]}, {classes} classes"
                ax.loglog(
                    *zip(*points, strict=True), style, marker=".", color=COLOURS[who], label=text
                )
    ax.set_xlabel("labels in each row")
    ax.set_ylabel(f"multilabel_margin_loss of {GRID_ROWS} rows,\nforward + backward, ms")
    ax.legend(fontsize=8)
    return figure


FIGURES = {"growth": growth, "speedups": speedups, "many_labels": many_labels}


def draw(results: Results, folder: Path) -> None:
    with plt.rc_context(STYLE):
        for name, make in FIGURES.items():
            figure = make(results)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)
