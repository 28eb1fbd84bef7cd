"""The losses as operators of ``torch.library``, for what watches operations, such as torch.compile.

``torch.compile``, ``torch.export`` and the modes of the dispatcher see ``nbloss::huber_loss`` as
one step of a graph, with a stand-in that tells the shape of its value and an operator of its own
for the gradients. The signatures come from those of the public functions. Under the transforms of
``torch.func`` and for batches of gradients both operators are taken apart into operations of torch
(:mod:`nbloss.torch.composite`). ``torch.onnx``, which can translate torch's operations alone, is
given torch's own functions instead.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from nbloss.backends import torch as backend
from nbloss.backends.unsupported import Unsupported
from nbloss.engine.evaluate import PATTERNS, backward
from nbloss.engine.problem import Problem
from nbloss.formula.distance import Distance, recall
from nbloss.formula.registry import FUNCTIONS, LOSSES
from nbloss.losses.distances import lp
from nbloss.torch import composite, fallback, sharded

library: Any = torch.library.Library("nbloss", "DEF")  # type: ignore[no-untyped-call]
backend.PLAIN.update((FakeTensor, FunctionalTensor))

# The arguments of each operator in their order, and those of them that are tensors. An operator has
# the name of its loss; one's own loss that is defined again gets another, with a number behind it.
PARAMETERS: dict[str, tuple[str, ...]] = {}
TENSORS: dict[str, tuple[str, ...]] = {}
OPERATORS: dict[str, Any] = {}
PAIRWISE = "pairwise"  # stands for torch's own module, before its parameters


def call(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Put the operator of a loss into whatever graph is in the making."""
    name = function.build.__name__  # torch 2.15 takes the function's own from its code
    operator = function.build.operator
    words = PARAMETERS[operator][: len(arguments)]  # torch 2.6 compiles any zip as a strict one
    given = {**dict(zip(words, arguments, strict=False)), **named}
    served = len(given) == len(arguments) + len(named) and takes(name, operator, given)
    if not served:
        return fallback.fall_back(name, NotImplementedError(REFUSAL.format(name)), arguments, named)
    if exports_to_onnx():
        own = fallback.torch_function(name, named)
        if own is None or LOSSES[name].is_compiled_wrongly:
            return composite.composed(function, arguments, named)
        return own(*arguments, **named)
    if forward_ad._current_level >= 0 and not torch._C._are_functorch_transforms_active():
        # An operator has no tangent outside of the transforms. torch's own function has.
        error = NotImplementedError(DUAL_NUMBERS.format(name))
        if LOSSES[name].is_compiled_wrongly:
            raise error
        return fallback.fall_back(name, error, arguments, named)
    distance = given.pop("distance_function", None)
    if isinstance(distance, Distance):
        given["distance_function"] = distance.key
    elif distance is not None:
        # In hexadecimals, since torch can't compile a text of decimals with dynamic=True.
        numbers = f"{float(distance.norm).hex()} {float(distance.eps).hex()}"
        given["distance_function"] = f"{PAIRWISE} {numbers}"
    first = next(given[word] for word in TENSORS[operator] if given.get(word) is not None)
    if backend.goes_to_float32(name, first.device):
        for word in TENSORS[operator]:
            x = given.get(word)
            if x is not None and x.dtype in backend.HALF:
                given[word] = x.float()
    return OPERATORS[operator](**given)


DUAL_NUMBERS = (
    "{}(): a compiled or traced graph can't differentiate this loss in forward mode by dual "
    "numbers; use torch.func.jvp, or do not compile it"
)
REFUSAL = (
    "{}(): under a compiler or a mode of torch nbloss takes dense tensors alone, all on the CPU or "
    "on one CUDA device"
)


def exports_to_onnx() -> bool:
    """Whether ``torch.onnx`` is exporting, for which our operators are unknown ones."""
    return torch.onnx.is_in_onnx_export()


# torch's compiler calls this function as it is; in its source it would find a plain False.
exports_to_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]


def takes(name: str, operator: str, given: dict[str, Any]) -> bool:
    """Whether there is a kernel for the tensors of a call."""
    first = None
    for word in TENSORS[operator]:
        x = given.get(word)
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.layout != torch.strided or sharded.is_dtensor(x):
            return False
        if first is None:
            first, device = x.dtype, x.device
            if first not in backend.FLOATS or not backend.is_served(device):
                return False
        if x.device != device:
            return False
        if x.dtype != first and x.dtype not in backend.INTEGERS and x.dtype != torch.uint8:
            return False
        if word == "weight" and LOSSES[name].pattern == "classes" and x.requires_grad:
            return False
    distance = given.get("distance_function")
    return distance is None or isinstance(distance, Distance) or backend.is_pairwise(distance)


# --- how an operator is made ----------------------------------------------------------------------


def schema(function: Callable) -> str:
    """Write the arguments of a function in torch's language."""
    types = {bool: "bool", int: "int", float: "float", str: "str", bool | None: "bool?"}
    words = []
    for word, parameter in inspect.signature(function).parameters.items():
        annotation, default = parameter.annotation, parameter.default
        if default is parameter.empty:
            words.append(f"Tensor {word}")
        elif word == "distance_function":
            words.append(f'str {word}=""')
        elif annotation is Any:
            words.append(f"Tensor? {word}=None")
        else:
            kind = types.get(annotation) or types[type(default)]
            written = f'"{default}"' if isinstance(default, str) else str(default)
            words.append(f"{kind} {word}={written}")
    return ", ".join(words)


def problem_of(function: Any, given: tuple) -> Problem:
    """Check the arguments of an operator, which come in their order."""
    problem = function.build(backend, **readable(function, given))
    return backend.on_one_device(problem)


def readable(function: Any, given: tuple) -> dict[str, Any]:
    """Give the arguments of the function that an operator stands for."""
    words = PARAMETERS[function.build.operator]
    named = dict(zip(words, given, strict=False))  # defaults at the end are left out
    if "distance_function" in named:
        key = named["distance_function"]
        if key.startswith(PAIRWISE):
            p, eps = (
                float.fromhex(text) if "x" in text else float(text)  # decimals up to nbloss 0.1.0
                for text in key.split()[1:]
            )
            return {**named, "distance_function": lp(p, eps)}
        named["distance_function"] = recall(key) if key else None
    return named


def define(function: Any) -> None:
    """Make the operators of a loss: its value, and its gradients."""
    if hasattr(function.build, "operator"):
        return
    loss = name = function.build.__name__
    number = 1
    while name in OPERATORS:
        number += 1
        name = f"{loss}_{number}"
    function.build.operator = name
    definition = LOSSES[loss]
    constants = set(definition.operands) - set(definition.differentiable)
    arguments = schema(function)
    words = PARAMETERS[name] = tuple(inspect.signature(function).parameters)
    TENSORS[name] = tuple(
        word for word, kind in zip(words, arguments.split(", "), strict=True) if "Tensor" in kind
    )
    is_tensor = tuple(word in TENSORS[name] for word in words)
    tags = (torch.Tag.pt2_compliant_tag,)
    slopes = f"{name}_backward"
    library.define(f"{name}({arguments}) -> Tensor", tags=tags)
    library.define(
        f"{slopes}(Tensor grad_output, bool[] needs_grad, {arguments}) -> Tensor[]", tags=tags
    )
    operator: Any = getattr(torch.ops.nbloss, name).default
    slopes_operator: Any = getattr(torch.ops.nbloss, slopes).default
    OPERATORS[name] = operator

    def value(*given: Any) -> Tensor:
        if forward_ad._current_level >= 0 and any(has_tangent(x) for x in operands(given)):
            # Autograd, which would have taken the tangent on, has been passed already.
            raise NotImplementedError(DUAL_NUMBERS.format(loss))
        return function(**readable(function, given))

    def value_stand_in(*given: Any) -> Tensor:
        try:
            problem = problem_of(function, given)
        except Unsupported as reason:
            return fallback.fall_back(loss, reason.error, (), readable(function, given))
        return problem.operands[0].new_empty(shape_of(problem))

    def gradients(grad_output: Tensor, needs_grad: list[bool], *given: Any) -> list[Tensor]:
        problem = problem_of(function, given)
        by_operand = in_order(problem, needs_grad)
        value = problem.operands[0].new_empty(shape_of(problem), device="meta")
        if (grad_output.dtype, grad_output.shape) != (value.dtype, value.shape):
            raise RuntimeError(
                f"{slopes}(): upstream must be of {value.dtype} and of shape {list(value.shape)}, "
                f"got {grad_output.dtype} and {list(grad_output.shape)}"
            )
        found = backward(backend, problem, grad_output, by_operand)
        return as_given(name, problem, found, given)

    def transformed(*given: Any) -> Tensor:
        return composite.composed(function, (), readable(function, given))

    def transformed_gradients(
        grad_output: Tensor, needs_grad: list[bool], *given: Any
    ) -> list[Tensor]:
        problem = problem_of(function, given)
        found = composite.pullback(problem, grad_output, in_order(problem, needs_grad))
        return as_given(name, problem, found, given)

    def gradients_stand_in(
        grad_output: Tensor, needs_grad: list[bool], *given: Any
    ) -> list[Tensor]:
        return [
            x.new_empty(x.shape)
            for x, needed in zip(operands(given), differentiable(needs_grad), strict=False)
            if needed
        ]

    def operands(given: tuple) -> list[Any]:
        return [x for x, tensor in zip(given, is_tensor, strict=False) if tensor]

    def differentiable(needs_grad: list[bool]) -> list[bool]:
        """Say of each tensor whether it gets a gradient, for those that need one."""
        named = zip(TENSORS[name], needs_grad, strict=False)
        return [needed and word not in constants for word, needed in named]

    def in_order(problem: Problem, needs_grad: list[bool]) -> tuple[bool, ...]:
        chosen = dict(zip(TENSORS[name], differentiable(needs_grad), strict=False))
        return tuple(chosen[word] for word in problem.names)

    def keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
        for x, word in zip(operands(inputs), TENSORS[name], strict=False):
            if (
                word == "weight"
                and definition.pattern == "classes"
                and x is not None
                and x.requires_grad
            ):
                raise RuntimeError(f"{loss}() has no gradient with respect to weight")
        ctx.save_for_backward(*operands(inputs))
        ctx.others = tuple(
            None if tensor else x for x, tensor in zip(inputs, is_tensor, strict=False)
        )

    def back(ctx: Any, grad_output: Tensor) -> tuple:
        saved = iter(ctx.saved_tensors)
        given = tuple(
            next(saved) if tensor else x for x, tensor in zip(ctx.others, is_tensor, strict=False)
        )
        needs_grad = differentiable(operands(ctx.needs_input_grad))
        if torch.is_grad_enabled():
            # The gradient is differentiated once more.
            problem = problem_of(function, given)
            slopes = composite.gradients(problem, grad_output, in_order(problem, needs_grad))
            found = iter(as_given(name, problem, slopes, given))
        else:
            found = iter(slopes_operator(grad_output, needs_grad, *given))
        chosen = dict(zip(TENSORS[name], needs_grad, strict=False))
        inputs = words[: len(ctx.needs_input_grad)]  # defaults at the end are left out
        return tuple(next(found) if chosen.get(word) else None for word in inputs)

    for device in ("CPU", "CUDA"):
        library.impl(name, value, device)
        library.impl(slopes, gradients, device)
    # The first key belongs to the transforms of torch.func, which ask it before anything else; the
    # second to the batches of torch.autograd.grad(is_grads_batched=True).
    for transform in ("FuncTorchDynamicLayerFrontMode", "Batched"):
        library.impl(name, transformed, transform)
        library.impl(slopes, transformed_gradients, transform)
    torch.library.register_fake(f"nbloss::{name}", value_stand_in, lib=library)
    torch.library.register_fake(f"nbloss::{slopes}", gradients_stand_in, lib=library)
    torch.library.register_autograd(f"nbloss::{name}", back, setup_context=keep, lib=library)


def has_tangent(x: Tensor | None) -> bool:
    return x is not None and forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def shape_of(problem: Problem) -> tuple[int, ...]:
    """Shape of a problem's value."""
    if problem.reduction != "none":
        return ()
    return PATTERNS[problem.definition.pattern].value_shape(problem)


def as_given(name: str, problem: Problem, gradients: Sequence, given: tuple) -> list[Tensor]:
    """Bring gradients to the shapes and types of the arguments, in their order."""
    arguments = dict(zip(PARAMETERS[name], given, strict=False))
    by_name = dict(zip(problem.names, gradients, strict=True))
    found = []
    for word in TENSORS[name]:
        gradient = by_name.get(word)
        if gradient is not None:
            x = arguments[word]
            found.append(gradient.sum_to_size(x.shape).to(x.dtype))
    return found


for _function in tuple(FUNCTIONS.values()):
    define(_function)  # others are when they are made
