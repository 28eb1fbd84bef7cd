"""A page for each loss, made from its definition, its docstring and what was measured."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt

import nbloss
from nbloss.engine.registry import LOSSES, Definition

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "benchmarks" / "cpu.json"
README = HERE.parent / "README.md"
GALLERY = HERE / "gallery"

# --- the curve of each loss -----------------------------------------------------------------------

Curve = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def both(loss: str, x: np.ndarray, *others: np.ndarray, **options: object) -> tuple:
    """Values and gradients by the first operand, for each row of arrays."""
    function = nbloss.value_and_grad(getattr(nbloss, loss))
    return function(x, *others, reduction="none", **options)


def scores(x: np.ndarray, rest: tuple[float, ...]) -> np.ndarray:
    """A score that varies, and others that don't, for each sample."""
    return np.column_stack([x, *(np.full_like(x, r) for r in rest)])


def first(result: tuple) -> tuple:
    """The gradient by the score that varies."""
    value, gradient = result
    return value, gradient[:, 0]


def nll(x: np.ndarray) -> tuple:
    return first(both("nll_loss", scores(x, (-1.0,)), np.zeros(len(x), np.int64)))


def cross_entropy(x: np.ndarray, others: int, smoothing: float) -> tuple:
    labels = np.zeros(len(x), np.int64)
    made = scores(x, (0.0,) * others)
    return first(both("cross_entropy", made, labels, label_smoothing=smoothing))


def multilabel_margin(x: np.ndarray, own: float) -> tuple:
    labels = np.tile([1, -1], (len(x), 1))
    return first(both("multilabel_margin_loss", scores(x, (own,)), labels))


def soft_margin(x: np.ndarray, present: float) -> tuple:
    return first(both("multilabel_soft_margin_loss", x[:, None], np.full((len(x), 1), present)))


def triplet(x: np.ndarray, loss: str, **options: object) -> tuple:
    """Along a line from the anchor at 0, with the positive example at 1."""
    anchor, positive = np.zeros((len(x), 1)), np.ones((len(x), 1))
    function = nbloss.value_and_grad(getattr(nbloss, loss), argnums=2)
    return first(function(anchor, positive, x[:, None], reduction="none", **options))


WITH_DISTANCE = "triplet_margin_with_distance_loss"
AT_ZERO = "input, with the target at 0"
CURVES: dict[str, tuple[str, tuple[float, float], dict[str, Curve]]] = {
    "nll_loss": ("log-probability of the target class", (-4, 0), {"weight 1": nll}),
    "cross_entropy": (
        "score of the target class, with the others at 0",
        (-4, 6),
        {
            "2 classes": lambda x: cross_entropy(x, 1, 0.0),
            "10 classes": lambda x: cross_entropy(x, 9, 0.0),
            "10 classes, smoothing 0.2": lambda x: cross_entropy(x, 9, 0.2),
        },
    ),
    "huber_loss": (
        AT_ZERO,
        (-3, 3),
        {
            f"delta = {delta:g}": lambda x, delta=delta: both(
                "huber_loss", x, np.zeros_like(x), delta=delta
            )
            for delta in (0.5, 1.0, 2.0)
        },
    ),
    "margin_ranking_loss": (
        "input1, with input2 at 0 and the target at 1",
        (-3, 3),
        {
            f"margin = {margin:g}": lambda x, margin=margin: both(
                "margin_ranking_loss", x, np.zeros_like(x), np.ones_like(x), margin=margin
            )
            for margin in (0.0, 1.0)
        },
    ),
    "multilabel_margin_loss": (
        "score of another class, of two",
        (-2, 3),
        {
            f"score of the label {own:g}": lambda x, own=own: multilabel_margin(x, own)
            for own in (0.0, 1.0)
        },
    ),
    "multilabel_soft_margin_loss": (
        "input",
        (-5, 5),
        {
            "the class is there": lambda x: soft_margin(x, 1.0),
            "it is not": lambda x: soft_margin(x, 0.0),
        },
    ),
    "triplet_margin_loss": (
        "negative example on a line, with the anchor at 0 and the positive example at 1",
        (-3.5, 3.5),
        {
            "": lambda x: triplet(x, "triplet_margin_loss"),
            "swap": lambda x: triplet(x, "triplet_margin_loss", swap=True),
        },
    ),
    WITH_DISTANCE: (
        "negative example on a line, with the anchor at 0 and the positive example at 1",
        (-3.5, 3.5),
        {
            name: lambda x, name=name: triplet(
                x, WITH_DISTANCE, distance_function=getattr(nbloss.distances, name)
            )
            for name in ("euclidean", "squared_euclidean")
        },
    ),
}


def default_curve(definition: Definition) -> tuple:
    """Vary the first operand, and leave the others at 0."""
    others = len(definition.operands) - 1

    def curve(x: np.ndarray) -> tuple:
        return both(definition.name, x, *(np.zeros_like(x),) * others)

    return definition.operands[0], (-3, 3), {"": curve}


def draw(definition: Definition, path: Path) -> None:
    """Draw the value and the gradient over an argument."""
    label, span, curves = CURVES.get(definition.name) or default_curve(definition)
    x = np.linspace(*span, 601)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True)
    for name, curve in curves.items():
        for axis, y in zip(axes, curve(x), strict=True):
            axis.plot(x, y, label=name or "plain")
    for axis, title in zip(axes, ("value", "gradient"), strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes[0].legend(fontsize=8, frameon=False)
    figure.supxlabel(label, fontsize=9)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


# --- words ----------------------------------------------------------------------------------------

# What a page says below the formula, by pattern or by loss.
MADE_OF = {
    "pointwise": "The kernels, the gradients and the derivatives of higher order are made from "
    "this formula, and no other code in nbloss computes this loss.",
    "classes": "Gradients and derivatives of higher order, and the kernels for the CPU, are made "
    "from these formulas. Class weights and `label_smoothing` are in them. Targets of "
    "`ignore_index` are passed over around them. On CUDA a template computes the same.",
    "pairs": "This is the formula of one label and one other class; the derivatives are made from "
    "it. The kernel goes through the pairs of a row. Where a row has many labels, it puts them in "
    "order instead, and uses `below_margin` alone.",
    "rows": "The distance is another formula, which is put into this one: see "
    "`nbloss/losses/distances.py`. Kernels, gradients and derivatives of higher order are made "
    "from the whole.",
}
WORK = {
    "pointwise": "One pass over the elements: time and memory traffic grow with their number.",
    "classes": "Two passes over each row of classes, the second in the cache; of `nll_loss` one "
    "number a row, and the gradient's zeros.",
    "pairs": "With C classes and T labels a row takes C T steps, or (C + T) log T if that is less.",
    "rows": "Two passes over each row, the second in the cache: time grows with the number of "
    "coordinates.",
}
OPERANDS = {
    "nll_loss": ("[[-0.1, -2.4], [-1.6, -0.2]]", "[0, 1]"),
    "cross_entropy": ("[[2.0, 0.0], [0.5, 1.0]]", "[0, 1]"),
    "huber_loss": ("[0.0, 3.0]", "[0.5, 0.0]"),
    "margin_ranking_loss": ("[0.3, 0.9]", "[0.5, 0.1]", "[1.0, 1.0]"),
    "multilabel_margin_loss": ("[[0.1, 0.2, 0.4, 0.8]]", "[[3, 0, -1, 1]]"),
    "multilabel_soft_margin_loss": ("[[0.1, -2.0, 1.5]]", "[[1.0, 0.0, 1.0]]"),
    "triplet_margin_loss": ("[[0.0, 0.0]]", "[[0.0, 1.0]]", "[[1.5, 0.0]]"),
}
OPERANDS[WITH_DISTANCE] = OPERANDS["triplet_margin_loss"]


def in_torch(definition: Definition) -> bool:
    return hasattr(torch.nn, definition.module)


def samples(definition: Definition) -> str:
    """The ways to call a loss: with torch's module if there is one, with ours, on arrays."""
    others = len(definition.operands) - 1
    given = OPERANDS.get(definition.name, ("[0.0, 3.0]", *("[0.5, 0.0]",) * others))
    operands = list(inspect.signature(getattr(nbloss, definition.name)).parameters)
    names = operands[: len(given)]
    tensors = "\n".join(f"{n} = torch.tensor({x})" for n, x in zip(names, given, strict=True))
    arrays = "\n".join(f"{n} = np.array({x})" for n, x in zip(names, given, strict=True))
    arguments = ", ".join(names)

    def module_of(library: str) -> str:
        return f"""```python
import torch
from {library} import nn

{tensors}
{names[0]}.requires_grad_()
criterion = nn.{definition.module}()
loss = criterion({arguments})
loss.backward()
```"""

    modules = f"As a module:\n\n{module_of('nbloss')}"
    if in_torch(definition):
        modules = f"""With torch's module, and with ours:

::::{{grid}} 1 1 2 2
:gutter: 3

:::{{grid-item}}
{module_of("torch")}
:::

:::{{grid-item}}
{module_of("nbloss")}
:::
::::"""
    return f"""{modules}

On arrays, without torch:

```python
import numpy as np
import nbloss

{arrays}
loss = nbloss.value_and_grad(nbloss.{definition.name})
value, gradient = loss({arguments})
```"""


def differences(definition: Definition) -> str:
    """The rows of README's table of differences that are about a loss."""
    if not in_torch(definition):
        return "torch has no such loss."
    name = definition.name
    table = README.read_text().split("### Where nbloss differs from torch", 1)[1].split("###")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    found = [row for row in rows[2:] if f"`{name}`" in row]
    if name in ("nll_loss", "cross_entropy"):
        found += [row for row in rows[2:] if row.startswith("| integer class targets")]
    if name in ("nll_loss", "cross_entropy", "multilabel_margin_loss"):
        found += [row for row in rows[2:] if row.startswith("| targets out of range")]
    if not found:
        return "Nowhere that is known of."
    return "\n".join([*rows[:2], *found])


def measured(name: str) -> str:
    """What was measured on 1000 × 1000 float32, forward and backward."""
    from results import load
    from tables import time, times, typical
    from workloads import MEDIUM, TYPICAL

    if name not in TYPICAL:
        return "Not measured yet."
    results = load(MEASURED)
    workload = typical(name, MEDIUM)
    parts = {who: results.time(workload, who) for who in ("eager", "compile", "nbloss")}
    return (
        f"1000 × 1000, float32, forward and backward: torch eager {time(parts['eager'])}, "
        f"torch.compile {time(parts['compile'])}, nbloss {time(parts['nbloss'])}: "
        f"**{times(results.ratio(workload))}** as fast as the better of the two. "
        "[All sizes and types](../benchmarks/cpu.md)."
    )


def at_work(definition: Definition) -> str:
    """The pages of the gallery that use a loss."""
    name, module = definition.name, definition.module
    texts = {path.stem: path.read_text() for path in GALLERY.glob("plot_*.py")}
    if not any(f"nbloss.{name}" in text or module in text for text in texts.values()):
        return "No page of the gallery uses it yet."
    lesson = ""
    if module in texts["plot_seven_losses"]:
        lesson = "[Seven losses, trained twice](../auto_examples/plot_seven_losses) trains with it."
    return f"""{lesson}

```{{eval-rst}}
.. minigallery:: nbloss.{name} nbloss.nn.{module}
```"""


def gradient(definition: Definition) -> str:
    """The derivative with respect to the first operand, as an expression."""
    from nbloss.formula import derive, expression

    formula = (*definition.row_formulas, definition.symbolic)[0]
    absent = {n: 1.0 for n in (*definition.optional, "weight") if n in formula.operands}
    graph = formula.graph(**absent)
    first = next(iter(formula.operands))
    (slope,) = derive.slopes(graph, [expression.operand(first)], derive.ONE)
    return "\n".join(textwrap.wrap(repr(slope), 100))


def page(definition: Definition) -> str:
    """The page of a loss, in Markdown."""
    name = definition.name
    functions = [x.function for x in definition.row_formulas] or [definition.formula]
    source = "\n\n".join(inspect.getsource(function).rstrip() for function in functions)
    constructor = "with torch's constructor"
    if not in_torch(definition):
        constructor = "whose constructor takes the parameters of the formula and `reduction`"
    return f"""# {name}

```{{eval-rst}}
.. autofunction:: nbloss.{name}
```

## Value and gradient

![Value and gradient of {name}]({name}.svg)

## The definition

```{{code-block}} python
{source}
```

{MADE_OF[definition.pattern]}

As a module it is `nbloss.nn.{definition.module}`, {constructor}.

## Its gradient

The derivative with respect to `{definition.differentiable[0]}`, as the compiler makes it:

```{{code-block}} text
{gradient(definition)}
```

## Its kernel

This is the source that Numba compiles for float32, a mean and its gradients; `nbloss.source` gives
those of other calls.

:::{{dropdown}} The kernel
```{{code-block}} python
{nbloss.source(getattr(nbloss, name)).rstrip()}
```
:::

## Calling it

{samples(definition)}

## Where it differs from torch

{differences(definition)}

## What it costs

{WORK[definition.pattern]}

{measured(name)}

## At work

{at_work(definition)}
"""


def write(folder: Path) -> None:
    """Write all pages, and the list of them."""
    folder.mkdir(exist_ok=True)
    lines = []
    for name, definition in LOSSES.items():
        draw(definition, folder / f"{name}.svg")
        _replace(folder / f"{name}.md", page(definition))
        summary = (inspect.getdoc(getattr(nbloss, name)) or "").split("\n", 1)[0]
        lines.append(f"| [`{name}`]({name}.md) | `{definition.module}` | {summary} |")
    listing = "\n".join(LOSSES)
    index = "\n".join(["| function | module | |", "|---|---|---|", *lines])
    _replace(
        folder / "index.md",
        f"# The losses\n\n{index}\n\n```{{toctree}}\n:hidden:\n\n{listing}\n```\n",
    )


def _replace(path: Path, text: str) -> None:
    """Write a page if it has changed, so that Sphinx reads again what it has to."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
