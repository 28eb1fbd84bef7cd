"""Threads: many Python threads at once, a forked child, on each of Numba's threading layers."""

import os
import subprocess
import sys

import pytest

PREPARE = """
import ctypes, glob, os, sys, threading, warnings
import numba
# pip puts TBB where the loader does not look.
for path in glob.glob(os.path.join(sys.prefix, "lib", "libtbb.so.*")):
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
import numpy as np
import torch
import nbloss
from nbloss.engine import threads

def losses(seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn((2, 300, 200), generator=generator)
    x.requires_grad_()
    value = nbloss.huber_loss(x, y) + nbloss.cross_entropy(x, torch.arange(300) % 200)
    value.backward()
    return value.item(), x.grad.clone()
"""

EIGHT = """
torch.set_num_threads(2)
expected = [losses(seed) for seed in range(8)]
assert threads.layer() == os.environ["NUMBA_THREADING_LAYER"], threads.layer()
assert torch.get_num_threads() == 2, torch.get_num_threads()
results = {}
gate = threading.Barrier(8)
def work(seed):
    gate.wait()
    for _ in range(20):
        results[seed] = losses(seed)
        assert results[seed][0] == expected[seed][0]
        assert torch.equal(results[seed][1], expected[seed][1])
pool = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
[t.start() for t in pool]; [t.join() for t in pool]
assert len(results) == 8
for seed in range(8):
    assert results[seed][0] == expected[seed][0]
    assert torch.equal(results[seed][1], expected[seed][1])
print("right")
"""

FORK = """
warnings.simplefilter("ignore")  # of the fork of a process with threads
x = np.linspace(-2, 2, 60_000)
expected = nbloss.value_and_grad(nbloss.huber_loss)(x, 0 * x)
assert threads.layer() == os.environ["NUMBA_THREADING_LAYER"]
child = os.fork()
if child == 0:
    value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(x, 0 * x)
    right = value == expected[0] and np.array_equal(gradient, expected[1])
    os._exit(0 if right else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
again = nbloss.value_and_grad(nbloss.huber_loss)(x, 0 * x)
assert again[0] == expected[0]
print("right")
"""


def run(script: str, layer: str) -> None:
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-X", "faulthandler", "-c", PREPARE + script]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"this machine has no threading layer {layer}")
    assert done.stdout.strip() == "right", done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_eight_threads_at_once(layer: str) -> None:
    run(EIGHT, layer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_a_forked_child(layer: str) -> None:
    run(FORK, layer)
