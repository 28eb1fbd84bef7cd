"""Whoever watches operations instead of running them: compilers, export, modes."""

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import nbloss
import nbloss.nn
from cases import CASES, Case, split
from hostile import GOOD
from nbloss import distances
from nbloss.bridge import operators
from nbloss.engine.registry import LOSSES
from test_bridge import CASE, leaves_of, loss, tensors_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size"),
    # What torch's compilers say about themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]
ALL = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
F = torch.nn.functional


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(function: Callable, leaves: dict[str, Tensor], case: Case) -> list[Tensor]:
    """A value and its gradients."""
    value = function(leaves)
    upstream = torch.linspace(0.5, 1.5, value.numel()).view(value.shape)
    wanted = [leaves[name] for name in case.differentiable]
    return [value.detach(), *torch.autograd.grad(value, wanted, upstream)]


def compare(case: Case, compiled: Callable, eager: Callable, **size: Any) -> None:
    for mine, expected in zip(
        results(compiled, leaves_of(case, **size), case),
        results(eager, leaves_of(case, **size), case),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@CASE
def test_compiled_by_inductor(case: Case, dynamic: bool) -> None:
    eager = functools.partial(loss, case)
    compare(case, torch.compile(eager, fullgraph=True, dynamic=dynamic), eager)


@ALL
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiled_for_autograd(case: Case, reduction: str) -> None:
    eager = functools.partial(loss, case, reduction=reduction)
    compare(case, torch.compile(eager, fullgraph=True, backend="aot_eager"), eager)


@CASE
def test_no_more_graphs_than_torch(case: Case) -> None:
    counts = []
    for library in (nbloss, F):
        if library is F and ("distance_function" in case.kwargs or not hasattr(F, case.loss)):
            continue  # torch has no such loss
        counter = CompileCounterWithBackend("aot_eager")

        def function(operands: dict[str, Tensor], library: Any = library) -> Tensor:
            positional, weight = split(operands)
            options = case.options(distances)
            return getattr(library, case.loss)(*positional, **weight, **options)

        compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=True)
        for size in ((5, 7), (6, 9), (11, 4)):
            compiled(leaves_of(case, size=size))
        counts.append(counter.frame_count)
    assert counts[0] <= counts[-1]


class Step(torch.nn.Module):
    """What is trained: a scale of the first operand."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, tensors: dict[str, Tensor]) -> Tensor:
        first = next(iter(tensors))
        return loss(self.case, {**tensors, first: tensors[first] * self.scale})


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@CASE
def test_a_compiled_training_step(case: Case, backend: str) -> None:
    if backend == "inductor" and case.loss not in ("cross_entropy", "triplet_margin_loss"):
        backend = "eager"  # compiling each is slow, and the one is like the other
    curves = []
    for compiling in (False, True):
        model = Step(case)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

        def step(tensors: dict, model: Any = model, optimizer: Any = optimizer) -> Tensor:
            optimizer.zero_grad()
            value = model(tensors)
            value.backward()
            optimizer.step()
            return value.detach()

        if compiling:
            step = torch.compile(step, backend=backend)
        curves.append([float(step(tensors_of(case))) for _ in range(4)])
    torch.testing.assert_close(*map(torch.tensor, curves))


def test_padding_compiled() -> None:
    """Of the rows that end early, torch 2.13 compiles another loss."""
    x = torch.tensor([[0.1, 0.2, 0.4, 0.8], [0.3, 0.1, 0.0, -0.5]], requires_grad=True)
    target = torch.tensor([[3, 0, -1, 1], [-1, 2, 1, 0]])
    compiled = torch.compile(nbloss.multilabel_margin_loss, fullgraph=True)
    value = compiled(x, target)
    torch.testing.assert_close(value, torch.tensor(0.425))
    torch.testing.assert_close(value, F.multilabel_margin_loss(x, target))
    (gradient,) = torch.autograd.grad(value, x)
    expected = torch.autograd.grad(F.multilabel_margin_loss(x, target), x)[0]
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", GOOD)
def test_patched_modules_compiled(name: str) -> None:
    module = getattr(torch.nn, LOSSES[name].module)()
    expected = module(*GOOD[name])
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable:
        seen.append(graph)
        return graph.forward

    with nbloss.patch_torch():
        value = torch.compile(module, fullgraph=True, backend=backend)(*GOOD[name])
    torch.testing.assert_close(value, expected)
    assert f"torch.ops.nbloss.{name}" in seen[0].code


def test_errors_of_compiled_calls() -> None:
    compiled = torch.compile(nbloss.nll_loss, backend="aot_eager")
    x = torch.randn(3, 4).log_softmax(1)
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        compiled(x, torch.tensor([0, 7, 1]))
    with pytest.raises(Exception, match=r"Expected input batch_size \(3\) to match target"):
        compiled(x, torch.tensor([0, 1]))


@pytest.mark.parametrize("name", GOOD)
def test_what_has_no_kernel_is_compiled_by_torch(name: str) -> None:
    """A half with a single, a dtype of torch's own, a weight that wants a gradient."""
    first, *rest = GOOD[name]
    compiled = torch.compile(getattr(nbloss, name), fullgraph=True, backend="eager")
    if name == "multilabel_margin_loss":
        with pytest.raises(Exception, match="meta"):
            compiled(first.to("meta"), *rest)
        return
    value = compiled(first.to("meta"), *(x.to("meta") for x in rest))
    assert value.device.type == "meta"


@CASE
def test_half_types_and_autocast_compiled(case: Case) -> None:
    tensors = tensors_of(case)
    half = {k: x.bfloat16() if x.is_floating_point() else x for k, x in tensors.items()}
    eager = functools.partial(loss, case)
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    value = compiled(half)
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value, eager(half))
    with torch.autocast("cpu"):
        value, expected = compiled(half), eager(half)
    assert value.dtype == expected.dtype
    torch.testing.assert_close(value, expected)


# --- functorch, compiled --------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("kind", ["grad", "vmap", "jvp"])
def test_compiled_transforms(name: str, kind: str) -> None:
    """The same as without a compiler, or an error that says what there is not."""
    first, *rest = GOOD[name]
    function = functools.partial(getattr(nbloss, name))

    def of_first(x: Tensor) -> Tensor:
        return function(x, *rest)

    def transformed(x: Tensor) -> Any:
        if kind == "grad":
            return torch.func.grad(of_first)(x)
        if kind == "vmap":
            return torch.func.vmap(of_first)(torch.stack([x, 2 * x]))
        return torch.func.jvp(of_first, (x,), (torch.ones_like(x),))

    expected = transformed(first)
    try:
        found = torch.compile(transformed, backend="aot_eager")(first)
    except Exception as error:
        assert name == "multilabel_margin_loss", error
        assert "multilabel_margin_loss" in str(error)
        return
    torch.testing.assert_close(found, expected)


# --- export ---------------------------------------------------------------------------------------


class Loss(torch.nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.names = list(case.make(size="tiny"))

    def forward(self, *operands: Tensor) -> Tensor:
        return loss(self.case, dict(zip(self.names, operands, strict=True)))


@CASE
def test_export_there_and_back(case: Case) -> None:
    operands = tuple(tensors_of(case).values())
    program = torch.export.export(Loss(case), operands)
    assert f"nbloss.{case.loss}" in str(program.graph)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    torch.testing.assert_close(loaded(*operands), Loss(case)(*operands))


# --- operators ------------------------------------------------------------------------------------


@ALL
def test_opcheck(case: Case) -> None:
    leaves = leaves_of(case)
    positional, weight = split(leaves)
    given = {**dict(zip(operators.PARAMETERS[case.loss], positional, strict=False)), **weight}
    given |= {"reduction": "sum"}
    for word, value in case.options(distances).items():
        given[word] = value.key if word == "distance_function" else value
    torch.library.opcheck(getattr(torch.ops.nbloss, case.loss).default, (), given)
    wanted = [word in case.differentiable for word in operators.TENSORS[case.loss]]
    detached = {k: x.detach() if isinstance(x, Tensor) else x for k, x in given.items()}
    torch.library.opcheck(
        getattr(torch.ops.nbloss, f"{case.loss}_backward").default,
        (torch.tensor(0.5), wanted),
        detached,
    )


@CASE
def test_an_operator_is_differentiated_twice(case: Case) -> None:
    """A mode of the dispatcher brings the operator into eager code, too."""
    tensors = tensors_of(case, "float64", size="tiny")
    name = case.differentiable[0]

    def second(x: Tensor, mode: Any) -> Tensor:
        x = x.clone().requires_grad_()
        with mode:
            value = loss(case, {**tensors, name: x}).square()
            (first,) = torch.autograd.grad(value, x, create_graph=True)
            return torch.autograd.grad(first.square().sum(), x)[0]

    watched = second(tensors[name], FlopCounterMode(display=False))
    torch.testing.assert_close(watched, second(tensors[name], torch.enable_grad()))


@CASE
def test_modes_of_the_dispatcher(case: Case) -> None:
    tensors = tensors_of(case)
    expected = loss(case, tensors)
    with FakeTensorMode() as mode:
        shadows = {name: mode.from_tensor(x) for name, x in tensors.items()}
        value = loss(case, shadows)
    assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
    # A stand-in that is left over has no memory to read, and is treated as what it is.
    assert loss(case, shadows).shape == expected.shape
    names, operands = list(tensors), tuple(tensors.values())

    def function(*operands: Tensor) -> Tensor:
        return loss(case, dict(zip(names, operands, strict=True)))

    graph = make_fx(function)(*operands)
    assert f"nbloss.{case.loss}" in graph.code
    other = tuple(tensors_of(case, rng=7).values())
    torch.testing.assert_close(graph(*other), function(*other))


@pytest.mark.parametrize("patching", [False, True])
# torch can't script its own function with a distance.
@pytest.mark.parametrize("name", [n for n in GOOD if "with_distance" not in n])
def test_scripted_for_torchscript(name: str, patching: bool) -> None:
    """What is compiled from its source has torch's own function in it."""
    library = torch.nn if patching else nbloss.nn
    with nbloss.patch_torch() if patching else torch.enable_grad():
        scripted = torch.jit.script(getattr(library, LOSSES[name].module)())
    torch.testing.assert_close(scripted(*GOOD[name]), getattr(F, name)(*GOOD[name]))


@CASE
def test_traced_for_torchscript(case: Case) -> None:
    names, operands = zip(*tensors_of(case).items(), strict=True)

    def function(*operands: Tensor) -> Tensor:
        return loss(case, dict(zip(names, operands, strict=True)))

    traced = torch.jit.trace(function, operands)
    other = tuple(tensors_of(case, rng=7).values())
    torch.testing.assert_close(traced(*other), function(*other))
