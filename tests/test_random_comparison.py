"""Random calls: nbloss against torch, and nbloss's arrays against its tensors.

Shapes, strides, dtypes, options, ties and odd numbers are drawn from small pools, so that few
kernels are compiled. ``pytest --random-calls 20000 --random-seed 7`` draws others, and more; a call
that fails is printed as a script.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from inspect import signature
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as theirs

import nbloss
from nbloss.losses.distances import lp
from versions import since

ours = nbloss.functional
INF, NAN = math.inf, math.nan
ERRORS = (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError)


@dataclass
class Drawn:
    """A call that was drawn: tensors by name, and the options."""

    name: str
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    factor: float = 1.0  # of grad_output

    @property
    def floating(self) -> list[str]:
        """Names of the tensors that get a gradient."""
        constant = {"weight"} if self.name in ("nll_loss", "cross_entropy") else set()
        return [k for k, x in self.tensors.items() if x.is_floating_point() and k not in constant]

    @property
    def reduction(self) -> str:
        return self.options["reduction"]

    def has(self, name: str, test: Callable[[Tensor], Tensor]) -> bool:
        """Whether a floating tensor has an element that passes a test."""
        x = self.tensors[name]
        return x.is_floating_point() and bool(test(x).any())

    def any_has(self, test: Callable[[Tensor], Tensor]) -> bool:
        return any(self.has(name, test) for name in self.tensors)

    def script(self) -> str:
        """Write the call as Python."""
        lines = ["from math import inf, nan", "import torch, nbloss"]
        for name, x in self.tensors.items():
            reach = sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1
            flat = x.as_strided((reach if x.numel() else 0,), (1,))
            made = f"torch.tensor({flat.tolist()}, dtype={x.dtype})"
            line = f"{name} = {made}.as_strided({tuple(x.shape)}, {x.stride()})"
            lines.append(line + (".requires_grad_()" if name in self.floating else ""))
        named = [f"{name}={name}" for name in self.tensors]
        named += [f"{key}={value!r}" for key, value in self.options.items()]
        lines.append("for library in (nbloss, torch.nn.functional):")
        lines.append(f"    value = library.{self.name}({', '.join(named)})")
        leaves = ", ".join(self.floating)
        lines.append(f"    up = {self.factor} * torch.linspace(1, 2, value.numel()).view_as(value)")
        lines.append(f"    print(value, *torch.autograd.grad(value, [{leaves}], up.to(value)))")
        return "\n".join(lines)


# --- drawing --------------------------------------------------------------------------------------


def chance(rng: Generator, share: float) -> bool:
    return bool(rng.random() < share)


def pick(rng: Generator, *choices: Any) -> Any:
    return choices[rng.integers(len(choices))]


ODD = (NAN, INF, -INF, 0.0, -0.0, 1e30, -1e30, 1e-30)


def numbers(rng: Generator, shape: tuple[int, ...], dtype: torch.dtype, odd: bool) -> Tensor:
    """Normal numbers: some rounded, so that there are ties, some with odd ones in between."""
    x = rng.normal(scale=2.0, size=shape)
    if chance(rng, 0.4):
        x = np.round(2.0 * x) / 2.0
    if odd:
        x = np.where(rng.random(shape) < 0.15, rng.choice(ODD, size=shape), x)
    return torch.tensor(x, dtype=dtype)


def laid_out(x: Tensor, how: str) -> Tensor:
    """Give the same numbers in other places of memory."""
    if how == "transposed" and x.dim() > 1:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if how == "sliced" and x.dim() > 0:
        return torch.stack([x, torch.full_like(x, 99)], -1).flatten(-2)[..., ::2]
    if how == "steps" and 1 in x.shape:  # along an axis of length 1 nobody steps
        x = x.contiguous()
        steps = [7 if size == 1 else step for size, step in zip(x.shape, x.stride(), strict=True)]
        return x.as_strided(x.shape, steps)
    return x


def smaller(rng: Generator, shape: tuple[int, ...], same_rank: bool) -> tuple[int, ...]:
    """Draw a shape that broadcasts to another."""
    if chance(rng, 0.75):
        return shape
    made = tuple(1 if chance(rng, 0.4) else size for size in shape)
    return made if same_rank else made[int(rng.integers(len(made) + 1)) :]


SHAPES = ((), (1,), (4,), (3, 5), (1, 5), (5, 1), (2, 3, 4), (0,), (0, 3), (3, 0), (1, 1), (2, 600))


def draw_huber(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    shape = pick(rng, *SHAPES)
    tensors = {
        "input": numbers(rng, smaller(rng, shape, False), dtype, odd),
        "target": numbers(rng, smaller(rng, shape, False), dtype, odd),
    }
    options = {"delta": pick(rng, 1.0, 0.5, INF)}
    if chance(rng, 0.2):
        tensors["weight"] = numbers(rng, tensors["input"].shape, dtype, odd and chance(rng, 0.3))
    return tensors, options


def draw_ranking(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    shape = pick(rng, *SHAPES)
    target = torch.tensor(rng.choice([-1.0, 1.0], smaller(rng, shape, True)), dtype=dtype)
    tensors = {
        "input1": numbers(rng, smaller(rng, shape, True), dtype, odd),
        "input2": numbers(rng, smaller(rng, shape, True), dtype, odd),
        "target": numbers(rng, target.shape, dtype, odd) if chance(rng, 0.2) else target,
    }
    return tensors, {"margin": pick(rng, 0.0, 0.0, 0.5, -1.0)}


def draw_soft_margin(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    shape = pick(rng, *SHAPES, (0, 0))
    target = torch.tensor(rng.integers(0, 2, smaller(rng, shape, False)), dtype=dtype)
    tensors = {
        "input": numbers(rng, shape, dtype, odd),
        "target": numbers(rng, target.shape, dtype, False) if chance(rng, 0.3) else target,
    }
    if chance(rng, 0.3):
        tensors["weight"] = numbers(rng, smaller(rng, shape, False), dtype, False)
    return tensors, {}


def draw_multilabel_margin(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    shape = pick(rng, (), (1,), (6,), (3, 5), (1, 5), (5, 1), (2, 40), (0, 4), (3, 0))
    classes = shape[-1] if shape else 1
    labels = rng.integers(-1, max(classes, 1), shape)
    if chance(rng, 0.3):
        labels = np.maximum(labels, 0)
    return {"input": numbers(rng, shape, dtype, odd), "target": torch.tensor(labels)}, {}


def draw_classes(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    rank = pick(rng, 1, 2, 2, 2, 3, 4, 5)
    samples, classes = pick(rng, 1, 2, 5, 0), pick(rng, 1, 3, 7, 7, 0)
    places = tuple(pick(rng, 1, 2, 2, 3, 0) for _ in range(rank - 2))
    shape = (classes,) if rank == 1 else (samples, classes, *places)
    rows = () if rank == 1 else (samples, *places)
    if rank == 1 and chance(rng, 0.3):
        rows = (1,)
    ignored = pick(rng, -100, 0, 2)
    labels = np.asarray(rng.integers(0, max(classes, 1), rows))
    if chance(rng, 0.5):
        labels = np.where(rng.random(rows) < 0.5, ignored, labels)
    if chance(rng, 0.05):
        labels = np.where(rng.random(rows) < 0.3, pick(rng, -1, classes, 1 << 40), labels)
    tensors = {"input": numbers(rng, shape, dtype, odd), "target": torch.tensor(labels)}
    if chance(rng, 0.3):
        size = classes if chance(rng, 0.9) else pick(rng, 1, classes + 1)
        weight = numbers(rng, (size,), dtype, False).abs()
        tensors["weight"] = weight * 0.0 if chance(rng, 0.1) else weight
    return tensors, {"ignore_index": ignored}


def draw_cross_entropy(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    tensors, options = draw_classes(rng, dtype, odd)
    options["label_smoothing"] = pick(rng, 0.0, 0.0, 0.25, 1.0)
    if chance(rng, 0.3):
        options["ignore_index"] = -100
        tensors["target"] = numbers(rng, tensors["input"].shape, dtype, False).abs()
    return tensors, options


def draw_triplet(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    shape = pick(rng, (1,), (4,), (3, 5), (1, 5), (5, 1), (2, 3, 4), (0, 3), (3, 0), (2, 600))
    names = ("anchor", "positive", "negative")
    tensors = {name: numbers(rng, smaller(rng, shape, True), dtype, odd) for name in names}
    options = {
        "p": pick(rng, 2.0, 2.0, 2.0, 1.0, 3.0, 1.5, 0.5, 0.0, INF, -INF, -1.0),
        "margin": pick(rng, 1.0, 0.25, 5.0),
        "eps": pick(rng, 1e-6, 0.0),
        "swap": chance(rng, 0.3),
    }
    return tensors, options


def draw_distance(rng: Generator, dtype: torch.dtype, odd: bool) -> tuple[dict, dict]:
    tensors, options = draw_triplet(rng, dtype, odd)
    if chance(rng, 0.5):
        options["distance_function"] = torch.nn.PairwiseDistance(options["p"], options["eps"])
    del options["p"], options["eps"]
    return tensors, options


DRAW: dict[str, Callable[[Generator, torch.dtype, bool], tuple[dict, dict]]] = {
    "nll_loss": draw_classes,
    "cross_entropy": draw_cross_entropy,
    "huber_loss": draw_huber,
    "multilabel_margin_loss": draw_multilabel_margin,
    "multilabel_soft_margin_loss": draw_soft_margin,
    "margin_ranking_loss": draw_ranking,
    "triplet_margin_loss": draw_triplet,
    "triplet_margin_with_distance_loss": draw_distance,
}


def calls(seed: int) -> Iterator[Drawn]:
    """Draw calls without end."""
    for number in range(1 << 62):
        rng = np.random.default_rng([seed, number])
        name = pick(rng, *DRAW)
        dtype = torch.float64 if chance(rng, 0.05) else torch.float32
        tensors, options = DRAW[name](rng, dtype, chance(rng, 0.4))
        how = pick(rng, "plain", "plain", "plain", "transposed", "sliced", "steps")
        tensors = {k: laid_out(x, how) for k, x in tensors.items()}
        options["reduction"] = pick(rng, "mean", "sum", "none")
        yield Drawn(name, tensors, options, pick(rng, 1.0, 1.0, -0.5))


# --- differences on purpose -----------------------------------------------------------------------

Reason = Callable[[Drawn], bool]


def norm_of(call: Drawn) -> float:
    distance = call.options.get("distance_function")
    return distance.norm if distance is not None else call.options.get("p", 2.0)


# Calls that may come out otherwise than in torch: the reason, and which they are.
DIFFERENCES: dict[str, Reason] = {
    # These stand in README's table.
    "torch gives memory that nobody wrote for an empty batch": lambda call: (
        call.name == "multilabel_margin_loss" and call.tensors["input"].numel() == 0
    ),
    "torch passes over NaN, and over what is NaN among infinite scores": lambda call: (
        call.name == "multilabel_margin_loss" and call.any_has(lambda x: ~x.isfinite())
    ),
    "torch refuses a target of shape (1,) for one sample if it smooths": lambda call: (
        call.name == "cross_entropy"
        and call.tensors["input"].dim() == call.tensors["target"].dim() == 1
        and call.options["label_smoothing"] > 0.0
    ),
    "in torch a smoothing of 1 leaves 0 times the loss without it, which may be infinite": (
        lambda call: (
            call.name == "cross_entropy"
            and call.options["label_smoothing"] == 1.0
            and call.has("input", lambda x: ~x.isfinite())
        )
    ),
    "powers overflow if only some of the three have rows of one coordinate": lambda call: (
        call.name.startswith("triplet")
        and len({x.shape[-1] for x in call.tensors.values()}) > 1
        and call.any_has(lambda x: x.isfinite() & (x.abs() > 1e15))
    ),
    "torch's slope of a norm is a quotient of powers, which overflow": lambda call: (
        call.name.startswith("triplet")
        and norm_of(call) not in (0.0, 1.0, 2.0, INF, -INF)
        and call.any_has(
            lambda x: x.isfinite() & ((x.abs() > 1e15) | ((x.abs() < 1e-15) & (x != 0)))
        )
    ),
    "in torch NaN of a row that is ignored is in its gradient": lambda call: (
        call.name == "cross_entropy"
        and not call.tensors["target"].is_floating_point()
        and bool((call.tensors["target"] == call.options["ignore_index"]).any())
        and call.has("input", lambda x: ~x.isfinite())
    ),
    # These are too odd for the table.
    "no rows have gradient 0; in torch 0 times infinity": lambda call: (
        call.name.startswith("triplet")
        and any(x.numel() == 0 for x in call.tensors.values())
        and call.any_has(lambda x: ~x.isfinite())
    ),
    "the sum of no samples, of no classes either, is 0; in torch 0 times infinity": lambda call: (
        call.name == "cross_entropy"
        and call.options["label_smoothing"] > 0.0
        and call.tensors["input"].numel() == call.tensors["target"].numel() == 0
    ),
}


# --- comparing ------------------------------------------------------------------------------------


def outcome(function: Callable, call: Drawn) -> tuple[list[Tensor], Exception | None]:
    """Value and gradients, or what was raised."""
    leaves = {
        k: x.detach().clone(memory_format=torch.preserve_format) if k in call.floating else x
        for k, x in call.tensors.items()
    }
    for name in call.floating:
        x = call.tensors[name]
        leaves[name] = x.detach().as_strided(x.shape, x.stride()).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = function(**leaves, **copy.copy(call.options))
            up = call.factor * torch.linspace(1, 2, value.numel(), dtype=torch.float64)
        except ERRORS as error:
            return [], error
        try:
            gradients = torch.autograd.grad(
                value,
                [leaves[name] for name in call.floating],
                up.view_as(value).to(value),
                allow_unused=True,
            )
        except ERRORS:
            return [value.detach()], None
    found = [
        torch.zeros_like(leaves[name]) if x is None else x
        for name, x in zip(call.floating, gradients, strict=True)
    ]
    return [value.detach(), *found], None


def tolerance(call: Drawn, result: Tensor) -> dict[str, float]:
    """Say how far results may be apart: sums cancel, of operands or in gradients."""
    wide = call.tensors[call.floating[0]].dtype == torch.float64
    everything = (*call.tensors.values(), result)
    sizes = [x[x.isfinite()].abs().max() for x in everything if x.isfinite().any()]
    scale = max(1.0, *(float(size) for size in sizes)) if sizes else 1.0
    if call.name.startswith("triplet") and math.isfinite(p := norm_of(call)) and p != 0.0:
        scale *= max(x.shape[-1] for x in call.tensors.values()) ** (1.0 / abs(p)) + 1.0
    return {"rtol": 1e-8, "atol": 1e-10 * scale} if wide else {"rtol": 2e-4, "atol": 1e-5 * scale}


def disagreement(call: Drawn) -> str | None:
    """Say how nbloss and torch disagree about a call, if they do."""
    mine, error = outcome(getattr(ours, call.name), call)
    expected, complaint = outcome(getattr(theirs, call.name), call)
    if complaint is not None or error is not None:
        if repr(error) == repr(complaint):
            return None
        return f"nbloss: {error!r} {mine}\ntorch: {complaint!r} {expected}"
    names = ["value", *(f"gradient with respect to {name}" for name in call.floating)]
    if len(mine) < len(names):
        return f"nbloss has no gradients, torch {expected[1:]}"
    # Where torch's backward raises there is no example to follow.
    for name, x, y in zip(names, mine, expected, strict=False):
        try:
            torch.testing.assert_close(x, y, equal_nan=True, **tolerance(call, y))
        except AssertionError as difference:
            return f"{name}: {difference}\nnbloss: {x}\ntorch: {y}"
    return None


def torch_alone(call: Drawn) -> bool:
    """Whether there is no kernel, and tensors are handed to torch's own function."""
    widths = {x.shape[-1] for x in call.tensors.values() if x.dim()}
    return call.name.startswith("triplet") and {0, 1} <= widths


def arrays_disagree(call: Drawn, rng: Generator) -> str | None:
    """Say how arrays and tensors disagree about a call, if they do."""
    arrays = {k: x.numpy() for k, x in call.tensors.items()}
    options = dict(call.options)
    if isinstance(torch_distance := options.get("distance_function"), torch.nn.PairwiseDistance):
        options["distance_function"] = lp(torch_distance.norm, torch_distance.eps)
    for name, x in arrays.items():
        if x.ndim and chance(rng, 0.2):
            axis = int(rng.integers(x.ndim))
            arrays[name] = np.flip(np.flip(x, axis).copy(), axis)  # with a negative step
    function = getattr(ours, call.name)
    places = tuple(list(signature(function).parameters).index(name) for name in call.floating)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mine, error = outcome(function, replace(call, factor=1.0))
        try:
            value, gradients = nbloss.value_and_grad(function, places)(**arrays, **options)
        except ERRORS as complaint:
            if error is not None:
                alike = isinstance(complaint, type(error))
                return None if alike else f"{complaint!r} for {error!r}"
            return None if torch_alone(call) else f"arrays: {complaint!r}\ntensors: {mine}"
    if error is not None:
        return f"arrays: {value}\ntensors: {error!r}"
    # The gradients of arrays are those of the sum of the values.
    found = [value] if call.reduction == "none" else [value, *gradients]
    for x, y in zip(found, mine, strict=False):
        try:
            np.testing.assert_allclose(x, y.numpy(), **tolerance(call, y))
        except AssertionError as difference:
            return str(difference)
    return None


@since(2, 13)  # whose results ours are
def test_random_calls(pytestconfig: pytest.Config) -> None:
    seed, count = pytestconfig.getoption("random_seed"), pytestconfig.getoption("random_calls")
    failures = []
    for number, call in enumerate(islice(calls(seed), count)):
        rng = np.random.default_rng([seed, number, 1])
        problem = arrays_disagree(call, rng)
        if problem is None and not any(reason(call) for reason in DIFFERENCES.values()):
            problem = disagreement(call)
        if problem is not None:
            failures.append(f"--- call {number} of seed {seed}\n{problem}\n{call.script()}")
    if failures:
        pytest.fail(f"{len(failures)} of {count}\n" + "\n".join(failures[:40]), pytrace=False)
