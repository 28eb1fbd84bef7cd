"""The registry of cases: what every loss is tested and timed on.

A new pointwise loss needs one row in ``CASES``, with its formula written once more, in NumPy::

    Case("log_cosh_loss", oracle=lambda input, target: np.log(np.cosh(input - target))),

Everything else has a default: two operands ``input`` and ``target`` of rows × columns, no options,
gradients of every real operand, and torch's class name made from the loss's (``LogCoshLoss``).

``KINKS`` holds tiny inputs that sit exactly on a kink or a special value, with the loss and the
gradients worked out by hand. All their numbers but ``eps`` are exact in every floating-point type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

import oracles
from versions import AT_KINK as K

Operands = dict[str, NDArray[Any]]
Sampler = Callable[[Generator, int, int], NDArray[Any]]
Builder = Callable[[Generator, int, int], Operands]

SIZES: dict[str, tuple[int, int]] = {
    "empty": (0, 7),
    "single": (1, 1),
    "tiny": (3, 4),
    "small": (5, 7),
    "medium": (37, 65),
    "large": (1024, 1000),
}

# torch's own capitals, where they don't follow from the name of the loss.
MODULES = {
    "nll_loss": "NLLLoss",
    "cross_entropy": "CrossEntropyLoss",
    "multilabel_margin_loss": "MultiLabelMarginLoss",
    "multilabel_soft_margin_loss": "MultiLabelSoftMarginLoss",
}

# Samplers: a string stands for a shape, N for the rows, C for the columns, digits for themselves.


def shaped(shape: str, rows: int, columns: int) -> tuple[int, ...]:
    return tuple({"N": rows, "C": columns}[s] if s in "NC" else int(s) for s in shape)


def class_axis(values: NDArray[Any]) -> int:
    return 0 if values.ndim == 1 else 1


def normal(shape: str, scale: float = 1.0) -> Sampler:
    return lambda rng, rows, columns: rng.normal(scale=scale, size=shaped(shape, rows, columns))


def uniform(shape: str, low: float = 0.0, high: float = 1.0) -> Sampler:
    return lambda rng, rows, columns: rng.uniform(low, high, size=shaped(shape, rows, columns))


def positive(shape: str) -> Sampler:
    return uniform(shape, 0.25, 2.0)


def binary(shape: str) -> Sampler:
    return lambda rng, rows, columns: rng.integers(0, 2, size=shaped(shape, rows, columns)).astype(
        np.float64
    )


def signs(shape: str) -> Sampler:
    return lambda rng, rows, columns: 2 * binary(shape)(rng, rows, columns) - 1


def probabilities(shape: str) -> Sampler:
    def sample(rng: Generator, rows: int, columns: int) -> NDArray[Any]:
        odds = np.exp(normal(shape)(rng, rows, columns))
        return odds / odds.sum(axis=class_axis(odds), keepdims=True)

    return sample


def log_probabilities(shape: str) -> Sampler:
    return lambda rng, rows, columns: np.log(probabilities(shape)(rng, rows, columns))


def classes(shape: str, ignore: int | None = None) -> Sampler:
    """Class indices; with ``ignore`` every other one, from the second on, is that number."""

    def sample(rng: Generator, rows: int, columns: int) -> NDArray[Any]:
        labels = rng.integers(0, columns, size=shaped(shape, rows, columns))
        if ignore is not None:
            labels.reshape(-1)[1::2] = ignore
        return labels

    return sample


def label_sets(shape: str, count: Callable[[Generator, int], int]) -> Sampler:
    """Rows of distinct labels ended by -1; what follows the -1 is valid, and to be ignored."""

    def sample(rng: Generator, rows: int, columns: int) -> NDArray[Any]:
        labels = rng.integers(-1, columns, size=shaped(shape, rows, columns))
        for row in labels.reshape(-1, columns):
            used = min(count(rng, columns), columns)
            row[:used] = rng.permutation(columns)[:used]
            row[used : used + 1] = -1
        return labels

    return sample


def repeated_labels(shape: str) -> Sampler:
    """Rows full of labels of which many occur more than once."""
    return lambda rng, rows, columns: rng.integers(
        0, (columns + 1) // 2, size=shaped(shape, rows, columns)
    )


def operands(**samplers: str | Sampler) -> Builder:
    """A builder of named operands, in order; a bare shape means normally distributed numbers."""

    def build(rng: Generator, rows: int, columns: int) -> Operands:
        return {
            name: (normal(how) if isinstance(how, str) else how)(rng, rows, columns)
            for name, how in samplers.items()
        }

    return build


@dataclass(frozen=True)
class Case:
    """One way to call one loss.

    Parameters
    ----------
    loss : str
        Name of the function.
    name : str
        What is special about the case; ``id`` joins both.
    build : callable
        ``build(rng, rows, columns)`` gives the operands by name, in the order of their positions:
        float64 arrays, and int64 for labels. See `operands`.
    kwargs : mapping
        The options, without the reduction. A ``distance_function`` is a name, for `options` to
        look up.
    differentiable : tuple of str
        The operands that have a gradient; all the real ones by default.
    module : str or None
        The class in ``torch.nn``; None if no class takes these options.
    module_kwargs : mapping
        The constructor's options; those of the function by default.
    oracle : callable or None
        ``oracle(*operands, **kwargs)`` gives the unreduced loss in NumPy; by default the function
        of the loss's name in `oracles`, with analytic gradients.
    """

    loss: str
    name: str = "plain"
    build: Builder = operands(input="NC", target="NC")  # noqa: RUF009
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    differentiable: tuple[str, ...] = ()
    module: str | None = ""
    module_kwargs: Mapping[str, Any] | None = None
    oracle: Callable[..., ArrayLike] | None = None

    def __post_init__(self) -> None:
        sample = self.build(np.random.default_rng(0), *SIZES["single"])
        real = tuple(name for name, value in sample.items() if value.dtype.kind == "f")
        words = self.loss.split("_")
        module = MODULES.get(self.loss, "".join(word[0].upper() + word[1:] for word in words))
        object.__setattr__(self, "differentiable", self.differentiable or real)
        object.__setattr__(self, "module", module if self.module == "" else self.module)
        if self.module_kwargs is None:
            object.__setattr__(self, "module_kwargs", self.kwargs)

    @property
    def id(self) -> str:
        return f"{self.loss}-{self.name}"

    @property
    def exact(self) -> bool:
        """Whether the gradients are analytic; central differences are good to 8 digits or so."""
        return self.oracle is None

    def make(
        self,
        rng: Generator | int = 0,
        size: str | tuple[int, int] = "small",
        step: float | None = None,
    ) -> Operands:
        """Operands of a size in ``SIZES`` or of (rows, columns).

        With ``step`` they are rounded to multiples of it. A power of two makes arithmetic exact
        and has many elements sit on a kink; without it next to none does.
        """
        rows, columns = SIZES[size] if isinstance(size, str) else size
        made = self.build(np.random.default_rng(rng), rows, columns)
        for name, value in made.items():
            if step is not None and value.dtype.kind == "f":
                made[name] = np.round(value / step) * step
        return made

    def options(self, distances: Any = None) -> dict[str, Any]:
        """The options of a call; a named distance becomes the attribute of ``distances``."""
        chosen = dict(self.kwargs)
        if isinstance(name := chosen.get("distance_function"), str) and distances is not None:
            chosen["distance_function"] = getattr(distances, name)
        return chosen

    def module_options(self, made: Mapping[str, Any], distances: Any = None) -> dict[str, Any]:
        """What the class is constructed with: the options, and the weight if there is one."""
        chosen = {**(self.module_kwargs or {}), **split(made)[1]}
        if isinstance(name := chosen.get("distance_function"), str) and distances is not None:
            chosen["distance_function"] = getattr(distances, name)
        return chosen

    def value(self, made: Mapping[str, Any], reduction: str = "mean") -> NDArray[np.float64]:
        """The oracle's loss."""
        options = {**self.kwargs, "reduction": reduction}
        return oracles.value(self.oracle or self.loss, made, options)

    def gradients(
        self, made: Mapping[str, Any], reduction: str = "mean", grad_output: ArrayLike | None = None
    ) -> dict[str, NDArray[np.float64]]:
        """The oracle's gradients of all that is differentiable, by name."""
        options = {**self.kwargs, "reduction": reduction}
        loss = self.oracle or self.loss
        return oracles.gradients(loss, made, options, self.differentiable, grad_output)


def split(made: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Operands as a call takes them: by position, but the weight by keyword."""
    by_position = tuple(value for name, value in made.items() if name != "weight")
    return by_position, {name: value for name, value in made.items() if name == "weight"}


def by_loss(loss: str) -> list[Case]:
    return [case for case in CASES if case.loss == loss]


scores_1d = operands(input="C", target=classes(""))
scores_2d = operands(input="NC", target=classes("N"))
soft_classes = operands(input="NC", target=probabilities("NC"))
rows_1d = operands(anchor="C", positive="C", negative="C")
rows_2d = operands(anchor="NC", positive="NC", negative="NC")
rows_3d = operands(anchor="2NC", positive="2NC", negative="2NC")
one_anchor = operands(anchor="1C", positive="NC", negative="NC")
INPUT = ("input",)


def margin_targets(count: Callable[[Generator, int], int]) -> Builder:
    return operands(input="NC", target=label_sets("NC", count))


def soft_margin(name: str, target: Sampler, **others: str | Sampler) -> Case:
    return Case("multilabel_soft_margin_loss", name, operands(input="NC", target=target, **others))


def ranking(name: str, shape: str = "NC", **options: float) -> Case:
    build = operands(input1=shape, input2=shape, target=signs(shape))
    return Case("margin_ranking_loss", name, build, options)


def triplet(name: str, build: Builder = rows_2d, **options: Any) -> Case:
    return Case("triplet_margin_loss", name, build, options)


def by_distance(
    distance: str | None, name: str = "", build: Builder = rows_2d, **options: Any
) -> Case:
    chosen = {"distance_function": distance, **options} if distance else options
    name = "-".join(part for part in (distance or "default", name) if part)
    return Case("triplet_margin_with_distance_loss", name, build, chosen)


CASES: list[Case] = [
    Case("nll_loss", "1d", operands(input=log_probabilities("C"), target=classes(""))),
    Case("nll_loss", "2d", operands(input=log_probabilities("NC"), target=classes("N"))),
    Case("nll_loss", "3d", operands(input=log_probabilities("NC3"), target=classes("N3"))),
    Case(
        "nll_loss",
        "4d-weight-ignored",
        operands(
            input=log_probabilities("NC23"), target=classes("N23", -100), weight=positive("C")
        ),
        differentiable=INPUT,
    ),
    Case(
        "nll_loss",
        "weight",
        operands(input=log_probabilities("NC"), target=classes("N"), weight=positive("C")),
        differentiable=INPUT,
    ),
    Case(
        "nll_loss",
        "ignore_index",
        operands(input=log_probabilities("NC"), target=classes("N", 0)),
        {"ignore_index": 0},
    ),
    Case("cross_entropy", "1d", scores_1d),
    Case("cross_entropy", "2d", scores_2d),
    Case("cross_entropy", "3d", operands(input="NC3", target=classes("N3"))),
    Case(
        "cross_entropy",
        "weight-ignored",
        operands(input="NC", target=classes("N", -1), weight=positive("C")),
        {"ignore_index": -1},
        differentiable=INPUT,
    ),
    Case("cross_entropy", "smoothing", scores_2d, {"label_smoothing": 0.125}),
    Case(
        "cross_entropy",
        "4d-smoothing-weight-ignored",
        operands(input="NC23", target=classes("N23", -100), weight=positive("C")),
        {"label_smoothing": 0.25},
        differentiable=INPUT,
    ),
    Case("cross_entropy", "probabilities", soft_classes),
    Case(
        "cross_entropy",
        "probabilities-1d",
        operands(input="C", target=probabilities("C")),
        {"label_smoothing": 0.5},
    ),
    Case(
        "cross_entropy",
        "probabilities-3d-smoothing-weight",
        operands(input="NC2", target=probabilities("NC2"), weight=positive("C")),
        {"label_smoothing": 0.125},
        differentiable=("input", "target"),
    ),
    Case("huber_loss"),
    Case("huber_loss", "small-delta", kwargs={"delta": 0.25}),
    Case("huber_loss", "large-delta-3d", operands(input="2NC", target="2NC"), {"delta": 2.5}),
    Case("huber_loss", "broadcast-target", operands(input="NC", target="1C")),
    Case("huber_loss", "broadcast-both", operands(input="N1", target="C"), {"delta": 0.5}),
    Case("huber_loss", "weight", operands(input="NC", target="NC", weight="NC"), module=None),
    Case(
        "huber_loss",
        "weight-broadcast-target",
        operands(input="NC", target="N1", weight=positive("NC")),
        {"delta": 0.5},
        module=None,
    ),
    Case(
        "multilabel_margin_loss",
        "1d",
        operands(input="C", target=label_sets("C", lambda rng, classes: 2)),
    ),
    Case("multilabel_margin_loss", "no-target", margin_targets(lambda rng, classes: 0)),
    Case("multilabel_margin_loss", "few-targets", margin_targets(lambda rng, classes: 3)),
    Case("multilabel_margin_loss", "many-targets", margin_targets(lambda rng, c: c - c // 4)),
    Case("multilabel_margin_loss", "all-targets", margin_targets(lambda rng, classes: classes)),
    Case(
        "multilabel_margin_loss",
        "any-number-of-targets",
        margin_targets(lambda rng, classes: int(rng.integers(0, classes + 1))),
    ),
    Case(
        "multilabel_margin_loss",
        "duplicates",
        operands(input="NC", target=repeated_labels("NC")),
    ),
    soft_margin("2d", binary("NC")),
    soft_margin("soft-targets", uniform("NC")),
    soft_margin("class-weight", binary("NC"), weight=positive("C")),
    soft_margin("full-weight", uniform("NC"), weight=positive("NC")),
    soft_margin("broadcast-target", binary("1C")),
    Case("multilabel_soft_margin_loss", "1d", operands(input="C", target=binary("C"))),
    Case(
        "multilabel_soft_margin_loss",
        "3d-large-scores",
        operands(input=normal("2NC", 50.0), target=binary("2NC")),
    ),
    ranking("1d", "N"),
    ranking("2d"),
    ranking("margin", margin=0.5),
    ranking("negative-margin", margin=-0.25),
    Case(
        "margin_ranking_loss",
        "broadcast",
        operands(input1="N1", input2="1C", target=signs("11")),
        {"margin": 1.0},
    ),
    Case("margin_ranking_loss", "real-target", operands(input1="NC", input2="NC", target="1C")),
    triplet("1d", rows_1d),
    triplet("2d"),
    triplet("3d-swap", rows_3d, swap=True),
    triplet("broadcast-anchor", one_anchor, swap=True),
    triplet("broadcast-columns", operands(anchor="N1", positive="NC", negative="11")),
    triplet("eps-0", eps=0.0, margin=0.5),
    triplet("large-eps", eps=0.125, swap=True),
    triplet("p-0", p=0.0, eps=0.0),
    triplet("p-0.5", p=0.5, eps=0.0),
    triplet("p-1-swap", p=1.0, eps=0.0, swap=True),
    triplet("p-1.5", p=1.5),
    triplet("p-3-swap", p=3.0, swap=True),
    triplet("p-10", p=10.0, eps=0.0),
    triplet("p-inf-swap", p=float("inf"), eps=0.0, swap=True),
    triplet("p-negative", p=-1.0),
    triplet("p-negative-inf", p=float("-inf"), eps=0.0, margin=0.25),
    by_distance(None),
    by_distance(None, "swap-broadcast", one_anchor, swap=True, margin=0.5),
    by_distance("euclidean", "1d", rows_1d),
    by_distance("euclidean", "swap", swap=True),
    by_distance("cosine"),
    by_distance("cosine", "swap-3d", rows_3d, swap=True, margin=0.25),
    by_distance("manhattan", "swap", swap=True),
    by_distance("squared_euclidean", "swap", swap=True, margin=2.0),
    by_distance("chebyshev", "swap", swap=True),
]


@dataclass(frozen=True)
class Kink:
    """An input on a kink, the loss and the gradients there for an upstream gradient of one.

    Gradients that are not listed are nobody's business; ``torch`` says whether torch agrees.
    """

    loss: str
    name: str
    operands: Mapping[str, Any]
    value: Any
    gradients: Mapping[str, Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    reduction: str = "none"
    torch: bool = True

    @property
    def id(self) -> str:
        return f"{self.loss}-{self.name}"

    def make(self) -> Operands:
        """The operands as arrays: float64, and int64 for labels."""
        indices = self.loss in ("nll_loss", "cross_entropy", "multilabel_margin_loss")
        made = {name: np.asarray(value) for name, value in self.operands.items()}
        for name, value in made.items():
            if not (indices and name == "target" and value.dtype.kind == "i"):
                made[name] = value.astype(np.float64)
        return made

    options = Case.options


INF, NAN = float("inf"), float("nan")
EMPTY_ROWS = np.zeros((0, 3))
NO_LABELS = np.zeros((0, 3), dtype=np.int64)


def triplet_kink(
    name: str, rows: str, value: float, gradients: str, margin: float = 1.0, **options: Any
) -> Kink:
    """A kink of one triplet; rows and gradients are written ``a1 a2 | p1 p2 | n1 n2``.

    Where the value is 0, its hinge is at the kink, or beyond it.
    """

    def triple(text: str, factor: float = 1.0) -> dict[str, list[list[float]]]:
        parts = [[[factor * float(x) for x in part.split()]] for part in text.split("|")]
        return dict(zip(("anchor", "positive", "negative"), parts, strict=True))

    loss = "triplet_margin_loss"
    if "distance_function" in options:
        loss = "triplet_margin_with_distance_loss"
    options["margin"] = margin
    slopes = triple(gradients, 1.0 if value else K)
    return Kink(loss, name, triple(rows), [value], slopes, options)


KINKS: list[Kink] = [
    Kink(
        "nll_loss",
        "all-ignored-sum",
        {"input": [[-1, -2], [-3, -4]], "target": [-100, -100]},
        0,
        {"input": [[0, 0], [0, 0]]},
        reduction="sum",
    ),
    Kink(
        "nll_loss",
        "all-ignored-mean",
        {"input": [[-1, -2], [-3, -4]], "target": [-100, -100]},
        NAN,
        {"input": [[0, 0], [0, 0]]},
        reduction="mean",
    ),
    Kink(
        "nll_loss",
        "ignored-nan",
        {"input": [[-1, -2], [NAN, NAN]], "target": [1, -100]},
        2,
        {"input": [[0, -1], [0, 0]]},
        reduction="mean",
    ),
    Kink(
        "nll_loss",
        "zero-weight",
        {"input": [[-INF, 0], [0, -INF], [-2, 0]], "target": [0, 1, 0], "weight": [0, 1]},
        [NAN, INF, 0],
        {"input": [[0, 0], [0, -1], [0, 0]]},
    ),
    Kink(
        "nll_loss",
        "zero-weights-mean",
        {"input": [[-1, -2], [-2, -1]], "target": [0, 0], "weight": [0, 1]},
        NAN,
        {"input": [[NAN, 0], [NAN, 0]]},
        reduction="mean",
    ),
    Kink(
        "cross_entropy",
        "all-ignored-mean",
        {"input": [[1, 2], [3, 4]], "target": [-100, -100]},
        NAN,
        {"input": [[0, 0], [0, 0]]},
        reduction="mean",
    ),
    Kink(
        "cross_entropy",
        "impossible-class",
        {"input": [[0, -INF], [0, -INF]], "target": [0, 1]},
        [0, INF],
        {"input": [[0, 0], [1, -1]]},
    ),
    Kink(
        "cross_entropy",
        "impossible-class-smoothed",
        {"input": [[0, -INF], [0, -INF]], "target": [0, 1]},
        [INF, INF],
        {"input": [[0.25, -0.25], [0.75, -0.75]]},
        {"label_smoothing": 0.5},
    ),
    Kink(
        "cross_entropy",
        "impossible-class-probable",
        {"input": [[0, -INF]], "target": [[0.5, 0.5]]},
        [INF],
        {"input": [[0.5, -0.5]], "target": [[0, INF]]},
    ),
    Kink(
        "cross_entropy",
        "infinite-score",
        {"input": [[INF, 0], [-INF, -INF]], "target": [0, 0]},
        [NAN, NAN],
        {"input": [[NAN, NAN], [NAN, NAN]]},
    ),
    Kink(
        "huber_loss",
        "at-delta",
        {"input": [1, -1, 0, 2, -2], "target": [0, 0, 0, 0, 0]},
        [0.5, 0.5, 0, 1.5, 1.5],
        {"input": [1, -1, 0, 1, -1], "target": [-1, 1, 0, -1, 1]},
    ),
    Kink(
        "huber_loss",
        "at-delta-weight",
        {"input": [0.5, -0.5, 1], "target": [0, 0, 0], "weight": [2, -4, 0]},
        [0.25, -0.5, 0],
        {"input": [1, 2, 0], "target": [-1, -2, 0], "weight": [0.125, 0.125, 0.375]},
        {"delta": 0.5},
    ),
    Kink(
        "huber_loss",
        "not-finite",
        {"input": [INF, -INF, NAN], "target": [0, 0, 0]},
        [INF, INF, NAN],
        {"input": [2, -2, NAN], "target": [-2, 2, NAN]},
        {"delta": 2.0},
    ),
    Kink(
        "huber_loss",
        "empty-mean",
        {"input": EMPTY_ROWS, "target": EMPTY_ROWS},
        NAN,
        {"input": EMPTY_ROWS, "target": EMPTY_ROWS},
        reduction="mean",
    ),
    Kink(
        "multilabel_margin_loss",
        "at-margin",
        {"input": [[1, 0], [0.5, 0], [2, 0]], "target": [[0, -1], [0, -1], [0, -1]]},
        [0, 0.25, 0],
        {"input": [[0, 0], [-0.5, 0.5], [0, 0]]},
    ),
    Kink(
        "multilabel_margin_loss",
        "duplicates-and-padding",
        {"input": [[0, 0, 0, 0]], "target": [[0, 0, -1, 1]]},
        [1.5],
        {"input": [[-1.5, 0.5, 0.5, 0.5]]},
    ),
    Kink(
        "multilabel_margin_loss",
        "no-target-all-targets",
        {"input": [[1, 2], [3, 4]], "target": [[-1, 0], [1, 0]]},
        [0, 0],
        {"input": [[0, 0], [0, 0]]},
    ),
    Kink("multilabel_margin_loss", "scalar", {"input": 3, "target": 0}, 0, {"input": 0}),
    Kink(
        "multilabel_margin_loss",
        "nan",
        {"input": [[NAN, 0], [0, NAN], [0, 0]], "target": [[0, -1], [0, -1], [0, -1]]},
        [NAN, NAN, 0.5],
        {},
        torch=False,
    ),
    Kink(
        "multilabel_margin_loss",
        "empty-mean",
        {"input": EMPTY_ROWS, "target": NO_LABELS},
        NAN,
        {"input": EMPTY_ROWS},
        reduction="mean",
        torch=False,
    ),
    Kink(
        "multilabel_margin_loss",
        "empty-sum",
        {"input": EMPTY_ROWS, "target": NO_LABELS},
        0,
        {"input": EMPTY_ROWS},
        reduction="sum",
        torch=False,
    ),
    Kink(
        "multilabel_soft_margin_loss",
        "far-out",
        {"input": [[1000, -1000], [1000, -1000]], "target": [[0, 1], [1, 0]]},
        [1000, 0],
        {"input": [[0.5, -0.5], [0, 0]], "target": [[-500, 500], [-500, 500]]},
    ),
    Kink(
        "multilabel_soft_margin_loss",
        "infinite",
        {"input": [[INF], [INF], [-INF], [-INF]], "target": [[0], [1], [0], [1]]},
        [INF, NAN, NAN, INF],
        {"input": [[1], [0], [0], [-1]], "target": [[-INF], [-INF], [INF], [INF]]},
    ),
    Kink(
        "margin_ranking_loss",
        "hinge-0",
        {"input1": [1, 2, 0, 1], "input2": [1, 1, 1, 1], "target": [1, 1, 1, -1]},
        [0, 0, 1, 0],
        {"input1": [-K, 0, -1, K], "input2": [K, 0, 1, -K], "target": [0, 0, 1, 0]},
    ),
    Kink(
        "margin_ranking_loss",
        "hinge-0-margin",
        {"input1": [1.5, 0.5, 2], "input2": [1, 1, 1], "target": [1, -1, 0]},
        [0, 0, 0.5],
        {"input1": [-K, K, 0], "input2": [K, -K, 0], "target": [-0.5 * K, 0.5 * K, -1]},
        {"margin": 0.5},
    ),
    Kink(
        "margin_ranking_loss",
        "nan",
        {"input1": [NAN, 1], "input2": [1, NAN], "target": [1, -1]},
        [NAN, NAN],
        {"input1": [0, 0], "input2": [0, 0]},
    ),
    triplet_kink("hinge-0", "0 0 | 2 0 | 0 3", 0, "-1 1 | 1 0 | 0 -1", eps=0.0),
    triplet_kink("below-hinge", "0 0 | 2 0 | 0 4", 0, "0 0 | 0 0 | 0 0", eps=0.0),
    triplet_kink("swap-tie", "0 0 | 2 0 | 1 0", 2, "-.5 0 | .5 0 | 0 0", eps=0.0, swap=True),
    triplet_kink("norm-0", "1 1 | 1 1 | 1 1", 1, "0 0 | 0 0 | 0 0", eps=0.0),
    triplet_kink(
        "norm-eps",
        "0 0 0 0 | 0 0 0 0 | 0 0 0 0",
        1,
        "0 0 0 0 | -.5 -.5 -.5 -.5 | .5 .5 .5 .5",
    ),
    triplet_kink("p-0", "0 0 | 1 1 | 1 0", 2, "0 0 | 0 0 | 0 0", p=0.0, eps=0.0),
    triplet_kink("p-0.5", "0 0 | 1 0 | 4 0", 1, "0 0 | 1 0 | -1 0", 4.0, p=0.5, eps=0.0),
    triplet_kink("p-0.5-norm-0", "0 0 | 0 0 | 0 0", 1, "0 0 | 0 0 | 0 0", p=0.5, eps=0.0),
    triplet_kink("p-1", "0 0 | 1 0 | 0 1", 1, "-1 1 | 1 0 | 0 -1", p=1.0, eps=0.0),
    triplet_kink("p-1.5-norm-0", "0 0 | 0 0 | 1 0", 0, "1 0 | 0 0 | -1 0", p=1.5, eps=0.0),
    triplet_kink("p-3-zeros", "0 0 | 2 0 | 0 1", 2, "-1 1 | 1 0 | 0 -1", p=3.0, eps=0.0),
    triplet_kink("p-inf", "0 0 | 1 -1 | 2 0", 1, ".5 .5 | .5 -.5 | -1 0", 2.0, p=INF, eps=0.0),
    triplet_kink("p-inf-norm-0", "0 0 | 0 0 | 0 0", 1, "0 0 | 0 0 | 0 0", p=INF, eps=0.0),
    triplet_kink("p-minus-1", "0 0 | 2 0 | 2 2", 0, ".25 .25 | 0 0 | -.25 -.25", p=-1.0, eps=0.0),
    triplet_kink("p-minus-inf", "0 0 | 2 -2 | 4 1", 2, "-.5 1.5 | .5 -.5 | 0 -1", p=-INF, eps=0.0),
    triplet_kink(
        "euclidean-hinge-0",
        "0 0 | 2 0 | 0 3",
        0,
        "-1 1 | 1 0 | 0 -1",
        distance_function="euclidean",
    ),
    triplet_kink(
        "euclidean-norm-0",
        "1 1 | 1 1 | 1 1",
        1,
        "0 0 | 0 0 | 0 0",
        distance_function="euclidean",
        swap=True,
    ),
    triplet_kink(
        "manhattan-swap-tie",
        "0 0 | 2 0 | 1 0",
        2,
        "-.5 0 | .5 0 | 0 0",
        distance_function="manhattan",
        swap=True,
    ),
    triplet_kink(
        "squared_euclidean-swap-tie",
        "0 0 | 2 0 | 1 0",
        4,
        "-3 0 | 3 0 | 0 0",
        distance_function="squared_euclidean",
        swap=True,
    ),
    triplet_kink(
        "chebyshev-tie",
        "0 0 | 1 -1 | 2 0",
        1,
        ".5 .5 | .5 -.5 | -1 0",
        2.0,
        distance_function="chebyshev",
    ),
    triplet_kink(
        "cosine-parallel",
        "1 0 | 0 1 | 1 0",
        2,
        "0 -1 | -1 0 | 0 0",
        distance_function="cosine",
    ),
]
