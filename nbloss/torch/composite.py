"""The losses as ordinary operations of torch, made from the same definitions as the kernels.

Where torch has to see into a loss (second derivatives, forward-mode differentiation, the transforms
of ``torch.func``) it is computed in these steps, which torch can differentiate again. The first
derivatives remain those that the formula states, kinks included.
"""

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nbloss.backends import torch as backend
from nbloss.backends.unsupported import Unsupported
from nbloss.engine.problem import ClassOptions, Problem, class_dimensions
from nbloss.formula import derive, expression
from nbloss.formula.distance import Distance
from nbloss.formula.evaluate import evaluate as evaluate_graph
from nbloss.formula.expression import Node
from nbloss.formula.trace import Formula
from nbloss.torch import fallback, sharded

WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def number(value: float, dtype: torch.dtype) -> Tensor:
    """Make a tensor of a number that belongs to no transform, whichever is in progress."""
    with torch._C._DisableFuncTorch(), torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device="cpu")


_kept_number = functools.cache(number)


def constant(value: float, dtype: torch.dtype) -> Tensor:
    """Give the tensor of a number, the same one each time where it is not traced."""
    # Numbers that are made while a compiler looks on are not real ones, and not to be kept.
    keep = torch._C._len_torch_dispatch_stack() == 0 and not is_traced()
    return (_kept_number if keep else number)(value, dtype)


def uncompiled(function: Callable) -> Callable:
    """Keep a function from ``torch.compile``, which can't compile formulas of tensor constants.

    It would try to where a compiled function runs uncompiled in parts: in
    ``torch.func.grad(torch.compile(f))``, or for a step that differentiates twice.
    """
    made: list[Callable] = []

    @functools.wraps(function)
    def disabled(*arguments: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # to import it would take seconds
            return function(*arguments)
        if not made:
            made.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return made[0](*arguments)

    disabled._torchdynamo_disable = True  # type: ignore[attr-defined]
    return disabled


class Derived(torch.autograd.Function):
    """The values of a formula, with the derivatives that its kernels have, kinks included."""

    generate_vmap_rule = True

    @staticmethod
    @uncompiled
    def forward(graph: "Evaluation", *tensors: Tensor) -> Tensor:
        return graph.value(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.graph, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, grad_output: Tensor) -> tuple:
        return None, *ctx.graph.gradients(ctx.saved_tensors, grad_output, ctx.needs_input_grad[1:])

    @staticmethod
    @uncompiled
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        return ctx.graph.tangent(ctx.saved_tensors, tangents)


class Evaluation(NamedTuple):
    """A formula's graph, and where its arrays come from.

    Attributes
    ----------
    formula : Formula
    options : tuple of (str, Any)
        Values of the formula's options, and of operands that there are not.
    names : tuple of str
        What the tensors are called in the formula.
    parameters : tuple of float
    """

    formula: Formula
    options: tuple
    names: tuple[str, ...]
    parameters: tuple[float, ...]

    def evaluated(self, nodes: list[Node], tensors: Any, grad_output: Tensor | None) -> list:
        operands = dict(zip(self.names, tensors, strict=True))
        dtype = tensors[0].dtype
        if grad_output is not None:
            operands["grad_output"] = grad_output
        return evaluate_graph(
            nodes,
            operands,
            dict(zip(self.formula.parameters, self.parameters, strict=True)),
            tensors[0].shape[-1] if self.formula.rowwise else 1,
            torch,
            lambda value: constant(value, dtype),
        )

    def value(self, tensors: Any) -> Tensor:
        graph = self.formula.graph(**dict(self.options))
        (value,) = self.evaluated([graph.value], tensors, None)
        shape = tensors[0].shape
        return value.expand((*shape[:-1], 1) if self.formula.rowwise else shape)

    def slopes(self, tensors: Any, grad_output: Tensor, needs_grad: Any) -> list[Tensor | None]:
        graph = self.formula.graph(**dict(self.options))
        kinds = self.formula.operands
        of_call = expression.operand(
            "grad_output", "per_row" if self.formula.rowwise else "element"
        )
        operands = [
            expression.operand(name, kinds[name])
            for name, needed in zip(self.names, needs_grad, strict=True)
            if needed
        ]
        found = iter(self.evaluated(derive.slopes(graph, operands, of_call), tensors, grad_output))
        return [next(found) if needed else None for needed in needs_grad]

    def gradients(self, tensors: Any, grad_output: Tensor, needs_grad: Any) -> list[Tensor | None]:
        found = self.slopes(tensors, grad_output, needs_grad)
        return [
            None if x is None else x.expand(tensor.shape)
            for x, tensor in zip(found, tensors, strict=True)
        ]

    def tangent(self, tensors: Any, tangents: Any) -> Tensor:
        value = self.value(tensors)
        found = self.slopes(tensors, torch.ones_like(value), [t is not None for t in tangents])
        total = torch.zeros_like(value)
        for slope, tangent in zip(found, tangents, strict=True):
            if slope is not None:
                part = slope * tangent
                total = total + (part.sum(-1, keepdim=True) if self.formula.rowwise else part)
        return total


def apply(graph: Evaluation, *tensors: Tensor) -> Tensor:
    """Evaluate a formula; of a row the last dimension has size 1."""
    if is_functionalized() or is_traced():
        # torch takes no autograd.Function there. It differentiates the value itself, which agrees
        # with the kernels but at kinks.
        return graph.value(tensors)
    return Derived.apply(graph, *tensors)  # type: ignore[no-untyped-call]


def is_functionalized() -> bool:
    """Whether ``torch.func.functionalize`` is among the transforms in progress."""
    functionalize = torch._C._functorch.TransformType.Functionalize
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == functionalize for level in stack)


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` is recording."""
    return torch._C._get_tracing_state() is not None


# --- the patterns ---------------------------------------------------------------------------------


def pointwise(problem: Problem) -> Tensor:
    definition, operands = problem.definition, problem.operands
    names = (*definition.operands, *definition.optional)[: len(operands)]
    absent = tuple((name, 1.0) for name in definition.optional if name not in names)
    options = () if problem.options is None else problem.options.chosen
    graph = Evaluation(definition.symbolic, (*absent, *options), names, problem.parameters)
    value = apply(graph, *operands)
    return value.mean(-1) if definition.mean_over_classes else value


def classes(problem: Problem) -> Tensor:
    labels, weight = problem.constants
    options: ClassOptions = problem.options
    scores = problem.operands[0]
    axis = min(1, scores.dim() - 1)
    count = class_dimensions(tuple(scores.shape))[1]
    scores = scores.movedim(axis, -1)
    smoothing = options.smoothing
    formula = problem.definition.row_formulas[0 if labels is not None else 1]
    chosen: tuple = () if weight is not None else (("weight", 1.0),)
    parameters: tuple[float, ...] = ()
    if "smoothed" in formula.options:
        chosen, parameters = (*chosen, ("smoothed", smoothing > 0.0)), (smoothing,)
    weights = () if weight is None else (weight,)
    names = ("input", "target", "weight")[: 2 + len(weights)]
    graph = Evaluation(formula, chosen, names, parameters)
    if labels is None:
        return apply(graph, scores, problem.operands[1].movedim(axis, -1), *weights).squeeze(-1)
    if count == 0:
        return scores.sum(-1) + (math.nan if smoothing > 0.0 else 0.0)
    labels = labels.reshape(scores.shape[:-1])
    ignored = labels == options.ignore_index
    place = torch.where(ignored, 0, labels).unsqueeze(-1)
    return torch.where(ignored, 0.0, apply(graph, scores, place, *weights).squeeze(-1))


def weight_of(problem: Problem) -> Tensor | float | None:
    """How much the targets weigh, by which a mean divides; None if all weigh the same."""
    if problem.definition.pattern == "rows":
        return weight_of_rows(problem)
    if not isinstance(problem.options, ClassOptions):
        return None
    labels, weight = problem.constants
    count = class_dimensions(problem.shape)[1]
    if count == 0:
        return math.nan
    if labels is None:
        return None
    counts = labels != problem.options.ignore_index
    if weight is None:
        return counts.sum()
    total = torch.where(counts, pick(weight, torch.where(counts, labels, 0)), 0.0).sum()
    if problem.options.smoothing > 0.0:
        total = torch.where(total == 0.0, math.nan, total)
    return total


def pick(weight: Tensor, place: Tensor) -> Tensor:
    """Give the weights of classes; plain indexing by a single number defies vmap."""
    return weight.expand(*place.shape, -1).gather(-1, place.unsqueeze(-1)).squeeze(-1)


def pairs(problem: Problem) -> Tensor:
    scores, labels = problem.operands[0], problem.constants[0]
    shape = scores.shape[:-1]
    count = scores.shape[-1] if scores.dim() else 1
    scores, labels = scores.reshape(-1, count), labels.reshape(-1, count)
    counts = (labels >= 0).long().cumprod(1)  # 1 up to a row's first -1
    place = labels.clamp_min(0)
    is_label = torch.zeros_like(labels).scatter_add(1, place, counts) > 0
    graph = Evaluation(problem.definition.symbolic, (), problem.definition.operands, ())
    both = torch.broadcast_tensors(  # type: ignore[no-untyped-call]
        scores.gather(1, place).unsqueeze(2), scores.unsqueeze(1)
    )
    meets = (counts > 0).unsqueeze(2) & ~is_label.unsqueeze(1)
    return torch.where(meets, apply(graph, *both), 0.0).sum((1, 2)).div(count).reshape(shape)


def rows(problem: Problem) -> Tensor:
    graph, tensors = of_rows(problem)
    return apply(graph, *tensors).squeeze(-1)


def weight_of_rows(problem: Problem) -> Tensor | None:
    """Sum what the rows weigh, if their formula says it."""
    graph, tensors = of_rows(problem)
    weight = graph.formula.graph(**dict(graph.options)).weight
    if weight is None:
        return None
    (found,) = graph.evaluated([weight], tensors, None)
    return found.expand((*tensors[0].shape[:-1], 1)).sum()


def of_rows(problem: Problem) -> tuple[Evaluation, list[Tensor]]:
    """Give the graph of a formula of rows, and its arrays."""
    formula, options = problem.definition.symbolic, dict[str, Any]()
    if problem.options is not None:
        formula, options = problem.options.formula(formula)
    kinds = formula.operands
    names = [n for n, kind in kinds.items() if kind in ("element", "per_row")]
    others = [n for n, kind in kinds.items() if kind in ("index", "per_column")]
    learning = problem.definition.differentiable
    given = zip((*names, *others), (*problem.operands, *problem.constants), strict=True)
    arrays = {n: x if n in learning else x.detach() for n, x in given}
    tensors = [
        x if kinds[n] in ("element", "per_column") else x.unsqueeze(-1) for n, x in arrays.items()
    ]
    chosen = tuple(options.items())
    return Evaluation(formula, chosen, tuple(arrays), problem.parameters), tensors


def measured(distance: Distance, x: Any, y: Any) -> Tensor:
    """Measure a distance between rows of tensors."""
    x, y = torch.broadcast_tensors(*map(torch.as_tensor, (x, y)))  # type: ignore[no-untyped-call]
    if not x.is_floating_point():
        x = x.to(torch.get_default_dtype())
    x, y = x.to(torch.result_type(x, y)), y.to(torch.result_type(x, y))
    dtype = x.dtype
    graph = Evaluation(
        distance.formula, (), tuple(distance.formula.operands), tuple(distance.parameters.values())
    )
    wide = WIDE.get(dtype, dtype)
    return apply(graph, x.to(wide), y.to(wide)).squeeze(-1).to(dtype)


PATTERNS = {"pointwise": pointwise, "classes": classes, "pairs": pairs, "rows": rows}


# --- for the other ways ---------------------------------------------------------------------------


def composed(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss of a public function by operations that torch can transform."""
    name = function.build.__name__
    if sharded.among(arguments, named):  # below the wrappers of torch.func, which are plain tensors
        error = NotImplementedError(f"{name}(): no kernel for DTensors")
        return fallback.fall_back(name, error, arguments, named)
    if is_functionalized() and (own := fallback.torch_function(name, named)) is not None:
        return own(*arguments, **named)
    try:
        problem = function.build(backend, *arguments, **named)
        backend.on_one_device(problem)
    except Unsupported as reason:
        return fallback.fall_back(name, reason.error, arguments, named)
    return evaluate(problem)


@uncompiled
def evaluate(problem: Problem) -> Tensor:
    """Give the loss by operations of torch; half types are computed in float32."""
    dtype = problem.operands[0].dtype
    wide = WIDE.get(dtype, dtype)
    problem = replace(
        problem,
        operands=tuple(x.to(wide) for x in problem.operands),
        constants=tuple(
            x.to(wide) if x is not None and x.is_floating_point() else x for x in problem.constants
        ),
    )
    with torch.autocast(problem.operands[0].device.type, enabled=False):
        value = PATTERNS[problem.definition.pattern](problem)
        if problem.reduction == "mean":
            weight = weight_of(problem)
            value = value.mean() if weight is None else value.sum() / weight
        elif problem.reduction == "sum":
            value = value.sum()
    return value.to(dtype)


@uncompiled
def gradients(problem: Problem, grad_output: Tensor, needs_grad: tuple[bool, ...]) -> tuple:
    """Give the gradients that are needed; they can be differentiated again if autograd is on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Differentiated by views: an operand's own history, which another operand may share, and
        # its hooks are for the caller's graph.
        views = tuple(x.view_as(x) for x in problem.operands)
        value = evaluate(replace(problem, operands=views))
    operands = [x for x, want in zip(views, needs_grad, strict=True) if want]
    found = torch.autograd.grad(
        value, operands, grad_output, create_graph=again, materialize_grads=True
    )
    remaining = iter(found)
    return tuple(next(remaining) if want else None for want in needs_grad)


def pullback(problem: Problem, grad_output: Tensor, needs_grad: tuple[bool, ...]) -> tuple:
    """Give the gradients of operands that need no history, whichever transforms are in progress."""

    def value(*chosen: Tensor) -> Tensor:
        remaining = iter(chosen)
        operands = tuple(
            next(remaining) if needed else x
            for x, needed in zip(problem.operands, needs_grad, strict=True)
        )
        return evaluate(replace(problem, operands=operands))

    chosen = [x for x, needed in zip(problem.operands, needs_grad, strict=True) if needed]
    found = iter(torch.func.vjp(value, *chosen)[1](grad_output))
    return tuple(next(found) if needed else None for needed in needs_grad)
