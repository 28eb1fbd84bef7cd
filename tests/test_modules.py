"""The modules of ``nbloss.nn``: compiled, exported, traced, copied, alone and where they are used.

What is compiled is compared with torch's module of the same name, as torch runs it uncompiled.
"""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import nbloss.nn
from cases import CASES, Case, split
from in_torch import DISTANCES
from nbloss import distances
from own_loss import InTorch, own_loss
from test_tensors import FIRST, leaves_of, tensors_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size"),
    # What torch's compilers say about themselves.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute"),
]
OWN = Case("quartic_loss", module="QuarticLoss", kwargs={"scale": 2.0})
# One case of each module; and torch's own module for a distance, which is what stands for None.
# Losses that torch lacks are like the one of one's own.
ONE_OF_EACH = [case for case in FIRST if hasattr(torch.nn, case.module or "")] + [OWN]
ONE_OF_EACH += [c for c in CASES if c.id == "triplet_margin_with_distance_loss-euclidean-swap"]


def of_cases(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.id)


@pytest.fixture(scope="module", autouse=True)
def a_loss_of_ones_own() -> Iterator[None]:
    with own_loss():
        yield


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ours(case: Case, **size: Any) -> torch.nn.Module:
    options = case.module_options(tensors_of(case, **size), distances)
    return getattr(nbloss.nn, case.module)(**options)


def theirs(case: Case, **size: Any) -> torch.nn.Module:
    """torch's own module, with torch's own distance."""
    options = case.module_options(tensors_of(case, **size))
    if "distance_function" in options:
        options["distance_function"] = DISTANCES[options["distance_function"]]
    return InTorch(**options) if case is OWN else getattr(torch.nn, case.module)(**options)


def operands(case: Case, **size: Any) -> tuple[Tensor, ...]:
    """What the module is called with; the weight is the constructor's."""
    return split(leaves_of(case, **size))[0]


def value_and_gradients(module: Callable, given: tuple[Tensor, ...]) -> list[Tensor]:
    value = module(*given)
    leaves = [x for x in given if x.requires_grad]
    return [value.detach(), *torch.autograd.grad(value, leaves, materialize_grads=True)]


# --- alone ----------------------------------------------------------------------------------------


@of_cases(ONE_OF_EACH)
def test_compiled(case: Case) -> None:
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable:
        seen.append(graph.code)
        return graph.forward

    found = value_and_gradients(
        torch.compile(ours(case), fullgraph=True, backend=backend), operands(case)
    )
    torch.testing.assert_close(found, value_and_gradients(theirs(case), operands(case)))
    (code,) = seen
    assert f"torch.ops.nbloss.{case.loss}" in code


def test_compiled_by_inductor() -> None:
    case = next(case for case in FIRST if case.loss == "huber_loss")
    found = value_and_gradients(torch.compile(ours(case), fullgraph=True), operands(case))
    torch.testing.assert_close(found, value_and_gradients(theirs(case), operands(case)))


@of_cases(ONE_OF_EACH)
def test_compiled_for_any_size(case: Case) -> None:
    """All that torch can leave open is left open: sizes, and the numbers among the options."""
    compiled = torch.compile(ours(case), fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((5, 7), (6, 9)):
        found = value_and_gradients(compiled, operands(case, size=size))
        expected = value_and_gradients(theirs(case), operands(case, size=size))
        torch.testing.assert_close(found, expected)


@of_cases([*ONE_OF_EACH, *(c for c in CASES if c.id == "multilabel_soft_margin_loss-class-weight")])
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_exported_for_any_batch(case: Case, strict: bool) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    given = split(tensors_of(case, size=(5, 7)))[0]
    shapes = [{0: batch} if x.dim() and len(x) == 5 else None for x in given]
    program = torch.export.export(ours(case), given, dynamic_shapes=shapes, strict=strict)
    assert f"nbloss.{case.loss}" in str(program.graph)
    for size in ((5, 7), (11, 7)) if any(shapes) else ((5, 7),):
        other = split(tensors_of(case, rng=7, size=size))[0]
        torch.testing.assert_close(program.module()(*other), theirs(case)(*other))


class Masked(torch.nn.Module):
    """A loss of the samples that a mask chooses: torch learns how many when it runs."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, mask: Tensor, *operands: Tensor) -> Tensor:
        return self.module(*(x[mask] for x in operands))


@of_cases([case for case in ONE_OF_EACH if "1d" not in case.id])
def test_exported_for_a_number_of_samples_that_is_not_known(case: Case) -> None:
    mask = torch.tensor([True, False, True, True, False])
    given = (mask, *split(tensors_of(case, size=(5, 7)))[0])
    program = torch.export.export(Masked(ours(case)), given)
    for chosen in (mask, ~mask):
        given = (chosen, *given[1:])
        torch.testing.assert_close(program.module()(*given), Masked(theirs(case))(*given))


@of_cases(ONE_OF_EACH)
def test_half_types_and_autocast_compiled(case: Case) -> None:
    half = [x.bfloat16() if x.is_floating_point() else x for x in split(tensors_of(case))[0]]
    compiled = torch.compile(ours(case), fullgraph=True, backend="aot_eager")
    # torch's own modules round after each step, or know no half types; so float32 is the measure.
    expected = theirs(case)(*(x.float() if x.is_floating_point() else x for x in half))
    value = compiled(*half)
    assert value.dtype == torch.bfloat16
    torch.testing.assert_close(value.float(), expected, rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu"):
        value = compiled(*half)
        assert value.dtype == ours(case)(*half).dtype
    torch.testing.assert_close(value.float(), expected, rtol=2e-2, atol=2e-2)


# torch.fx has no place for a function among the arguments of another, not even for torch's own.
@of_cases([case for case in ONE_OF_EACH if "distance_function" not in case.kwargs])
def test_traced_symbolically(case: Case) -> None:
    traced = torch.fx.symbolic_trace(ours(case))
    found = value_and_gradients(traced, operands(case))
    torch.testing.assert_close(found, value_and_gradients(theirs(case), operands(case)))


@of_cases(ONE_OF_EACH)
def test_operands_by_their_names(case: Case) -> None:
    tensors = {k: x for k, x in tensors_of(case).items() if k != "weight"}
    given = dict(reversed(tensors.items())) if case is OWN else tensors
    torch.testing.assert_close(ours(case)(**given), theirs(case)(*tensors.values()))


# --- kept -----------------------------------------------------------------------------------------


def pickled(module: torch.nn.Module) -> Any:
    return pickle.loads(pickle.dumps(module))


def saved(module: torch.nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("keep", [copy.deepcopy, copy.copy, pickled, saved])
@of_cases(ONE_OF_EACH)
def test_copied_and_pickled(case: Case, keep: Callable) -> None:
    module = ours(case).eval()
    kept = keep(module)
    assert type(kept) is type(module)
    assert repr(kept) == repr(module)
    assert kept.training is False
    assert kept.state_dict().keys() == module.state_dict().keys()
    torch.testing.assert_close(kept(*operands(case)), theirs(case)(*operands(case)))


def test_a_loss_of_ones_own_is_pickled_for_another_process(tmp_path: Any) -> None:
    """Which imports the definition that the module comes from, as it would any other class."""
    (tmp_path / "definitions.py").write_text(
        "import nbloss\n"
        "@nbloss.pointwise\n"
        "def cubic_loss(input, target, scale=1.0):\n"
        "    return ((input - target) / scale) ** 3\n"
    )
    (tmp_path / "write.py").write_text(
        "import pickle, definitions, nbloss.nn\n"
        "print(pickle.dumps(nbloss.nn.CubicLoss(scale=2.0)).hex())\n"
    )
    (tmp_path / "read.py").write_text(
        "import pickle, sys, torch\n"
        "module = pickle.loads(bytes.fromhex(sys.stdin.read()))\n"
        "print(module, float(module(torch.full((3,), 4.0), torch.zeros(3))))\n"
    )
    text = ""
    for script in ("write.py", "read.py"):
        command = [sys.executable, "-W", "error", script]
        done = subprocess.run(
            command, cwd=tmp_path, input=text, capture_output=True, text=True, check=True
        )
        text = done.stdout
    assert text == "CubicLoss(scale=2.0, reduction='mean') 8.0\n"


# --- inside a model that is trained ---------------------------------------------------------------


class Model(torch.nn.Module):
    """What is trained: a scale of the first operand."""

    def __init__(self, criterion: torch.nn.Module) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(1.5))
        self.criterion = criterion

    def forward(self, first: Tensor, *rest: Tensor) -> Tensor:
        return self.criterion(first * self.scale, *rest)


def curve(case: Case, criterion: torch.nn.Module, compiled: str = "") -> Tensor:
    """The losses of a few steps."""
    model: Any = Model(criterion)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if compiled == "model":
        model = torch.compile(model, fullgraph=True, backend="aot_eager")

    def step(given: tuple[Tensor, ...]) -> Tensor:
        optimizer.zero_grad()
        value = model(*given)
        if "penalty" in compiled:
            (slope,) = torch.autograd.grad(value, model.scale, create_graph=True)
            value = value + slope.square()
        value.backward()
        optimizer.step()
        return value.detach()

    if "step" in compiled:
        step = torch.compile(step, backend="eager" if "penalty" in compiled else "aot_eager")
    given = split(tensors_of(case))[0]
    return torch.stack([step(given) for _ in range(4)])


@of_cases(ONE_OF_EACH)
def test_a_compiled_training_step(case: Case) -> None:
    torch.testing.assert_close(curve(case, ours(case), "step"), curve(case, theirs(case)))


def test_a_compiled_model() -> None:
    case = next(case for case in FIRST if case.loss == "cross_entropy")
    torch.testing.assert_close(curve(case, ours(case), "model"), curve(case, theirs(case)))


@of_cases([case for case in ONE_OF_EACH if case.loss in ("huber_loss", "cross_entropy")])
def test_a_compiled_step_that_differentiates_twice(case: Case) -> None:
    found = curve(case, ours(case), "step with a penalty")
    torch.testing.assert_close(found, curve(case, theirs(case), "penalty"))
