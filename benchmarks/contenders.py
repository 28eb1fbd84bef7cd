"""Who is timed: torch eager, torch.compile, nbloss on tensors, nbloss on NumPy arrays.

Each gives, for a workload, a function that does it a number of times, on memory of its own and with
fresh gradients each time, as in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import nbloss
from cases import split
from in_torch import options
from workloads import HALVES, LEARNING, Workload, arrays, moved

Run = Callable[[int], None]


def tensors(workload: Workload, device: str = "cpu") -> dict[str, torch.Tensor]:
    dtype = getattr(torch, workload.dtype)
    made = {}
    for name, value in arrays(workload).items():
        made[name] = torch.from_numpy(value).to(device)
        if value.dtype.kind == "f":
            made[name] = made[name].to(dtype)
            needs_grad = name in LEARNING and workload.part != "forward"
            made[name].requires_grad_(needs_grad)
    return made


def on_tensors(function: Callable, workload: Workload, device: str = "cpu") -> Run:
    operands, weight = split(tensors(workload, device))
    leaves = [x for x in (*operands, *weight.values()) if x.requires_grad]

    def forward(times: int) -> None:
        for _ in range(times):
            function(*operands, **weight)

    def both(times: int) -> None:
        for _ in range(times):
            for leaf in leaves:
                leaf.grad = None
            function(*operands, **weight).backward()

    return forward if workload.part == "forward" else both


def backward(function: Callable, workload: Workload, times: int) -> Run:
    """Go backward through graphs that are made here, outside the timing."""
    operands, weight = split(tensors(workload))
    leaves = [x for x in (*operands, *weight.values()) if x.requires_grad]
    values = [function(*operands, **weight) for _ in range(times)]

    def run(times: int) -> None:
        for _ in range(times):
            for leaf in leaves:
                leaf.grad = None
            values.pop().backward()

    return run


def eager(workload: Workload) -> Callable:
    chosen = options(workload.definition, torch)
    function = getattr(torch.nn.functional, workload.loss)
    return lambda *operands, **weight: function(*operands, **weight, **chosen)


def compiled(workload: Workload) -> Callable | None:
    # torch 2.13 compiles multi-label margin to another loss.
    if workload.loss == "multilabel_margin_loss":
        return None
    torch._dynamo.reset()
    return torch.compile(eager(workload), fullgraph=True, dynamic=False)


def ours(workload: Workload) -> Callable:
    chosen = options(workload.definition, nbloss)
    function = getattr(nbloss, workload.loss)
    return lambda *operands, **weight: function(*operands, **weight, **chosen)


def on_arrays(workload: Workload) -> Run | None:
    if workload.part == "backward" or workload.dtype == "bfloat16":
        return None
    made = arrays(workload)
    operands, weight = split(made)
    chosen = {**weight, **options(workload.definition, nbloss)}
    function: Any = getattr(nbloss, workload.loss)
    if workload.part == "both":
        names = list(made)
        places = tuple(names.index(name) for name in names if name in LEARNING)
        function = nbloss.value_and_grad(function, places)

    def run(times: int) -> None:
        for _ in range(times):
            function(*operands, **chosen)

    return run


def copy(workload: Workload, device: str = "cpu") -> Run | None:
    """Move as many bytes as the loss has to move: read one half, and write the other."""
    if workload.part != "both":
        return None
    source = torch.ones(max(1, moved(workload) // 8), device=device)
    goal = torch.empty_like(source)

    def run(times: int) -> None:
        for _ in range(times):
            goal.copy_(source)

    return run


FUNCTIONS = {"eager": eager, "compile": compiled, "nbloss": ours}
NAMES = (*FUNCTIONS, "numpy", "copy")


def function_of(name: str, workload: Workload) -> Callable | None:
    """What a contender calls; None if it does not take part."""
    if workload.dtype in HALVES and workload.loss == "multilabel_margin_loss" and name == "eager":
        return None  # torch has it for float32 and float64 alone
    return FUNCTIONS[name](workload)


def run_of(name: str, workload: Workload, function: Callable | None) -> Run | None:
    """A contender's function that does the workload a number of times."""
    if name == "numpy":
        return on_arrays(workload)
    if name == "copy":
        return copy(workload)
    return None if function is None else on_tensors(function, workload)
