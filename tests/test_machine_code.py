"""The inner loops are vectorised: their machine code computes on several numbers at a time."""

import platform
import re

import pytest
from numba.core import caching

from conftest import forget
from nbloss.engine import cache, compiler
from nbloss.engine.evaluate import PATTERNS
from nbloss.engine.registry import LOSSES
from test_bridge import CASE, Case, leaves_of, loss

PACKED = {
    "x86_64": r"\tv?(?:add|sub|mul|max|min|fmadd|fmsub|fnmadd)\d*ps\s",
    "aarch64": r"\tf(?:add|sub|mul|max|maxnm|mla|mls)\s+v\d+\.4s",
}
# Of a row it takes a single number: there is no loop.
NO_LOOP = ("nll_loss",)


@pytest.mark.skipif(platform.machine() not in PACKED, reason="packed instructions unknown here")
@CASE
def test_inner_loops_are_vectorised(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = PATTERNS[LOSSES[case.loss].pattern]
    # Compiled anew, for what comes from the disk does not show its code.
    monkeypatch.setattr(cache, "kernel_cache", lambda function: caching.NullCache())
    monkeypatch.setattr(compiler, "_workers", {})
    pattern.kernel.cache_clear()
    forget()
    before = len(compiler._keep_alive)
    loss(case, leaves_of(case)).backward()
    code = [
        worker._library.get_asm_str()
        for worker in compiler._keep_alive[before:]
        if worker._pyfunc.__module__ == pattern.__name__
    ]
    assert code
    found = sum(len(re.findall(PACKED[platform.machine()], text)) for text in code)
    assert (found > 4) == (case.loss not in NO_LOOP)
