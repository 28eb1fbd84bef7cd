"""A page for each loss, made from its definition, its docstring and what was measured."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt

import nbloss
from nbloss.codegen.emit import ATOM, Writer
from nbloss.codegen.emit_scalar import Scalar
from nbloss.codegen.layout import WIDTH
from nbloss.formula import derive, expression
from nbloss.formula.expression import Node
from nbloss.formula.registry import LOSSES, Definition
from nbloss.formula.schedule import LEAVES, count_uses
from nbloss.formula.trace import Formula

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
    "pointwise": "The kernels, the gradients and the derivatives of higher order are derived from "
    "this formula, and no other code in nbloss computes this loss.",
    "classes": "The CPU's kernels, the gradients and the derivatives of higher order are derived "
    "from this. The formula says nothing of `ignore_index`: the kernel gives rows with that target "
    "the value 0 and the gradient 0. On CUDA a hand-written kernel computes the same loss.",
    "pairs": "This is the formula of one label and one other class, and its derivatives are "
    "derived from it. The loops over pairs are written by hand and call them. Where a row has many "
    "labels, the kernel sorts them instead, and uses `below_margin` alone.",
    "rows": "The distance is a formula of its own, here the Euclidean one, and `between` puts it "
    "into that of the loss. The CPU's kernels, the gradients and the derivatives of higher order "
    "are derived from the whole. On CUDA a hand-written kernel calls both formulas.",
}
WORK = {
    "pointwise": "One walk over the elements: time and memory traffic grow with their number.",
    "classes": "The kernel of `cross_entropy` walks over each row of classes three times, and the "
    "second and third time the row is in the cache. That of `nll_loss` reads one number a row, and "
    "clears the gradient.",
    "pairs": "With C classes and T labels a row takes C T steps, or (C + T) log T if that is less.",
    "rows": "Two walks over each row, the second in the cache: time grows with the number of "
    "coordinates.",
}
DERIVED = {
    "pointwise": "The derivative with respect to the first operand, as it is derived from the "
    "formula, without weights:",
    "classes": "The derivative with respect to `input`, as it is derived from the formula, without "
    "class weights and smoothing. `column` is the number of a class:",
    "pairs": "The derivative of a pair with respect to the score of the label, as it is derived "
    "from the formula:",
    "rows": "The derivative with respect to `anchor`, as it is derived from the formula and the "
    "Euclidean distance:",
}
COMPILED = {
    **dict.fromkeys(
        ("pointwise", "classes", "rows"),
        "These are sources that Numba compiles. They are emitted from the formula and its "
        "derivatives; [How a formula becomes a kernel]"
        "(../guides/how_a_formula_becomes_a_kernel.md) explains them.",
    ),
    "pairs": "These are the loops that Numba compiles; `loss` in them is the formula of a pair "
    "with its derivatives, and `hinge` is `below_margin`.",
}
# The arguments of nbloss.source whose kernels a page shows, as they are written, by pattern or by
# loss.
MEAN, ON_CUDA = "", ', device="cuda"'
KERNELS: dict[str, dict[str, str]] = {
    "pointwise": {
        MEAN: "a mean and its gradients, in float32",
        ON_CUDA: "the same on CUDA",
        ', reduction="none"': "the gradients of each value, times `grad_output`",
        ', dtype="float16", gradients=False': "a mean alone, in float16",
    },
    "classes": {
        MEAN: "a mean and its gradient, in float32",
        ON_CUDA: "the same on CUDA",
        ", shape=(8, 16, 32)": "scores of shape (N, C, d1), a tile of rows at a time",
    },
    "pairs": {
        MEAN: "the loops over pairs, and those over sorted labels",
        ON_CUDA: "the same on CUDA",
    },
    "rows": {MEAN: "a mean and its gradients, in float32", ON_CUDA: "the same on CUDA"},
    "cross_entropy": {
        ", label_smoothing=0.1": "with label smoothing",
    },
    "triplet_margin_loss": {
        ", p=1, swap=True": "with the sum of absolute differences as distance, and `swap`",
    },
    "triplet_margin_with_distance_loss": {
        ", distance_function=nbloss.distances.cosine": "with the cosine distance",
    },
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


class InFormulas(Scalar):
    """Writes a graph in the language of formulas, with composites and reductions whole."""

    def __init__(self, formula: Formula, titles: dict[Node, str]) -> None:
        arguments = {expression.operand(n, kind): n for n, kind in formula.operands.items()}
        arguments |= {expression.parameter(name): name for name in formula.parameters}
        super().__init__(arguments, {})
        self.titles = titles

    def text(self, x: Node, priority: int = 0) -> str:
        if x in self.names or x.op not in ("column", "width", "gather"):
            return super().text(x, priority)
        if x.op == "gather":
            return f"{self.text(x.args[0], ATOM)}[{self.text(x.args[1])}]"
        return x.op

    def place(self, x: Node) -> str:
        return x.op if x.op == "column" else Writer.place(self, x)

    def returning(self, name: str, arguments: list[str], result: Node) -> str:
        """Write a function that returns a result."""
        self(f"def {name}({', '.join(arguments)}):")
        self.indent = 1
        inside = expression.ancestors(result, known=self.names)
        uses = count_uses(inside, [result])
        for x in inside:
            if x is not result and x.op not in LEAVES and (uses[x] > 1 or x in self.titles):
                self(self.assign(x))
        text = f"return {self.text(result)}"
        if len(text) > WIDTH - 4:  # assignments are broken into lines
            self(f"result = {self.text(result)}")
            text = "return result"
        self(text)
        return "\n".join(self.lines)


def gradient(definition: Definition) -> str:
    """The derivative with respect to the first operand, of each formula, as Python."""
    formulas = definition.row_formulas or (definition.symbolic,)
    several = len(formulas) > 1
    written = []
    for formula in formulas:
        absent = {n: 1.0 for n in (*definition.optional, "weight") if n in formula.operands}
        graph = formula.graph(**absent)
        titles = dict(graph.names)
        first = next(iter(formula.operands))
        (slope,) = derive.slopes(graph, [expression.operand(first)], derive.ONE, titles)
        used = expression.ancestors(slope)
        operands = [
            n for n, kind in formula.operands.items() if {expression.operand(n, kind)} & {*used}
        ]
        parameters = sorted(str(x.data) for x in used if x.op == "parameter")
        text = InFormulas(formula, titles).returning(
            f"grad_{first}", [*operands, *parameters], slope
        )
        written.append(f"# {formula.name}\n{text}" if several else text)
    return "\n\n".join(written)


def kernels(definition: Definition) -> str:
    """The sources of some kernels, each under the call that gives it."""
    name = definition.name
    shown = {**KERNELS[definition.pattern], **KERNELS.get(name, {})}
    parts = []
    for arguments, words in shown.items():
        call = f"nbloss.source(nbloss.{name}{arguments})"
        parts.append(f""":::{{dropdown}} {words[0].upper()}{words[1:]}
This is `{call}`.

```{{code-block}} python
{eval(call, {"nbloss": nbloss}).rstrip()}
```
:::""")
    return "\n\n".join(parts)


def page(definition: Definition) -> str:
    """The page of a loss, in Markdown."""
    name = definition.name
    functions = [x.function for x in definition.row_formulas] or [definition.formula]
    if definition.of_distances is not None:
        distance = nbloss.distances.euclidean.formula.function
        functions = [distance, definition.of_distances.formula, *functions]
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

{DERIVED[definition.pattern]}

```{{code-block}} python
{gradient(definition)}
```

## Its kernels

{COMPILED[definition.pattern]}

{kernels(definition)}

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
