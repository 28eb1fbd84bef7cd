"""What torch does to functions: derivatives of derivatives, forward mode, transforms."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import nbloss
from cases import CASES, KINKS, Case, Kink, split
from nbloss import distances
from own_loss import in_torch, own_loss
from test_tensors import CASE, loss, tensors_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size"),
    # torch's own formulas for forward mode come by way of its deprecated compiler.
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
]
ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def as_function(case: Any, tensors: dict[str, Tensor], **more: Any) -> tuple[Callable, tuple]:
    """The loss as a function of its differentiable operands alone, and these."""
    names = case.differentiable if isinstance(case, Case) else tuple(case.gradients)

    def function(*operands: Tensor) -> Tensor:
        positional, weight = split({**tensors, **dict(zip(names, operands, strict=True))})
        options = case.options(distances)
        return getattr(nbloss, case.loss)(*positional, **weight, **options, **more)

    return function, tuple(tensors[name].detach() for name in names)


def gradients_of(function: Callable, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in operands]
    return torch.autograd.grad(function(*leaves).sum(), leaves, materialize_grads=True)


def places(operands: tuple) -> tuple[int, ...]:
    return tuple(range(len(operands)))


@ALL
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_grad_agrees_with_the_kernel(case: Case, reduction: str) -> None:
    function, operands = as_function(case, tensors_of(case, "float64"), reduction=reduction)
    expected = gradients_of(function, operands)

    def total(*operands: Tensor) -> Tensor:
        return function(*operands).sum()

    found, value = torch.func.grad_and_value(total, argnums=places(operands))(*operands)
    torch.testing.assert_close(value, total(*operands))
    for mine, kernel in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, kernel)


@pytest.mark.parametrize("kink", [k for k in KINKS if k.gradients], ids=lambda kink: kink.id)
def test_grad_at_kinks(kink: Kink) -> None:
    tensors = {name: torch.as_tensor(value) for name, value in kink.make().items()}
    function, operands = as_function(kink, tensors, reduction=kink.reduction)
    expected = gradients_of(function, operands)
    _, pull = torch.func.vjp(function, *operands)
    for mine, kernel in zip(pull(torch.ones_like(function(*operands))), expected, strict=True):
        # Where a value is NaN or infinite, steps one by one lose more than the kernel does.
        usual = mine.isfinite() & kernel.isfinite()
        torch.testing.assert_close(mine[usual], kernel[usual])


@ALL
def test_forward_mode(case: Case) -> None:
    function, operands = as_function(case, tensors_of(case, "float64"))
    generator = torch.Generator().manual_seed(2)
    tangents = tuple(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in operands)
    slopes = gradients_of(function, operands)
    expected = sum((t * g).sum() for t, g in zip(tangents, slopes, strict=True))
    value, tangent = torch.func.jvp(function, operands, tangents)
    torch.testing.assert_close(value, function(*operands))
    torch.testing.assert_close(tangent, expected)
    with torch.autograd.forward_ad.dual_level():
        duals = [
            torch.autograd.forward_ad.make_dual(x, t)
            for x, t in zip(operands, tangents, strict=True)
        ]
        dual = torch.autograd.forward_ad.unpack_dual(function(*duals))
    torch.testing.assert_close(dual.tangent, expected)


@ALL
def test_double_backward(case: Case) -> None:
    """The second derivative along a direction is the difference of the first ones."""
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in operands]
    leaves = [x.clone().requires_grad_() for x in operands]
    first = torch.autograd.grad(function(*leaves), leaves, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(first, direction, strict=True))
    # A gradient that depends on none of the operands has no graph, in torch as well.
    second = [torch.zeros_like(x) for x in leaves]
    if along.requires_grad:
        second = torch.autograd.grad(along, leaves, materialize_grads=True)
    step = 1e-6
    there, back = (
        gradients_of(function, tuple(x + s * d for x, d in zip(operands, direction, strict=True)))
        for s in (step, -step)
    )
    for mine, right, left in zip(second, there, back, strict=True):
        torch.testing.assert_close(mine, (right - left) / (2 * step), rtol=1e-4, atol=1e-5)


@CASE
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradgradcheck(case: Case, reduction: str) -> None:
    function, operands = as_function(
        case, tensors_of(case, "float64", size="tiny"), reduction=reduction
    )
    leaves = [x.requires_grad_() for x in operands]
    assert torch.autograd.gradcheck(
        function, leaves, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(function, leaves)


@CASE
def test_hessian(case: Case) -> None:
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    through_both = torch.func.hessian(function)(*operands)
    backward_twice = torch.func.jacrev(torch.func.jacrev(function))(*operands)
    torch.testing.assert_close(through_both, backward_twice)
    by_autograd = torch.autograd.functional.hessian(
        lambda x: function(x, *operands[1:]), operands[0]
    )
    torch.testing.assert_close(through_both, by_autograd)


@CASE
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_vmap(case: Case, reduction: str) -> None:
    """A batch of losses at once is the losses one by one; of gradients, too."""
    batch = [tensors_of(case, "float64", rng=seed) for seed in range(3)]
    names = list(batch[0])

    def function(*operands: Tensor) -> Tensor:
        return loss(case, dict(zip(names, operands, strict=True)), reduction=reduction)

    stacked = [torch.stack([tensors[name] for tensors in batch]) for name in names]
    expected = torch.stack([function(*tensors.values()) for tensors in batch])
    torch.testing.assert_close(torch.func.vmap(function)(*stacked), expected)
    needs_grad = tuple(names.index(name) for name in case.differentiable)

    def total(*operands: Tensor) -> Tensor:
        return function(*operands).sum()

    found = torch.func.vmap(torch.func.grad(total, needs_grad))(*stacked)
    for k, gradient in zip(needs_grad, found, strict=True):
        for row, tensors in zip(gradient, batch, strict=True):
            rest = {**tensors}

            def of_one(x: Tensor, rest: dict = rest, k: int = k) -> Tensor:
                return function(*{**rest, names[k]: x}.values())

            (expected_row,) = gradients_of(of_one, (tensors[names[k]],))
            torch.testing.assert_close(row, expected_row)


@CASE
def test_functional_call(case: Case) -> None:
    """Gradients by a module's parameters, as meta-learning takes them."""
    tensors = tensors_of(case, "float64")
    name = case.differentiable[0]
    layer = torch.nn.Identity()
    scale = {"scale": torch.tensor(1.5, dtype=torch.float64)}

    def function(parameters: dict[str, Tensor]) -> Tensor:
        return loss(case, {**tensors, name: layer(tensors[name]) * parameters["scale"]})

    found = torch.func.grad(function)(scale)["scale"]
    leaf = scale["scale"].clone().requires_grad_()
    function({"scale": leaf}).backward()
    torch.testing.assert_close(found, leaf.grad)


def test_bad_targets_under_a_transform() -> None:
    """Nothing may be read out of bounds there, either; the words are torch's."""
    x = torch.randn(3, 4)
    for bad in (4, -1, 10**9):
        for name in ("nll_loss", "cross_entropy"):
            function = functools.partial(getattr(nbloss, name), target=torch.tensor([0, bad, 1]))
            with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
                torch.func.grad(function)(x)
    target = torch.tensor([[0, 4, 1, -1]] * 3)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (bounds|range)"):
        torch.func.grad(functools.partial(nbloss.multilabel_margin_loss, target=target))(x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@CASE
def test_half_types_under_a_transform(case: Case, dtype: torch.dtype) -> None:
    tensors = tensors_of(case)
    half = {k: x.to(dtype) if x.is_floating_point() else x for k, x in tensors.items()}
    function, operands = as_function(case, half)
    expected = gradients_of(function, operands)
    found = torch.func.grad(function, places(operands))(*operands)
    for mine, kernel in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine, kernel)


def test_penalty_on_a_gradient() -> None:
    """What is trained with second derivatives: a mixture of a loss and of its gradient's size."""
    results = []
    for library in (nbloss, torch.nn.functional):
        x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
        value = library.cross_entropy(x, torch.tensor([0, 3, 1]))
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        (value + gradient.square().sum()).backward()
        results.append(x.grad)
    torch.testing.assert_close(*results)


# --- graphs, and modes of the dispatcher ----------------------------------------------------------
# In both a loss is one operator, and its way back another.


def first_derivatives(function: Callable, operands: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients as steps of a graph: of operands that may be stand-ins, and need no history."""
    leaves = [x.detach().requires_grad_() for x in operands]
    return torch.autograd.grad(function(*leaves), leaves)


def batch_of(operands: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    return [tuple(factor * x for x in operands) for factor in (1.0, 2.0, -0.5)]


def stacked(batch: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(map(torch.stack, zip(*batch, strict=True)))


@CASE
def test_vmap_of_a_graph(case: Case) -> None:
    """Of the values, and of the gradients: what a loop over the samples gives."""
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    batch = batch_of(operands)
    graph = make_fx(function)(*operands)
    assert f"nbloss.{case.loss}" in graph.code
    expected = torch.stack([function(*sample) for sample in batch])
    torch.testing.assert_close(torch.func.vmap(graph)(*stacked(batch)), expected)

    graph = make_fx(lambda *operands: first_derivatives(function, operands))(*operands)
    assert f"nbloss.{case.loss}_backward" in graph.code
    found = torch.func.vmap(graph)(*stacked(batch))
    expected = stacked([gradients_of(function, sample) for sample in batch])
    torch.testing.assert_close(tuple(found), expected)
    # One operand of many, and all but one.
    for k in places(operands):
        axes = tuple(0 if i == k else None for i in places(operands))
        given = tuple(torch.stack([x, -x]) if i == k else x for i, x in enumerate(operands))
        found = torch.func.vmap(graph, in_dims=axes)(*given)
        samples = [tuple(x[j] if i == k else x for i, x in enumerate(given)) for j in range(2)]
        expected = stacked([gradients_of(function, sample) for sample in samples])
        torch.testing.assert_close(tuple(found), expected)


@CASE
def test_derivatives_of_a_graph(case: Case) -> None:
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    graph = make_fx(function)(*operands)
    expected = gradients_of(function, operands)
    found = torch.func.grad(graph, places(operands))(*operands)
    torch.testing.assert_close(found, expected)
    tangents = tuple(x.sin() for x in operands)
    _, found = torch.func.jvp(graph, operands, tangents)
    slope = sum((t * g).sum() for t, g in zip(tangents, expected, strict=True))
    torch.testing.assert_close(found, slope)
    torch.testing.assert_close(
        torch.func.hessian(graph)(*operands), torch.func.hessian(function)(*operands)
    )
    batch = batch_of(operands)
    each = torch.func.vmap(torch.func.grad(graph, places(operands)))(*stacked(batch))
    expected = stacked([gradients_of(function, sample) for sample in batch])
    torch.testing.assert_close(each, expected)


@CASE
def test_batches_of_gradients_in_a_mode(case: Case) -> None:
    function, operands = as_function(
        case, tensors_of(case, "float64", size="tiny"), reduction="none"
    )
    leaves = [x.requires_grad_() for x in operands]
    value = function(*leaves)
    directions = torch.stack([torch.ones_like(value), value.detach().sin(), value.detach().cos()])
    each = [
        torch.autograd.grad(function(*leaves), leaves, direction, materialize_grads=True)
        for direction in directions
    ]
    with FlopCounterMode(display=False):
        found = torch.autograd.grad(
            function(*leaves), leaves, directions, is_grads_batched=True, materialize_grads=True
        )
    torch.testing.assert_close(found, stacked(each))


@CASE
def test_gradcheck_in_a_mode(case: Case) -> None:
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    leaves = [x.requires_grad_() for x in operands]
    with FlopCounterMode(display=False):
        assert torch.autograd.gradcheck(function, leaves, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, leaves, check_batched_grad=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of what torch checks
@pytest.mark.parametrize("distance", [None, torch.nn.PairwiseDistance(p=3.0)], ids=["none", "p-3"])
@pytest.mark.parametrize("swap", [False, True])
def test_gradcheck_of_what_is_traced_for_torchscript(distance: Any, swap: bool) -> None:
    """As torch's own tests check triplet_margin_with_distance_loss, patched or not."""
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    leaves = [x.clone().requires_grad_() for x in rows]

    def function(*rows: Tensor) -> Tensor:
        return torch.nn.functional.triplet_margin_with_distance_loss(
            *rows, distance_function=distance, swap=swap
        )

    expected = function(*rows)
    with nbloss.patch_torch():
        traced = torch.jit.trace(function, leaves)
        assert "nbloss::" in str(traced.graph)
        assert torch.autograd.gradcheck(traced, leaves, check_batched_grad=True)
        torch.testing.assert_close(traced(*rows), expected)


@CASE
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_vectorized_jacobian_in_a_mode(case: Case, strategy: str) -> None:
    function, operands = as_function(
        case, tensors_of(case, "float64", size="tiny"), reduction="none"
    )
    expected = torch.autograd.functional.jacobian(function, operands)
    with FlopCounterMode(display=False):
        found = torch.autograd.functional.jacobian(
            function, operands, vectorize=True, strategy=strategy
        )
    torch.testing.assert_close(found, expected)


# --- functionalize --------------------------------------------------------------------------------

functionalize = torch.func.functionalize
# torch's own functions stand in there, and torch has no batching rule for each.
LOOPING = pytest.mark.filterwarnings("ignore:There is a performance drop")


def assert_functionalized(function: Callable, operands: tuple, expected: tuple) -> None:
    """Compare values and gradients in all places that the transform can stand in."""
    needs_grad = places(operands)
    torch.testing.assert_close(functionalize(function)(*operands), function(*operands))
    for gradient in (
        functionalize(torch.func.grad(function, needs_grad)),
        torch.func.grad(functionalize(function), needs_grad),
        make_fx(functionalize(torch.func.grad(function, needs_grad)))(*operands),
        lambda *operands: tuple(
            x[0]
            for x in functionalize(torch.func.vmap(torch.func.grad(function, needs_grad)))(
                *(torch.stack([x, -x]) for x in operands)
            )
        ),
    ):
        torch.testing.assert_close(tuple(gradient(*operands)), expected)


@CASE
@LOOPING
def test_functionalize(case: Case) -> None:
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    assert_functionalized(function, operands, gradients_of(function, operands))


@CASE
@LOOPING
def test_functionalize_a_graph(case: Case) -> None:
    function, operands = as_function(case, tensors_of(case, "float64", size="tiny"))
    graph = make_fx(function)(*operands)
    assert_functionalized(graph, operands, gradients_of(function, operands))


def test_functionalize_a_loss_of_ones_own() -> None:
    generator = torch.Generator().manual_seed(5)
    operands = tuple(torch.randn(2, 3, 4, generator=generator, dtype=torch.float64))
    with own_loss() as quartic_loss:
        assert_functionalized(quartic_loss, operands, gradients_of(in_torch, operands))
