"""Threads: many Python threads at once, a forked child, on each of Numba's threading layers."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

PREPARE = """
import ctypes, glob, hashlib, os, pickle, signal, sys, threading, warnings
import numba
# pip puts TBB where the loader does not look.
for path in glob.glob(os.path.join(sys.prefix, "lib", "libtbb.so.*")):
    ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
import numpy as np
import torch
"""

EIGHT = """
import nbloss
from nbloss.engine import threads

def losses(seed):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn((2, 300, 200), generator=generator)
    x.requires_grad_()
    value = nbloss.huber_loss(x, y) + nbloss.cross_entropy(x, torch.arange(300) % 200)
    value.backward()
    return value.item(), x.grad.clone()

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

# What a forked child does with arrays and tensors that are large enough for several threads. The
# child makes no operations of torch's but those that a loss needs: they may hang there.
FORK = """
warnings.simplefilter("ignore")  # of the fork of a process with threads

x = np.linspace(-2, 2, 120_000)
leaf, zeros = torch.from_numpy(x), torch.zeros(120_000, dtype=torch.float64)
scores = leaf.view(60_000, 2)
labels = torch.arange(60_000, dtype=torch.int32).remainder(2)[:, None].expand(60_000, 2)

def large():
    import nbloss
    value, gradient = nbloss.value_and_grad(nbloss.huber_loss)(x, 0 * x)
    found = [float(value), gradient]
    for weight in (1.0, 0.3):
        for loss, input, target in (
            (nbloss.huber_loss, leaf, zeros), (nbloss.multilabel_margin_loss, scores, labels)
        ):
            input = input.detach().requires_grad_()
            value = loss(input, target)
            (value * weight).backward()
            found += [value.item(), input.grad.numpy()]
    return [x if type(x) is float else hashlib.sha256(x).hexdigest() for x in found]

def in_child(work):
    "What a function returns in a forked child, which is killed if it hangs."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(200)
        os.write(writer, pickle.dumps(work()))
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    return pickle.loads(os.read(reader, 1 << 16))
"""

# What the parent has done before it forks.
BEFORE = {
    "torch": """
import nbloss
(torch.randn(1000, 1000) @ torch.randn(1000, 1000)).exp().sum()
""",
    "Numba": """
import nbloss
@numba.njit(parallel=True)
def total(x):
    result = 0.0
    for i in numba.prange(x.size):
        result += x[i]
    return result
total(np.ones(100_000))
""",
    "nbloss": "large()",
    "torch, and it has not imported nbloss": """
(torch.randn(1000, 1000) @ torch.randn(1000, 1000)).exp().sum()
assert "nbloss" not in sys.modules
""",
}

CHILD = """
torch.set_num_threads(2)
{before}
found = in_child(large)
assert found == in_child(lambda: in_child(large)), "a child of a child"
assert found == large()
from nbloss.engine import threads
assert threads.layer() == os.environ["NUMBA_THREADING_LAYER"]
print("right")
"""


def run(script: str, layer: str, **more: str) -> None:
    environment = {"NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "2", **more}
    command = [sys.executable, "-X", "faulthandler", "-c", PREPARE + script]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if "No threading layer could be loaded" in done.stderr:
        pytest.skip(f"this machine has no threading layer {layer}")
    assert done.stdout.strip() == "right", done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_eight_threads_at_once(layer: str) -> None:
    run(EIGHT, layer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.parametrize(
    ("before", "layer"),
    [
        *((before, "omp") for before in BEFORE),
        *((before, layer) for before in ("Numba", "nbloss") for layer in ("tbb", "workqueue")),
    ],
)
def test_a_forked_child(before: str, layer: str) -> None:
    """It works in one thread whatever the parent did, and finds the same to the bit."""
    run(FORK + CHILD.format(before=BEFORE[before]), layer)


LOADER = """
from torch.utils.data import DataLoader, Dataset
{imports}
torch.set_num_threads(2)
(torch.randn(1000, 1000) @ torch.randn(1000, 1000)).exp().sum()

class Losses(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        import nbloss
        x = np.linspace(-2, 2, 120_000 + index)
        return nbloss.huber_loss(x, 0 * x)

# The time limit is for a worker that hangs.
loader = DataLoader(Losses(), num_workers=1, multiprocessing_context="fork", timeout=200)
found = [float(x) for x in loader]
assert found == [float(Losses()[index]) for index in range(2)]
print("right")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.parametrize("imports", ["import nbloss", "assert 'nbloss' not in sys.modules"])
def test_a_worker_of_a_data_loader(imports: str) -> None:
    run(LOADER.format(imports=imports), "omp")


METHODS = """
import builtins, io, multiprocessing

def without_proc(path, *arguments, real=open, **named):
    if str(path).startswith("/proc/self"):
        raise FileNotFoundError(path)
    return real(path, *arguments, **named)

def available(hide):
    if hide:  # as on a system that does not tell which processes were forked
        builtins.open = io.open = without_proc
    from nbloss.engine import threads
    return threads.available()

if __name__ == "__main__":
    found = {}
    for method in multiprocessing.get_all_start_methods():
        for hide in (False, True):
            with multiprocessing.get_context(method).Pool(1) as pool:
                found[method, hide] = pool.apply(available, (hide,))
    print({**found, "parent": available(False)})
"""


def test_processes_that_are_forked_work_in_one_thread_and_others_in_many(tmp_path: Path) -> None:
    script = tmp_path / "methods.py"
    script.write_text(METHODS)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = {
        (method, hide): 2 if method == "spawn" else 1
        for method in multiprocessing.get_all_start_methods()
        for hide in (False, True)
    }
    assert done.stdout.strip() == str({**expected, "parent": 2})


COMPILING = """
import time

generator = np.random.default_rng(0)
x, y = generator.normal(size=(2, 30, 7))
labels = np.arange(30) % 7
warnings.simplefilter("ignore")  # of the fork of a process with threads

def calls(dtype):
    import nbloss
    a, b = x.astype(dtype), y.astype(dtype)
    return [
        lambda: nbloss.cross_entropy(a, labels),
        lambda: nbloss.huber_loss(a, b),
        lambda: nbloss.nll_loss(a, labels),
        lambda: nbloss.triplet_margin_loss(a, b, a + 1),
        lambda: nbloss.margin_ranking_loss(a, b, np.sign(a)),
        lambda: nbloss.multilabel_soft_margin_loss(a, np.abs(np.sign(a))),
    ]

calls("float64")[1]()  # imports, and compiles the first
"""

COMPILING_THREAD = """
others = calls("float32")
expected = [call() for call in calls("float64")[:3]]
compiling = threading.Thread(target=lambda: [call() for call in others])
compiling.start()
forks = 0
while compiling.is_alive() and forks < 5:
    time.sleep(0.1 * forks)
    # What is compiled already, what the thread compiles, and what nobody has.
    mine = [*calls("float64")[:3], others[forks], calls("float16")[forks]]
    assert [float(x) for x in in_child(lambda: [call() for call in mine])[:3]] == expected
    forks += 1
compiling.join()
assert forks >= 2, forks
print("right")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
def test_a_fork_while_a_thread_compiles(tmp_path: Path) -> None:
    """The child compiles, too."""
    run(FORK + COMPILING + COMPILING_THREAD, "omp", NBLOSS_CACHE_DIR=str(tmp_path))


INTERRUPTED = """
found, refused, busy = [], [], False
others = calls("float32")

def interrupt(frame, event, argument):
    "Compute a loss where a signal handler might: here, where LLVM is at work and calls Python."
    global busy
    if busy or event != "call" or not frame.f_code.co_name.startswith("_raw_object_cache"):
        return
    busy = True
    try:
        found.append(others[len(found) % len(others)]())
    except RuntimeError as error:
        refused.append(str(error))
    finally:
        busy = False

sys.setprofile(interrupt)
values = [call() for call in calls("float64")]
sys.setprofile(None)
assert found or refused
assert all("compil" in text for text in refused), refused
assert values == [call() for call in calls("float64")]
assert np.allclose(values, [call() for call in others], rtol=1e-5)
print("right")
"""


def test_a_signal_handler_while_its_thread_compiles(tmp_path: Path) -> None:
    """It gets its loss, or an error that says why not; the compilation goes on."""
    run(COMPILING + INTERRUPTED, "omp", NBLOSS_CACHE_DIR=str(tmp_path))


COUNT = """
import nbloss

def tasks():
    return len(os.listdir("/proc/self/task"))

x = np.linspace(-2, 2, 120_000)
nbloss.huber_loss(x[:10], x[:10])  # imports
torch.set_num_threads(1)
before = tasks()
nbloss.huber_loss(x, 0 * x)
assert tasks() == before, "torch has set the number to 1"
torch.set_num_threads(2)
nbloss.huber_loss(x, 0 * x)
assert tasks() > before
print("right")
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="this system has no /proc")
def test_arrays_take_as_many_threads_as_torch() -> None:
    run(COUNT, "workqueue")


KEPT = """
import nbloss
torch.set_num_threads(2)
assert torch.get_num_threads() == 2
x = np.linspace(-2, 2, 120_000)
nbloss.huber_loss(x, 0 * x)
assert numba.threading_layer() == os.environ["NUMBA_THREADING_LAYER"]
assert torch.get_num_threads() == 2, torch.get_num_threads()
print("right")
"""


@pytest.mark.parametrize("layer", ["tbb", "omp", "workqueue"])
def test_a_loss_of_arrays_leaves_the_number_of_threads_of_torch(layer: str) -> None:
    run(KEPT, layer, NUMBA_NUM_THREADS="4")


CHOSEN = """
from nbloss.engine import threads
numba.set_num_threads(1)
assert threads.available() == 1
print("right")
"""


def test_the_number_of_threads_may_be_chosen_before_the_first_loss() -> None:
    run(CHOSEN, "workqueue")
