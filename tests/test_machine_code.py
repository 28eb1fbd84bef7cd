"""The inner loops are vectorised: their machine code computes on several numbers at a time."""

import platform
import re

import pytest
import torch
from numba.core import caching

from cases import CASES, Case
from conftest import forget
from nbloss.codegen.memory import COMPUTED
from nbloss.engine import cache, compiler, kernels
from nbloss.engine.evaluate import PATTERNS
from nbloss.formula.registry import LOSSES
from test_losses import FIRST
from test_tensors import leaves_of, loss

# Arithmetic on packed numbers of four and of eight bytes.
PACKED = {
    "x86_64": (r"\tv?(?:add|sub|mul|max|min|fmadd|fmsub|fnmadd)\d*p%s\s", {4: "s", 8: "d"}),
    "aarch64": (r"\tf(?:add|sub|mul|max|maxnm|mla|mls)\s+v\d+\.%s", {4: "4s", 8: "2d"}),
}
# Of a row it takes a single number: there is no loop.
NO_LOOP = ("nll_loss",)
OTHERS = {
    "huber_loss-plain": ("float64", "float16", "bfloat16"),
    "huber_loss-broadcast-both": ("float32",),
    "multilabel_soft_margin_loss-class-weight": ("float32", "float64"),
    "cross_entropy-probabilities": ("float32",),
    "triplet_margin_loss-p-3-swap": ("float32",),
    "triplet_margin_with_distance_loss-cosine": ("float32",),
}
KERNELS = [
    *((case, "float32") for case in FIRST),
    *((case, dtype) for case in CASES for dtype in OTHERS.get(case.id, ())),
]


@pytest.mark.skipif(platform.machine() not in PACKED, reason="packed instructions unknown here")
@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("case", "dtype"), KERNELS, ids=lambda x: getattr(x, "id", x))
def test_inner_loops_are_vectorised(
    case: Case, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = (PATTERNS[LOSSES[case.loss].pattern].__name__, kernels.__name__)
    # Compiled anew, for what comes from the disk does not show its code.
    monkeypatch.setattr(cache, "kernel_cache", lambda function: caching.NullCache())
    monkeypatch.setattr(compiler, "_workers", {})
    monkeypatch.setattr(kernels, "_kernels", {})
    forget()
    before = len(compiler._keep_alive)
    leaves = {
        name: x.detach().to(getattr(torch, dtype)).requires_grad_() if x.is_floating_point() else x
        for name, x in leaves_of(case).items()
    }
    loss(case, leaves).backward()
    libraries = [
        worker._library
        for worker in compiler._keep_alive[before:]
        if worker._pyfunc.__module__ in sources
    ]
    assert libraries
    # Which arrays lie apart is known, and not found out from their addresses.
    assert not any("memcheck" in library.get_llvm_str() for library in libraries)
    code = [library.get_asm_str() for library in libraries]
    instruction, suffixes = PACKED[platform.machine()]
    packed = re.compile(instruction % suffixes[COMPUTED[dtype]().itemsize])
    found = sum(len(packed.findall(text)) for text in code)
    assert (found > 4) == (case.loss not in NO_LOOP)
