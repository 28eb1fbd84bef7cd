"""A drop-in does what torch does: every call here is made twice, and the outcomes are compared.

What is compared: value, shape, dtype, whether a gradient can be asked for, the gradients, the
warnings with their wording, the exception. The calls that are meant to fail, and the special
numbers, stand in ``hostile.py``, the differences that are on purpose in ``test_hostile.py``.
"""

import copy
import inspect
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn import functional as theirs

import nbloss
import nbloss.functional
import nbloss.nn
from hostile import CLASSES, GOOD, REDUCTIONS, TRIPLETS, Call
from versions import TORCH

ours = nbloss.functional
NLL, CROSS, HUBER, MULTI, SOFT, RANKING, TRIPLET, DISTANCE = GOOD
F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16

ERRORS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError)
# In the half types torch rounds after every step, and nbloss once.
TOLERANCES = {F64: (1e-9, 1e-12), F32: (2e-5, 2e-6), F16: (6e-3, 4e-3), BF16: (5e-2, 4e-2)}


# --- one call and what came of it -------------------------------------------------------------


@dataclass
class Outcome:
    value: Tensor | None = None
    gradients: list[Tensor] = field(default_factory=list)
    warnings: list[tuple[type, str]] = field(default_factory=list)
    error: Exception | None = None
    backward_error: Exception | None = None
    tolerance: dict[str, float] = field(default_factory=dict)


def fresh(argument: Any) -> Any:
    """Copy a tensor into a leaf of its own; hand everything else through."""
    if not isinstance(argument, Tensor) or argument.layout != torch.strided:
        return argument
    return argument.detach().clone().requires_grad_(argument.requires_grad)


def grad_output(value: Tensor) -> Tensor:
    return torch.linspace(0.5, 1.5, value.numel(), dtype=F64).view(value.shape).to(value)


def call(
    function: Callable,
    args: Any,
    kwargs: Any,
    *,
    backward: int = 1,
    view: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> Outcome:
    """Call a function on views of fresh arguments and go backward, as often as asked for."""
    leaves = [fresh(argument) for argument in (*args, *kwargs.values())]
    with torch.enable_grad():
        passed = [view(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    outcome = Outcome()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            named = dict(zip(kwargs, passed[len(args) :], strict=True))
            outcome.value = function(*passed[: len(args)], **named)
        except ERRORS as error:
            outcome.error = error
        else:
            try:
                for _ in range(backward if outcome.value.requires_grad else 0):
                    outcome.value.backward(grad_output(outcome.value), retain_graph=backward > 1)
            except ERRORS as error:
                outcome.backward_error = error
    outcome.warnings = [(warning.category, str(warning.message)) for warning in caught]
    for leaf in (tensor for tensor in tensors if tensor.requires_grad):
        # torch leaves the gradient of a constant undefined, where nbloss may write zeros.
        outcome.gradients.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    dtypes = {tensor.dtype for tensor in tensors} & set(TOLERANCES)
    rtol, atol = max((TOLERANCES[dtype] for dtype in dtypes), default=TOLERANCES[F32])
    outcome.tolerance = {"rtol": rtol, "atol": atol}
    return outcome


def assert_same(mine: Outcome, torchs: Outcome, lenient: bool = False, exact: bool = True) -> None:
    """Compare two outcomes.

    ``lenient`` lets a gradient be 0 where torch has NaN, ``exact=False`` frees the wording.
    """
    if isinstance(torchs.error, UnicodeDecodeError):
        # torch writes a target of uint8 that is out of bounds as a byte, which may be no letter.
        assert isinstance(mine.error, IndexError)
        return
    if torchs.error is not None:
        assert isinstance(mine.error, type(torchs.error)), f"{mine.error!r} for {torchs.error!r}"
        assert not exact or str(mine.error) == str(torchs.error)
        assert mine.warnings == torchs.warnings
        return
    if mine.error is not None:
        raise mine.error
    assert mine.value.requires_grad == torchs.value.requires_grad
    torch.testing.assert_close(mine.value, torchs.value, equal_nan=True, **torchs.tolerance)
    assert mine.warnings == torchs.warnings
    if torchs.backward_error is not None:  # no example to follow
        return
    if mine.backward_error is not None:
        raise mine.backward_error
    for my_gradient, gradient in zip(mine.gradients, torchs.gradients, strict=True):
        if lenient:
            gradient = torch.where(gradient.isnan() & (my_gradient == 0), my_gradient, gradient)
        torch.testing.assert_close(my_gradient, gradient, equal_nan=True, **torchs.tolerance)


def assert_alike(
    name: str, args: Any, kwargs: Any, *, lenient: bool = False, exact: bool = True, **options: Any
) -> None:
    """Make the same call in both libraries, and compare."""
    mine = call(getattr(ours, name), args, kwargs, **options)
    assert_same(mine, call(getattr(theirs, name), args, kwargs, **options), lenient, exact)


# --- the calls --------------------------------------------------------------------------------

GENERATOR = torch.Generator().manual_seed(5)


CASES: list[Call] = []


def case(name: str, label: str, *args: Any, **kwargs: Any) -> None:
    CASES.append(Call(name, label, args, kwargs))


def real(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.randn(shape, generator=GENERATOR).to(dtype).requires_grad_()


def positive(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return torch.rand(shape, generator=GENERATOR).add(0.1).to(dtype).requires_grad_()


def constant(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return positive(*shape, dtype=dtype).detach()


def classes(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.randint(0, 5, shape, generator=GENERATOR).to(dtype)


def logs(*shape: int) -> Tensor:
    return real(*shape).detach().log_softmax(min(1, len(shape) - 1)).requires_grad_()


def labels(rows: int, columns: int) -> Tensor:
    """Rows of distinct classes, each ended by a -1 somewhere, with anything in range behind it."""
    scores = torch.rand((rows, columns), generator=GENERATOR)
    ends = torch.arange(rows) % columns
    return scores.argsort(1).masked_fill(torch.arange(columns) == ends[:, None], -1)


POINTS = (((5,), ()), ((5,), (1,)), ((4, 5), (4,)), ((1, 5), (1,)), ((2, 5, 3), (2, 3)),
          ((2, 5, 3, 2), (2, 3, 2)), ((2, 5, 1, 3, 2), (2, 1, 3, 2)), ((0, 5), (0,)),
          ((0, 0), (0,)), ((0, 5, 2), (0, 2)), ((2, 5, 0), (2, 0)), ((2, 5, 0, 2), (2, 0, 2)),
          ((0, 5, 2, 3), (0, 2, 3)), ((2, 5, 0, 1, 2), (2, 0, 1, 2)))  # fmt: skip
if TORCH < (2, 13):  # which took no target of one label for one sample
    POINTS = tuple(point for point in POINTS if point != ((5,), (1,)))
for name, (shape, target_shape) in product(CLASSES, POINTS):
    x, t = logs(*shape), classes(*target_shape)
    case(name, f"{shape}", x, t)
    case(name, f"{shape}-weight", x, t, weight=constant(shape[min(1, len(shape) - 1)]))
    if t.numel():
        case(name, f"{shape}-ignores-a-class", x, t, ignore_index=int(t.flatten()[0]))
        everything = torch.full_like(t, -100)
        case(name, f"{shape}-ignores-everything", x, everything)
        some = t.masked_fill(torch.arange(t.numel()).view(t.shape) % 2 == 0, -7)
        case(name, f"{shape}-ignores-some", x, some, weight=constant(5), ignore_index=-7)
for name, t in product(CLASSES, (classes(4), classes())):
    x = logs(4, 5) if t.dim() else logs(5)
    byte = t.to(torch.uint8)
    case(name, f"uint8-{t.dim()}d", x, byte)
    case(name, f"uint8-ignored-{t.dim()}d", x, byte.fill_(255), ignore_index=255)
    case(name, f"zero-weights-{t.dim()}d", x, t, weight=torch.zeros(5))
for shape in ((5,), (4, 5), (2, 5, 3), (2, 5, 3, 2), (0, 5), (0, 0), (4, 0), (0,), (2, 5, 0)):
    axis = min(1, len(shape) - 1)
    x, p, weight = real(*shape), positive(*shape), positive(shape[axis])
    t = classes(*(shape[:axis] + shape[axis + 1 :]))
    for smoothing in (0.0, 0.1, 1.0):
        case(CROSS, f"{shape}-probabilities-{smoothing}", x, p, label_smoothing=smoothing)
        kwargs = {"weight": weight, "label_smoothing": smoothing}
        case(CROSS, f"{shape}-probabilities-weight-{smoothing}", x, p, **kwargs)
        if shape[axis]:
            case(CROSS, f"{shape}-smoothed-{smoothing}", x, t, label_smoothing=smoothing)
            kwargs["weight"] = weight.detach()
            case(CROSS, f"{shape}-smoothed-weight-{smoothing}", x, t, **kwargs)
            kwargs["ignore_index"] = 1
            case(CROSS, f"{shape}-smoothed-ignored-{smoothing}", x, t, **kwargs)

SHAPES = ((), (1,), (5,), (4, 5), (2, 3, 5), (2, 1, 3, 2), (0,), (0, 5), (4, 0), (2, 0, 3))
BROADCAST = (((4, 5), (1, 5)), ((4, 1), (1, 5)), ((1, 1), (4, 5)), ((4, 5), (4, 1)),
             ((0, 5), (1, 5)), ((0, 1), (1, 5)), ((1, 5), (0, 5)))  # fmt: skip
RAGGED = (((4, 5), (5,)), ((5,), (4, 5)), ((4, 5), ()), ((), (4, 5)), ((2, 4, 5), (4, 1)))
for shape in SHAPES:
    x, y, z = real(*shape), real(*shape), real(*shape)
    case(HUBER, f"{shape}", x, y, delta=0.7)
    case(HUBER, f"{shape}-weight", x, y, weight=positive(*shape))
    case(RANKING, f"{shape}", x, y, z, margin=0.3)
    case(RANKING, f"{shape}-constant-target", x, y, z.detach().sign())
    if shape != (0, 5):  # torch leaves memory uninitialised there
        case(MULTI, f"{shape}", x, torch.zeros(shape, dtype=torch.int64))
    case(SOFT, f"{shape}", x, z.detach().sign().relu())
    case(SOFT, f"{shape}-target", x, positive(*shape))
    for name, swap in product(TRIPLETS, (False, True)):
        case(name, f"{shape}-{swap}", x, y, z, swap=swap, margin=0.8)
for first, second in (*BROADCAST, *RAGGED):
    x, y, z = real(*first), real(*second), real(*first)
    label = f"{first}{second}"
    case(HUBER, label, x, y)
    case(HUBER, f"{label}-weight", x, y, weight=positive(*first))
    case(SOFT, label, x, positive(*second))
    case(SOFT, f"{label}-weight", x, positive(*first), weight=positive(*second))
    for args in ((x, y, z), (x, z, y), (y, x, z)):
        label = "".join(str(tuple(operand.shape)) for operand in args)
        case(RANKING, label, *args)
        for name, swap in product(TRIPLETS, (False, True)):
            case(name, f"{label}-{swap}", *args, swap=swap)
for shape, t in (((4, 6), labels(4, 6)), ((6,), labels(1, 6)[0]), ((9, 6), labels(9, 6)),
                 ((), torch.tensor(-1)), ((), torch.tensor([0])), ((1,), torch.tensor(0)),
                 ((2, 3), torch.tensor([[0, 1, 2], [1, 1, 1]])),
                 ((2, 3), torch.full((2, 3), -1))):  # fmt: skip
    case(MULTI, f"{shape}-{t.flatten().tolist()}", real(*shape), t)

A, P, N = real(4, 5), real(4, 5), real(4, 5)
for p, swap in product((0, 0.5, 1, 1.5, 2, 3, float("inf"), -1, float("-inf")), (False, True)):
    case(TRIPLET, f"p={p}-{swap}", A, P, N, p=p, swap=swap)
for eps in (0.0, 0.1, -1e-3):
    case(TRIPLET, f"eps={eps}", A, P, N, eps=eps)
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pairwise": torch.nn.PairwiseDistance(p=1, eps=0.0),
    "cosine": lambda a, b: 1 - torch.nn.functional.cosine_similarity(a, b),
    "elementwise": lambda a, b: (a - b).abs(),
    "keepdim": lambda a, b: (a - b).norm(dim=-1, keepdim=True),
    "integers": lambda a, b: (a - b).abs().amax(1).long(),
    "one-number": lambda a, b: (a - b).square().mean(),
}
for (label, distance), swap in product(DISTANCES.items(), (False, True)):
    case(DISTANCE, f"{label}-{swap}", A, P, N, distance_function=distance, swap=swap)

# Kinks and ties, where the gradient is a matter of convention.
KINK = torch.tensor([1.0, -1.0, 0.0, 0.5, 2.0, -2.0], requires_grad=True)
ZERO = torch.zeros(6, requires_grad=True)
ROWS = torch.zeros(2, 3, requires_grad=True)
UNIT = torch.eye(2, 3, requires_grad=True)
for delta in (0.5, 1.0, 2):
    case(HUBER, f"kink-{delta}", KINK, ZERO, delta=delta)
for margin, sign in product((0, 1.0, -1.0), (1.0, -1.0)):
    sign = torch.full((6,), sign, requires_grad=True)
    case(RANKING, f"kink-{margin}-{sign[0].item()}", KINK, ZERO, sign, margin=margin)
for name, swap in product(TRIPLETS, (False, True)):
    ties = {
        "equal": (UNIT, UNIT, UNIT),
        "zero": (ROWS, ROWS, ROWS),
        "tie": (ROWS, UNIT, -UNIT),
        "swap": (ROWS, -ROWS, UNIT),
    }
    for label, args in ties.items():
        args = [argument.detach().requires_grad_() for argument in args]
        case(name, f"{label}-{swap}", *args, swap=swap)
        for p in (1, 2, float("inf")) if name == TRIPLET else ():
            case(name, f"{label}-{swap}-{p}", *args, swap=swap, p=p, eps=0.0)
X = torch.tensor([1.0, 0.0, 2.0, 0.0], requires_grad=True)
for t in ([0, -1, 0, 0], [0, 3, -1, 0], [1, 1, 2, -1], [0, 1, 2, 3]):
    case(MULTI, f"kink-{t}", X, torch.tensor(t))

# Dtypes. torch promotes, save for huber, whose result has the input's dtype; huber's backward
# refuses a mixture, which nbloss need not.
SIGNS = real(4, 5).detach().sign()
for dtype in (F64, F16, BF16):
    x, y, z = real(4, 5, dtype=dtype), real(4, 5, dtype=dtype), real(4, 5, dtype=dtype)
    case(HUBER, f"{dtype}", x, y, delta=0.5)
    case(HUBER, f"{dtype}-weight", x, y, weight=positive(4, 5, dtype=dtype))
    case(SOFT, f"{dtype}", x, positive(4, 5, dtype=dtype), weight=positive(5, dtype=dtype))
    for name in CLASSES:
        case(name, f"{dtype}", x, classes(4), weight=constant(5, dtype=dtype))
    case(CROSS, f"{dtype}-smoothed", x, classes(4), label_smoothing=0.1)
    for p in (F32, dtype):
        case(CROSS, f"{dtype}-probabilities-{p}", x, positive(4, 5, dtype=p))
    case(RANKING, f"{dtype}", x, y, SIGNS.to(dtype), margin=0.5)
    for name in TRIPLETS:
        case(name, f"{dtype}", x, y, z)
case(MULTI, "float64", real(4, 6, dtype=F64), labels(4, 6))
INTEGERS = (torch.int64, torch.int32, torch.int8)


def converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype).requires_grad_(dtype.is_floating_point)


for dtype in (F64, F16, BF16, *INTEGERS):
    floats = dtype.is_floating_point
    case(HUBER, f"target-{dtype}", A, converted(3 * P, dtype))
    case(HUBER, f"weight-{dtype}", A, P, weight=converted(2 * N, dtype))
    if floats:
        case(HUBER, f"input-{dtype}", converted(A, dtype), P)
        case(SOFT, f"input-{dtype}", converted(A, dtype), positive(4, 5))
    case(SOFT, f"target-{dtype}", A, converted(positive(4, 5).round(), dtype))
    case(SOFT, f"weight-{dtype}", A, positive(4, 5), weight=converted(2 * N[0], dtype))
    for position in range(3):
        args = [A, P, SIGNS]
        args[position] = converted(args[position] * (1 if floats else 3), dtype)
        for margin in (0, 0.5):
            case(RANKING, f"{position}-{dtype}-{margin}", *args, margin=margin)
        args = [A, P, N]
        args[position] = converted(args[position] * (1 if floats else 3), dtype)
        for name in TRIPLETS:
            case(name, f"{position}-{dtype}", *args)
    if not floats:
        args = [converted(3 * operand, dtype) for operand in (A, P, N)]
        case(RANKING, f"{dtype}", *args[:2], SIGNS.to(dtype), margin=0.5)
        case(RANKING, f"{dtype}-margin", *args[:2], SIGNS.to(dtype), margin=1)
        case(TRIPLET, f"{dtype}-p=1", *args, p=1, swap=True)
        for name in TRIPLETS:
            case(name, f"{dtype}", *args)
SCALAR = torch.tensor(1.5, dtype=F64)  # a 0-D tensor does not promote
case(SOFT, "0d-weight-float64", A, positive(4, 5), weight=SCALAR)
case(SOFT, "0d-target-float64", A, SCALAR)
case(HUBER, "0d-target-float64", A, SCALAR)
case(RANKING, "0d-mixed", torch.tensor(1.0), SCALAR, torch.tensor(1))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_as_torch(case: Call) -> None:
    for reduction in REDUCTIONS:
        assert_alike(case.name, case.args, {**case.kwargs, "reduction": reduction}, exact=False)


# --- arguments that say how ---------------------------------------------------------------------

LEGACY = (NLL, CROSS, MULTI, SOFT, RANKING, TRIPLET)


@pytest.mark.parametrize("name", GOOD)
def test_signature(name: str) -> None:
    function = getattr(ours, name)
    mine, torchs = inspect.signature(function), inspect.signature(getattr(theirs, name))
    for parameter, expected in zip(
        mine.parameters.values(), torchs.parameters.values(), strict=True
    ):
        assert parameter.replace(annotation=None) == expected.replace(annotation=None)
    assert function.__name__ == name
    assert getattr(nbloss, name) is function


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("size_average", [None, True, False, 0])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_legacy_arguments(name: str, size_average: Any, reduce: Any) -> None:
    for reduction in ("none", "sum", "foo"):  # which they override, unless both are None
        kwargs = {"size_average": size_average, "reduce": reduce, "reduction": reduction}
        assert_alike(name, GOOD[name], kwargs, exact=name in LEGACY)


@pytest.mark.parametrize("name", GOOD)
def test_the_oldest_name_of_the_mean(name: str) -> None:
    assert_alike(name, GOOD[name], {"reduction": "elementwise_mean"})


@pytest.mark.parametrize("name", [name for name in GOOD if name != DISTANCE])
def test_positional_arguments(name: str) -> None:
    parameters = list(inspect.signature(getattr(theirs, name)).parameters.values())
    options = [parameter.default for parameter in parameters[len(GOOD[name]) :]]
    assert_alike(name, (*GOOD[name], *options), {})


@pytest.mark.parametrize("parameter", [torch.tensor(0.5), numpy.float32(0.5), numpy.float64(0.5)])
def test_parameters_that_are_numbers_of_a_kind(parameter: Any) -> None:
    assert_alike(HUBER, GOOD[HUBER], {"delta": parameter})
    assert_alike(CROSS, GOOD[CROSS], {"label_smoothing": parameter})
    for name in (RANKING, *TRIPLETS):
        assert_alike(name, GOOD[name], {"margin": parameter})
    for name in CLASSES:
        assert_alike(name, GOOD[name], {"ignore_index": numpy.int64(1)})


# --- tensors in every state -------------------------------------------------------------------

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.mT.contiguous().mT if t.dim() > 1 else t,
    "strided": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "offset": lambda t: torch.cat([t, t])[len(t) :],
    "expanded": lambda t: t[:1].expand(t.shape),
    "negated": lambda t: torch._neg_view(-t) if t.is_floating_point() else t,
    "channels-last": lambda t: (
        t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
    ),
    "not-a-leaf": lambda t: t * 1,
}
IMAGES = {
    NLL: (logs(2, 5, 3, 4), classes(2, 3, 4)),
    CROSS: (real(2, 5, 3, 4), classes(2, 3, 4)),
    HUBER: (real(2, 5, 3, 4), real(2, 5, 3, 4)),
    MULTI: (real(4, 6), labels(4, 6)),
    SOFT: (real(2, 5, 3, 4), positive(2, 5, 3, 4)),
    RANKING: (real(2, 5, 3, 4), real(2, 5, 3, 4), real(2, 5, 3, 4)),
    TRIPLET: (real(2, 5, 3, 4), real(2, 5, 3, 4), real(2, 5, 3, 4)),
    DISTANCE: (real(2, 5, 3, 4), real(2, 5, 3, 4), real(2, 5, 3, 4)),
}
WEIGHTS = {NLL: positive(5).detach(), CROSS: positive(5).detach(), HUBER: positive(2, 5, 3, 4),
           SOFT: positive(2, 5, 3, 4)}  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", IMAGES)
def test_views_and_a_second_backward(name: str, view: str) -> None:
    weight = {"weight": WEIGHTS[name]} if name in WEIGHTS else {}
    for reduction in REDUCTIONS:
        kwargs = {**weight, "reduction": reduction}
        assert_alike(name, IMAGES[name], kwargs, view=VIEWS[view], backward=2)


@pytest.mark.parametrize("name", IMAGES)
def test_which_gradients_are_asked_for(name: str) -> None:
    args = IMAGES[name]
    for needs_grad in product((False, True), repeat=len(args)):
        some = [
            argument.detach().requires_grad_(want and argument.is_floating_point())
            for argument, want in zip(args, needs_grad, strict=True)
        ]
        assert_alike(name, some, {})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", IMAGES)
def test_without_gradients(name: str, mode: Callable) -> None:
    with mode():
        assert_alike(name, IMAGES[name], {})
        # Only a gradient makes torch refuse a class weight that asks for one.
        if name in CLASSES:
            assert_alike(name, IMAGES[name], {"weight": positive(5)})


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("name", GOOD)
def test_autocast(name: str, dtype: torch.dtype) -> None:
    args = [converted(x, dtype) if x.is_floating_point() else x for x in GOOD[name]]
    with torch.autocast("cpu", dtype=BF16):
        assert_alike(name, args, {})


@pytest.mark.parametrize("name", [RANKING, *TRIPLETS])
def test_integers_become_the_default_dtype(name: str) -> None:
    args = [(3 * x).long() for x in GOOD[name]]
    torch.set_default_dtype(F64)
    try:
        assert_alike(name, args, {})
    finally:
        torch.set_default_dtype(F32)


@pytest.mark.parametrize("name", [HUBER, SOFT, RANKING, *TRIPLETS])
def test_one_tensor_in_every_place(name: str) -> None:
    gradients = []
    for library in (ours, theirs):
        x = fresh(IMAGES[SOFT][1])
        getattr(library, name)(*[x] * len(GOOD[name])).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


class Duck:
    """Not a tensor, but wants to be asked."""

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        return function.__name__, args, kwargs


@pytest.mark.parametrize("name", GOOD)
def test_torch_function_is_honoured(name: str) -> None:
    for position in range(len(GOOD[name])):
        args = list(GOOD[name])
        args[position] = Duck()
        assert getattr(ours, name)(*args)[0] == name


# --- modules ----------------------------------------------------------------------------------

MODULES: tuple[tuple[str, str, tuple[dict[str, Any], ...]], ...] = (
    ("NLLLoss", NLL, ({}, {"weight": torch.ones(5), "ignore_index": 2, "reduction": "sum"})),
    ("CrossEntropyLoss", CROSS, ({}, {"weight": torch.ones(5), "label_smoothing": 0.1})),
    ("HuberLoss", HUBER, ({}, {"delta": 0.5, "reduction": "none"}, {"delta": -1})),
    ("MultiLabelMarginLoss", MULTI, ({}, {"reduction": "none"})),
    ("MultiLabelSoftMarginLoss", SOFT, ({}, {"weight": torch.arange(5.0), "reduction": "none"})),
    ("MarginRankingLoss", RANKING, ({}, {"margin": 0.5, "reduction": "sum"})),
    ("TripletMarginLoss", TRIPLET, ({}, {"margin": 2, "p": 1, "swap": True, "eps": 0.1})),
    ("TripletMarginWithDistanceLoss", DISTANCE, (
        {}, {"distance_function": torch.nn.PairwiseDistance(p=1), "margin": 2.0, "swap": True})),
)  # fmt: skip
BUILT = [
    pytest.param(class_name, name, kwargs, id=f"{class_name}-{number}")
    for class_name, name, variants in MODULES
    for number, kwargs in enumerate((*variants, {"reduction": "foo"}))
]


def through_pickle(module: torch.nn.Module) -> torch.nn.Module:
    return pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize(("class_name", "name", "kwargs"), BUILT)
def test_modules(class_name: str, name: str, kwargs: dict[str, Any]) -> None:
    my_class, torchs_class = getattr(nbloss.nn, class_name), getattr(torch.nn, class_name)
    mine, torchs = my_class(**kwargs), torchs_class(**kwargs)
    assert isinstance(mine, torchs_class)
    assert my_class.__name__ == class_name
    assert repr(mine) == repr(torchs)
    assert [name for name, _ in mine.named_buffers()] == list(dict(torchs.named_buffers()))
    assert mine.state_dict().keys() == torchs.state_dict().keys()
    mine.load_state_dict(torchs.state_dict())
    expected = call(torchs, GOOD[name], {})
    assert_same(call(mine, GOOD[name], {}), expected)
    for copied in (copy.deepcopy(mine), through_pickle(mine), mine.float()):
        assert type(copied) is my_class
        assert_same(call(copied, GOOD[name], {}), expected)
    doubled = [x.double() if x.is_floating_point() else x for x in GOOD[name]]
    assert_same(call(mine.double(), doubled, {}), call(torchs.double(), doubled, {}))


MISBUILT = (
    *(("TripletMarginLoss", {"margin": margin}) for margin in (0, -1.0, "a", None)),
    *(("TripletMarginWithDistanceLoss", {"margin": margin}) for margin in (0, -1.0)),
    *(("HuberLoss", {"delta": delta}) for delta in ("a", None, torch.tensor(1.0))),
    *((name, {"weight": [1.0]}) for name in ("NLLLoss", "CrossEntropyLoss")),
    ("HuberLoss", {"size_average": False}),
    ("TripletMarginWithDistanceLoss", {"reduce": False}),
    *(
        (name, {"size_average": size_average, "reduce": reduce, "reduction": "foo"})
        for name, function, _ in MODULES
        if function in LEGACY
        for size_average, reduce in product((None, True, False), repeat=2)
    ),
)


@pytest.mark.parametrize(("class_name", "kwargs"), MISBUILT, ids=str)
def test_construction(class_name: str, kwargs: dict[str, Any]) -> None:
    outcomes = []
    for library in (nbloss.nn, torch.nn):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = getattr(library, class_name)(**kwargs).reduction
            except ERRORS as error:
                result = type(error), str(error)
        outcomes.append((result, [(one.category, str(one.message)) for one in caught]))
    assert outcomes[0] == outcomes[1]
