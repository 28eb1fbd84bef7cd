"""torch's own test material, with our losses in the place of torch's.

torch ships the cases that it tests itself with: samples of each function in every dtype, inputs of
each module, and older lists of criteria. All that belongs to our losses runs here; nothing is left
out by name. The material is private to torch, and may be missing from another version.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nbloss
import nbloss.nn
from nbloss.formula.registry import LOSSES
from versions import TORCH

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size"),
    pytest.mark.filterwarnings("ignore:size_average and reduce args"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar"),
]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        from torch.testing._internal import common_nn
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
        from torch.testing._internal.common_utils import TestCase as TorchTestCase
    except ImportError as missing:
        pytest.skip(f"this torch brings no test material: {missing}", allow_module_level=True)

PREFIX = "nn.functional."
OPS = [op for op in op_db if op.name.removeprefix(PREFIX) in LOSSES and PREFIX in op.name]
MODULES = [info for info in module_db if hasattr(nbloss.nn, info.module_cls.__name__)]
CLASSES = tuple(definition.module for definition in LOSSES.values())
if hasattr(common_nn, "get_new_module_tests"):
    MODULE_TESTS = common_nn.get_new_module_tests()
else:  # older torch
    MODULE_TESTS = common_nn.new_module_tests
CRITERIA = [
    (kind, parameters)
    for kind, listed in (
        (common_nn.CriterionTest, common_nn.criterion_tests),
        (common_nn.NewModuleTest, MODULE_TESTS),
    )
    for parameters in listed
    # NLLLoss2d and NLLLossNd are NLLLoss.
    if parameters.get("fullname", "").split("_")[0].replace("2d", "").replace("Nd", "") in CLASSES
]
TOLERANCES = {
    # Older torch rounds after every step.
    torch.float16: {"rtol": 6e-3 if TORCH >= (2, 13) else 6e-2, "atol": 4e-3},
    torch.bfloat16: {"rtol": 5e-2, "atol": 4e-2},
    torch.float32: {"rtol": 2e-5, "atol": 2e-6},
    torch.complex64: {"rtol": 2e-5, "atol": 2e-6},
}


@pytest.fixture(autouse=True)
def same_numbers_every_time() -> None:
    """The material draws its numbers when it is asked for them."""
    torch.manual_seed(0)


def name_of(op: Any) -> str:
    return op.name.removeprefix(PREFIX)


def count(record: Callable, cases: int) -> None:
    """Say how many of torch's cases a test holds; the sum is printed at the end of the run."""
    assert cases > 0
    record("torch_cases", cases)


def leaves(value: Any) -> list[Tensor]:
    """All tensors in arguments that ask for a gradient."""
    found = torch.utils._pytree.tree_leaves(value)
    return [x for x in found if isinstance(x, Tensor) and x.requires_grad]


def fresh(value: Any) -> Any:
    """Copy arguments, tensors as leaves of their own."""
    return torch.utils._pytree.tree_map_only(
        Tensor, lambda x: x.detach().clone().requires_grad_(x.requires_grad), value
    )


def assert_same(mine: Callable, theirs: Callable, arguments: Any, dtype: torch.dtype) -> None:
    """Compare values and gradients of two functions of the same arguments."""
    results = []
    for function in (mine, theirs):
        args, kwargs = fresh(arguments)
        value = function(*args, **kwargs)
        needs_grad = leaves((args, kwargs))
        gradients: Any = []
        if value.requires_grad:
            grad_output = torch.ones_like(value)
            gradients = torch.autograd.grad(value, needs_grad, grad_output, materialize_grads=True)
        results.append([value.detach(), *gradients])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, **TOLERANCES.get(dtype, {}))


@pytest.mark.parametrize(
    ("op", "dtype"),
    [(op, dtype) for op in OPS for dtype in sorted(op.dtypes, key=str)],
    ids=lambda x: name_of(x) if hasattr(x, "name") else str(x),
)
def test_samples(op: Any, dtype: torch.dtype, record_property: Callable) -> None:
    differentiable = dtype.is_floating_point or dtype.is_complex
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=differentiable))
    count(record_property, 2 * len(samples))
    mine = getattr(nbloss, name_of(op))
    for sample in samples:
        for form in (sample, sample.noncontiguous()):
            assert_same(mine, op.op, ((form.input, *form.args), form.kwargs), dtype)


@pytest.mark.parametrize("op", OPS, ids=name_of)
def test_derivatives(op: Any, record_property: Callable) -> None:
    """First and second, backward and forward, one by one and in batches."""
    samples = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
    count(record_property, len(samples))
    loss = getattr(nbloss, name_of(op))
    for sample in samples:
        everything = (sample.input, *sample.args, *sample.kwargs.values())
        needs_grad = [x for x in everything if isinstance(x, Tensor) and x.requires_grad]
        if not needs_grad[0].numel():
            continue  # gradcheck has nothing to vary

        def function(*inputs: Tensor, everything: tuple = everything, sample: Any = sample) -> Any:
            given = iter(inputs)
            values = [
                next(given) if isinstance(x, Tensor) and x.requires_grad else x for x in everything
            ]
            split = 1 + len(sample.args)
            return loss(*values[:split], **dict(zip(sample.kwargs, values[split:], strict=True)))

        assert torch.autograd.gradcheck(
            function,
            needs_grad,
            fast_mode=True,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )
        assert torch.autograd.gradgradcheck(function, needs_grad, fast_mode=True)


@pytest.mark.parametrize("op", [op for op in OPS if op.error_inputs_func], ids=name_of)
def test_error_inputs(op: Any, record_property: Callable) -> None:
    errors = list(op.error_inputs("cpu"))
    count(record_property, len(errors))
    loss = getattr(nbloss, name_of(op))
    for case in errors:
        sample = case.sample_input
        with pytest.raises(case.error_type, match=case.error_regex):
            loss(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize(
    ("info", "dtype"),
    [(info, dtype) for info in MODULES for dtype in info.dtypes],
    ids=lambda x: x.module_cls.__name__ if hasattr(x, "module_cls") else str(x),
)
def test_modules(info: Any, dtype: torch.dtype, record_property: Callable) -> None:
    inputs = info.module_inputs_func(info, "cpu", dtype, requires_grad=True, training=True)
    count(record_property, len(inputs))
    mine = getattr(nbloss.nn, info.module_cls.__name__)
    for given in inputs:
        built = given.constructor_input
        arguments = given.forward_input
        modules = [
            cls(*copy.deepcopy(built.args), **copy.deepcopy(built.kwargs)).to(dtype)
            for cls in (mine, info.module_cls)
        ]
        assert_same(*modules, (arguments.args, arguments.kwargs), dtype)
        if given.reference_fn is not None:
            args, kwargs = fresh((arguments.args, arguments.kwargs))
            expected = given.reference_fn(modules[0], *args, **kwargs)
            value = modules[0](*args, **kwargs)
            torch.testing.assert_close(value, expected, equal_nan=True, **TOLERANCES.get(dtype, {}))


class Judge(TorchTestCase):
    """What torch's lists of criteria expect of the test that runs them."""

    def _forward(self, module: torch.nn.Module, given: Any) -> Tensor:
        return module(*given) if isinstance(given, tuple) else module(given)

    def _forward_criterion(
        self, criterion: torch.nn.Module, given: Any, target: Tensor, extra_args: tuple = ()
    ) -> Tensor:
        given = given if isinstance(given, tuple) else (given,)
        return criterion(*given, target, *extra_args)

    def _backward(self, module: Any, given: Any, output: Tensor, grad_output: Tensor) -> Any:
        output.backward(grad_output, retain_graph=True)
        return tuple(x.grad for x in given) if isinstance(given, tuple) else given.grad

    def _zero_grad_input(self, given: Any) -> None:
        for x in given if isinstance(given, tuple) else (given,):
            x.grad = None

    def _get_parameters(self, module: torch.nn.Module) -> tuple[list, list]:
        return list(module.parameters()), [p.grad for p in module.parameters()]

    def _zero_grad_parameters(self, module: torch.nn.Module) -> None:
        module.zero_grad()

    def runTest(self) -> None:
        """Nothing: torch's objects run themselves."""


@pytest.mark.parametrize(
    ("kind", "parameters"), CRITERIA, ids=lambda x: x["fullname"] if isinstance(x, dict) else ""
)
def test_criteria(kind: type, parameters: dict[str, Any], record_property: Callable) -> None:
    """With ours patched in, and second derivatives checked where torch itself has none, too."""
    count(record_property, 1)
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # what the cases that name none are meant for
    try:
        with nbloss.patch_torch():
            kind(**{**parameters, "check_gradgrad": True})(Judge())
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
