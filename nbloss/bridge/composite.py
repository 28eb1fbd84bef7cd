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
from typing import Any

import torch
from torch import Tensor

from nbloss.bridge import originals, sharded
from nbloss.bridge import torch as tensors_bridge
from nbloss.bridge.refusal import Unserved
from nbloss.engine import binding
from nbloss.engine.distance import triples
from nbloss.engine.problem import ClassOptions, Problem, TripletOptions, class_dimensions

# The words of the definitions, for tensors. Numbers are tensors as well: see `bound`.
WORDS: dict[str, Callable] = {
    "where": torch.where,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "absolute": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "power": torch.pow,
    "sign": torch.sign,
}
WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def number(value: float, dtype: torch.dtype) -> Tensor:
    """Make a tensor of a number that belongs to no transform, whichever is in progress."""
    with torch._C._DisableFuncTorch(), torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device="cpu")


def bound(formula: Callable, dtype: torch.dtype) -> Callable:
    """Copy a formula for tensors of a type; a bare number would be of torch's default type."""
    # Numbers that are made while a compiler looks on are not real ones, and not to be kept.
    keep = torch._C._len_torch_dispatch_stack() == 0 and not is_traced()
    return _kept(formula, dtype) if keep else _bound(formula, dtype)


def _bound(formula: Callable, dtype: torch.dtype) -> Callable:
    return binding.bind(
        formula,
        WORDS,
        lambda value: number(value, dtype),
        lambda helper: bound(helper, dtype),
    )


_kept = functools.cache(_bound)


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


class Formula(torch.autograd.Function):
    """Values of a formula whose derivatives are what it says they are.

    ``stated(*operands)`` returns, for each of its outputs, the value and then the derivative by
    each operand.
    """

    generate_vmap_rule = True

    @staticmethod
    @uncompiled
    def forward(stated: Callable, *operands: Tensor) -> tuple[Tensor, ...]:
        return tuple(output[0] for output in stated(*operands))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.stated, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *upstreams: Tensor) -> tuple:
        outputs = ctx.stated(*ctx.saved_tensors)
        gradients = [
            sum(up * output[1 + k] for up, output in zip(upstreams, outputs, strict=True))
            if wanted
            else None
            for k, wanted in enumerate(ctx.needs_input_grad[1:])
        ]
        return (None, *gradients)

    @staticmethod
    @uncompiled
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(
            sum(
                (t * output[1 + k] for k, t in enumerate(tangents) if t is not None),
                torch.zeros_like(output[0]),
            )
            for output in ctx.stated(*ctx.saved_tensors)
        )


def apply(stated: Callable, *operands: Tensor) -> tuple[Tensor, ...]:
    """Evaluate a formula on operands that broadcast."""
    if is_functionalized() or is_traced():
        # torch takes no autograd.Function there. It differentiates the value itself, which agrees
        # with what the formula states but at kinks.
        same_shape = torch.broadcast_tensors(*operands)  # type: ignore[no-untyped-call]
        return tuple(output[0] for output in stated(*same_shape))
    return Formula.apply(stated, *torch.broadcast_tensors(*operands))  # type: ignore[no-untyped-call]


def is_functionalized() -> bool:
    """Whether ``torch.func.functionalize`` is among the transforms in progress."""
    functionalize = torch._C._functorch.TransformType.Functionalize
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == functionalize for level in stack)


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` is recording."""
    return torch._C._get_tracing_state() is not None


def single(formula: Callable, dtype: torch.dtype, parameters: tuple = ()) -> Callable:
    """Make a formula with one output, all of whose operands have derivatives, fit `Formula`."""
    function = bound(formula, dtype)
    numbers = tuple(number(p, dtype) for p in parameters)
    return lambda *operands: (function(*operands, *numbers),)


# --- the patterns ---------------------------------------------------------------------------------


def pointwise(problem: Problem) -> Tensor:
    definition, operands = problem.definition, problem.operands
    dtype = operands[0].dtype
    function = bound(definition.formula, dtype)
    numbers = tuple(number(p, dtype) for p in problem.parameters)
    places = [
        1 + definition.differentiable.index(name) if name in definition.differentiable else None
        for name in definition.operands
    ]

    def stated(*operands: Tensor) -> tuple:
        outputs = function(*operands, *numbers)
        return ((outputs[0], *(0.0 if k is None else outputs[k] for k in places)),)

    (value,) = apply(stated, *operands[: len(places)])
    for weight in operands[len(places) :]:
        value = value * weight
    return value.mean(-1) if definition.mean_over_classes else value


def classes(problem: Problem) -> Tensor:
    labels, weight = problem.constants
    options: ClassOptions = problem.options
    scores = problem.operands[0]
    axis = min(1, scores.dim() - 1)
    count = class_dimensions(tuple(scores.shape))[1]
    scores = scores.movedim(axis, -1)
    picked = len(problem.definition.operands) == 2
    weight = scores.new_ones(count) if weight is None else weight
    term = bound(problem.definition.formula, scores.dtype)
    shape = value_shape = scores.shape[:-1]
    smoothing = options.smoothing
    if not picked:
        logarithm = torch.logsumexp(scores, -1, keepdim=True)
        one = torch.ones((), dtype=scores.dtype)
    if labels is None:
        shares = problem.operands[1].movedim(axis, -1)
        shares = weight * (shares * (1.0 - smoothing) + smoothing / max(count, 1))
        return term(scores, logarithm, shares, one)[0].sum(-1)
    labels = labels.reshape(value_shape)
    ignored = labels == options.ignore_index
    place = torch.where(ignored, 0, labels)
    if count == 0:
        return scores.sum(-1) + (math.nan if smoothing > 0.0 else 0.0)
    own = scores.gather(-1, place.unsqueeze(-1)).squeeze(-1)
    own_weight = pick(weight, place)
    if picked:
        (value,) = apply(lambda x, w: ((*term(x, w), 0.0),), own, own_weight)
    else:
        value = term(own, logarithm.squeeze(-1), own_weight * (1.0 - smoothing), one)[0]
        if smoothing > 0.0:
            spread = weight.expand(scores.shape) * (smoothing / count)
            value = value + term(scores, logarithm, spread, one)[0].sum(-1)
    return torch.where(ignored, 0.0, value).reshape(shape)


def weight_of(problem: Problem) -> Tensor | float | None:
    """How much the targets weigh, by which a mean divides; None if all weigh the same."""
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
    stated = single(problem.definition.formula, scores.dtype)
    (value,) = apply(stated, scores.gather(1, place).unsqueeze(2), scores.unsqueeze(1))
    meets = (counts > 0).unsqueeze(2) & ~is_label.unsqueeze(1)
    return torch.where(meets, value, 0.0).sum((1, 2)).div(count).reshape(shape)


def triplets(problem: Problem) -> Tensor:
    options: TripletOptions = problem.options
    distance = options.distance
    anchor, positive, negative = problem.operands
    dtype = anchor.dtype
    numbers = tuple(number(p, dtype) for p in distance.parameters.values())
    term = bound(distance.formula, dtype)
    reductions: dict[str, Any] = {"sum": torch.sum, "max": torch.amax, "min": torch.amin}
    reduce = reductions[distance.reduce]

    def measure(x: Tensor, y: Tensor, columns: int) -> Tensor:
        x, y = x[..., :columns], y[..., :columns]
        terms = apply(lambda x, y: triples(term(x, y, *numbers)), x, y)
        if distance.reduce == "sum":
            sums = [reduce(t, dim=-1) for t in terms]
        else:
            # Of a row with a NaN no coordinate is the largest or the smallest: none has a gradient.
            (sizes,) = terms
            odd = sizes.detach().isnan().any(-1, keepdim=True)
            extreme = reduce(torch.where(odd, 0.0, sizes), dim=-1)
            sums = [torch.where(odd.squeeze(-1), math.nan, extreme)]
        if distance.finish is None:
            return sums[0]
        return apply(single(distance.finish, dtype, tuple(distance.parameters.values())), *sums)[0]

    near = measure(anchor, positive, options.columns[0])
    far = measure(anchor, negative, options.columns[1])
    if options.swap:
        swapped = measure(positive, negative, options.columns[2])
        (far,) = apply(single(options.nearer, dtype), far, swapped)
    (value,) = apply(single(problem.definition.formula, dtype, problem.parameters), near, far)
    return value


PATTERNS = {"pointwise": pointwise, "classes": classes, "pairs": pairs, "triplets": triplets}


# --- for the bridge -------------------------------------------------------------------------------


def composed(function: Any, arguments: tuple, named: dict[str, Any]) -> Any:
    """Compute the loss of a public function by operations that torch can transform."""
    name = function.build.__name__
    if sharded.among(arguments, named):  # below the wrappers of torch.func, which are plain tensors
        error = NotImplementedError(f"{name}(): no kernel for DTensors")
        return originals.unserved(name, error, arguments, named)
    if is_functionalized() and (own := originals.original(name, named)) is not None:
        return own(*arguments, **named)
    try:
        problem = function.build(tensors_bridge, *arguments, **named)
        tensors_bridge.on_one_device(problem)
    except Unserved as refusal:
        return originals.unserved(name, refusal.error, arguments, named)
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
def gradients(problem: Problem, upstream: Tensor, wanted: tuple[bool, ...]) -> tuple:
    """Give the wanted gradients; they can be differentiated again if autograd is on."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Differentiated by views: an operand's own history, which another operand may share, and
        # its hooks are for the caller's graph.
        views = tuple(x.view_as(x) for x in problem.operands)
        value = evaluate(replace(problem, operands=views))
    operands = [x for x, want in zip(views, wanted, strict=True) if want]
    found = torch.autograd.grad(
        value, operands, upstream, create_graph=again, materialize_grads=True
    )
    remaining = iter(found)
    return tuple(next(remaining) if want else None for want in wanted)


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
