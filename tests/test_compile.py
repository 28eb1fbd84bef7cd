"""Whoever watches operations instead of running them: compilers, export, modes."""

import contextlib
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
from nbloss.formula.registry import LOSSES
from nbloss.torch import operators
from own_loss import own_loss
from test_tensors import CASE, FIRST, leaves_of, loss, tensors_of

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
MARGIN = "multilabel_margin_loss"


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(function: Callable, leaves: dict[str, Tensor], case: Case) -> list[Tensor]:
    """A value and its gradients."""
    value = function(leaves)
    grad_output = torch.linspace(0.5, 1.5, value.numel()).view(value.shape)
    needs_grad = [leaves[name] for name in case.differentiable]
    return [value.detach(), *torch.autograd.grad(value, needs_grad, grad_output)]


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


def stacked(x: Tensor) -> Tensor:
    return torch.stack([x, 2 * x, -x])


TRANSFORMS: dict[str, Callable] = {
    "grad": lambda function, x: torch.func.grad(function)(x),
    "vmap": lambda function, x: torch.func.vmap(function)(stacked(x)),
    "vmap-of-grad": lambda function, x: torch.func.vmap(torch.func.grad(function))(stacked(x)),
    "jvp": lambda function, x: torch.func.jvp(function, (x,), (x.sin(),)),
    "hessian": lambda function, x: torch.func.hessian(function)(x),
}
TRANSFORM = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)


@pytest.fixture(params=[*GOOD, "quartic_loss"])
def of_first(request: pytest.FixtureRequest) -> Iterator[tuple[Callable, Tensor]]:
    """A loss as a function of its first operand, and this; also of a loss of one's own."""
    with own_loss() as quartic_loss:
        own = request.param == "quartic_loss"
        first, *rest = GOOD["huber_loss" if own else request.param]
        function = quartic_loss if own else getattr(nbloss, request.param)
        rest = [x.double() if x.is_floating_point() else x for x in rest]
        yield lambda x: function(x, *rest), first.double()


@TRANSFORM
def test_a_transform_compiled(of_first: tuple, transform: Callable) -> None:
    function, x = of_first
    transformed = functools.partial(transform, function)
    # Of one transform for sizes that are left open, too.
    for dynamic in (False, True) if transform is TRANSFORMS["vmap-of-grad"] else (False,):
        compiled = torch.compile(transformed, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        torch.testing.assert_close(compiled(x), transformed(x))


@TRANSFORM
def test_a_transform_of_what_is_compiled(of_first: tuple, transform: Callable) -> None:
    function, x = of_first
    compiled = torch.compile(function, backend="aot_eager")
    torch.testing.assert_close(transform(compiled, x), transform(function, x))


def test_a_transform_compiled_by_inductor() -> None:
    """Of the rows that end early, torch 2.13 compiles another loss."""
    function = functools.partial(nbloss.multilabel_margin_loss, target=GOOD[MARGIN][1])
    transformed = functools.partial(TRANSFORMS["vmap-of-grad"], function)
    x = GOOD[MARGIN][0]
    torch.testing.assert_close(torch.compile(transformed, fullgraph=True)(x), transformed(x))


@CASE
def test_batches_of_gradients_compiled(case: Case) -> None:
    """The graph of the way back is run for many gradients at once."""
    tensors = tensors_of(case, "float64", size="tiny")
    names = case.differentiable

    def function(*operands: Tensor) -> Tensor:
        return loss(case, {**tensors, **dict(zip(names, operands, strict=True))}, reduction="none")

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    operands = tuple(tensors[name].requires_grad_() for name in names)
    assert torch.autograd.gradcheck(compiled, operands, check_batched_grad=True)
    jacobian = torch.autograd.functional.jacobian
    torch.testing.assert_close(
        jacobian(compiled, operands, vectorize=True), jacobian(function, operands)
    )


@pytest.mark.parametrize("name", GOOD)
def test_dual_numbers_in_a_graph(name: str) -> None:
    """A graph can't take on the tangents of dual numbers, and says so; torch.func.jvp can."""
    first, *rest = GOOD[name]
    function = functools.partial(getattr(nbloss, name))
    graph = make_fx(function)(first, *rest)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(first, first.sin())
        with pytest.raises(NotImplementedError, match=rf"{name}\(\).*forward mode.*torch.func.jvp"):
            graph(dual, *rest)
        torch.testing.assert_close(graph(first, *rest), function(first, *rest))
    found = torch.func.jvp(lambda x: graph(x, *rest), (first,), (first.sin(),))
    x = first.clone().requires_grad_()
    value = function(x, *rest)
    (gradient,) = torch.autograd.grad(value, x)
    torch.testing.assert_close(found, (value.detach(), (gradient * first.sin()).sum()))


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


@pytest.fixture
def exporting_to_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Say what torch.onnx says while it exports, which takes packages that are not needed here."""
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)


def onnx_decompositions() -> dict:
    """What the exporter replaces by simpler operations before it translates the rest."""
    decomp = pytest.importorskip("torch.onnx._internal.exporter._decomp")
    return decomp.create_onnx_friendly_decomposition_table(set())


# What torch has no function for: a distance of nbloss, and a loss of one's own.
NOT_IN_TORCH = [case for case in CASES if case.id == "triplet_margin_with_distance_loss-cosine"]
NOT_IN_TORCH += [Case("quartic_loss", module="QuarticLoss")]
NOT_IN_TORCH += [case for case in FIRST if not hasattr(F, case.loss)]
# The exporter traces in strict mode only what it could not in the other. Only torch's own functions
# can be traced so; for multilabel_margin_loss they give another result.
ONNX = [
    (case, patching, tracing)
    for case in {case.id: case for case in (*FIRST, *NOT_IN_TORCH)}.values()
    for patching in (("ours",) if case in NOT_IN_TORCH else ("ours", "patched"))
    for tracing in ("non-strict", "trace", "strict")
    if tracing != "strict" or (case not in NOT_IN_TORCH and case.loss != MARGIN)
]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(("case", "patching", "tracing"), ONNX, ids=lambda x: getattr(x, "id", x))
def test_exported_to_onnx(case: Case, patching: str, tracing: str, exporting_to_onnx: None) -> None:
    """No operator is left that only nbloss knows."""
    tensors = tensors_of(case)
    operands = split(tensors)[0]
    patched = patching == "patched"
    with own_loss(), nbloss.patch_torch() if patched else contextlib.nullcontext():
        library = torch.nn if patched else nbloss.nn
        module = getattr(library, case.module)(**case.module_options(tensors, distances))
        expected = module(*operands)  # by the kernels
        if tracing == "trace":
            traced = torch.jit.trace(module, operands)
            assert "nbloss::" not in str(traced.inlined_graph)
            found = traced(*operands)
        else:
            program = torch.export.export(module, operands, strict=tracing == "strict")
            assert "nbloss." not in str(program.graph)
            program = program.run_decompositions(onnx_decompositions())
            called = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
            assert called
            known = ("aten.", "prims.", "<built-in function getitem>")
            assert {name for name in called if not name.startswith(known)} == set()
            found = program.module()(*operands)
    torch.testing.assert_close(found, expected)


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
    needs_grad = [word in case.differentiable for word in operators.TENSORS[case.loss]]
    detached = {k: x.detach() if isinstance(x, Tensor) else x for k, x in given.items()}
    torch.library.opcheck(
        getattr(torch.ops.nbloss, f"{case.loss}_backward").default,
        (torch.tensor(0.5), needs_grad),
        detached,
    )


def test_distances_as_graphs_of_earlier_releases_name_them() -> None:
    rows = GOOD["triplet_margin_with_distance_loss"]
    distance = torch.nn.PairwiseDistance(p=3.0, eps=1e-3)
    expected = F.triplet_margin_with_distance_loss(*rows, distance_function=distance)
    operator = torch.ops.nbloss.triplet_margin_with_distance_loss
    torch.testing.assert_close(operator(*rows, "pairwise 3.0 0.001"), expected)
    graph = make_fx(
        functools.partial(nbloss.triplet_margin_with_distance_loss, distance_function=distance)
    )(*rows)
    torch.testing.assert_close(graph(*rows), expected)


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


def test_traced_for_torchscript_after_calls_of_other_shapes() -> None:
    """What is known of them is not looked through while torch records."""

    def function(*operands: Tensor) -> Tensor:
        return nbloss.huber_loss(*operands)

    for rows in (2, 3):
        function(torch.zeros(rows, 5), torch.ones(rows, 5))
    operands = torch.zeros(4, 5), torch.ones(4, 5)
    traced = torch.jit.trace(function, operands)
    assert traced(2.0 * operands[1], operands[1]).item() == 0.5
