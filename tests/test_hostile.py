"""Hostile calls: each ends in torch's exception or torch's result, and touches no other memory."""

import math
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nbloss
from conftest import forget
from hostile import CALLS, CLASSES, GOOD, MULTI, NAN, REDUCTIONS, Call, indices, real, whole
from nbloss.engine.plan import VALIDATIONS, Plan
from test_contract import ERRORS, assert_alike, assert_same, call
from versions import since

# An exception inside a compiled kernel may be printed and lost: no test passes over one.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")

ours = nbloss.functional
theirs = torch.nn.functional


GROUPS: dict[str, list[Call]] = {}
for row in CALLS:
    GROUPS.setdefault(f"{row.name}-{row.section}", []).append(row)
Function = Callable[..., Any]


def check_all(calls: Iterable[Call], check: Callable[[Call], None]) -> None:
    """Check every call of a group, and report all that fail."""
    failures = []
    for one in calls:
        try:
            check(one)
        except (AssertionError, *ERRORS) as error:
            failures.append(f"{one}: {type(error).__name__}: {error}")
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


def attempt(function: Function, args: Any, kwargs: Any) -> tuple[Any, Exception | None]:
    """Call a function; what it warns of may be said to users, not be a RuntimeWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return function(*args, **kwargs), None
        except ERRORS as error:
            return None, error


def assert_raised(error: Exception, row: Call) -> None:
    assert isinstance(error, row.error), repr(error)
    assert re.search(row.match, str(error)), f"{str(error)!r} lacks {row.match!r}"


def memory(value: Any) -> Any:
    """What an argument holds, to see whether a call wrote to it."""
    if isinstance(value, Tensor):
        usual = value.layout == torch.strided and value.device.type == "cpu"
        return value.detach().numpy().tobytes() if usual else None
    return value.tobytes() if isinstance(value, np.ndarray) else None


def check_tensors(row: Call) -> None:
    before = [memory(value) for value in (*row.args, *row.kwargs.values())]
    expected, complaint = attempt(getattr(theirs, row.name), row.args, row.kwargs)
    value, error = attempt(getattr(ours, row.name), row.args, row.kwargs)
    assert before == [memory(value) for value in (*row.args, *row.kwargs.values())]
    if complaint is not None and not row.ours:
        assert_raised(complaint, row)  # the row tells the truth about torch
    if row.error is None or (row.optional and error is None):
        assert error is None, repr(error)
        assert complaint is None, f"torch refuses: {complaint!r}"
        if expected.device.type == "meta":
            assert (value.shape, value.dtype) == (expected.shape, expected.dtype)
        else:
            torch.testing.assert_close(value, expected, equal_nan=True)
        return
    assert row.ours or row.optional or complaint is not None, "torch accepts it"
    assert error is not None, "accepted"
    assert_raised(error, row)
    if row.match and row.exact:
        assert str(error) == str(complaint)


@since(2, 13)  # whose errors ours are
@pytest.mark.parametrize("label", GROUPS)
def test_tensors(label: str) -> None:
    check_all(GROUPS[label], check_tensors)


def as_array(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, Tensor) else value


def arrays_make_sense(row: Call) -> bool:
    values = (*row.args, *row.kwargs.values())
    tensors = [value for value in values if isinstance(value, Tensor)]
    return (
        all(tensor.layout == torch.strided and tensor.device.type == "cpu" for tensor in tensors)
        and not any(isinstance(value, np.ndarray) for value in values)
        and not ("gradient" in row.label or "distance" in row.label)
    )


def check_arrays(row: Call) -> None:
    args = [as_array(value) for value in row.args]
    kwargs = {name: as_array(value) for name, value in row.kwargs.items()}
    before = [memory(value) for value in (*args, *kwargs.values())]
    value, error = attempt(getattr(ours, row.name), args, kwargs)
    assert before == [memory(value) for value in (*args, *kwargs.values())]
    if row.error is None or (row.optional and error is None):
        assert error is None, repr(error)
        expected = getattr(theirs, row.name)(*row.args, **row.kwargs).detach().numpy()
        assert not isinstance(value, Tensor)
        assert (np.shape(value), np.asarray(value).dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
        return
    assert error is not None, "accepted"
    assert_raised(error, row)


@pytest.mark.parametrize("label", GROUPS)
def test_arrays(label: str) -> None:
    check_all(filter(arrays_make_sense, GROUPS[label]), check_arrays)


def check_gradients(row: Call) -> None:
    assert_alike(row.name, row.args, row.kwargs, lenient=row.lenient)


@pytest.mark.parametrize("label", GROUPS)
def test_gradients(label: str) -> None:
    check_all((row for row in GROUPS[label] if row.error is None), check_gradients)


# --- arrays that NumPy alone can make -----------------------------------------------------------

STRUCTURE = np.dtype([("score", np.float32)])
FOREIGN: dict[str, Callable[[np.ndarray], Any]] = {
    "objects": lambda array: array.astype(object),
    "strings": lambda array: array.astype(str),
    "bytes": lambda array: array.astype("S8"),
    "structured": lambda array: array.astype(np.float32).view(STRUCTURE),
    "dates": lambda array: array.astype(np.int64).view("datetime64[s]"),
    "tensor": torch.from_numpy,
    "list": lambda array: array.tolist(),
    "nothing": lambda array: None,
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", GOOD)
def test_foreign_arrays(name: str, kind: str) -> None:
    arrays = [good.numpy() for good in GOOD[name]]
    for position, array in enumerate(arrays):
        args = [*arrays[:position], FOREIGN[kind](array), *arrays[position + 1 :]]
        with pytest.raises(TypeError):
            getattr(ours, name)(*args)


def unaligned(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"?" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)


def locked(array: np.ndarray) -> np.ndarray:
    copied = array.copy()
    copied.flags.writeable = False
    return copied


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": locked,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "reversed-columns": lambda array: array[..., ::-1].copy()[..., ::-1],
    "fortran": np.asfortranarray,
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "repeated": lambda array: np.broadcast_to(array[:1], array.shape),
    "unaligned": unaligned,
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
}
# torch cannot hold these: right, or refused.
ODD_LAYOUTS = ("unaligned", "byte-swapped")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", GOOD)
def test_layouts_of_arrays(name: str, layout: str) -> None:
    arrays = [LAYOUTS[layout](good.numpy()) for good in GOOD[name]]
    plain = [torch.tensor(array.astype(array.dtype.newbyteorder("="))) for array in arrays]
    for reduction in REDUCTIONS:
        value, error = attempt(getattr(ours, name), arrays, {"reduction": reduction})
        if error is not None and layout in ODD_LAYOUTS:
            assert isinstance(error, (TypeError, ValueError)), repr(error)
            continue
        assert error is None, repr(error)
        expected = getattr(theirs, name)(*plain, reduction=reduction)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


# Steps along axes of length 1, and of arrays without elements: nobody takes them.
UNTAKEN = (0, -1, -5, 3, 2**40, -(2**40))


def with_steps(array: np.ndarray, step: int) -> np.ndarray:
    """View an array with another step along its axes of length 1, in elements."""
    strides = tuple(
        step * array.itemsize if size == 1 or array.size == 0 else stride
        for size, stride in zip(array.shape, array.strides, strict=True)
    )
    return np.lib.stride_tricks.as_strided(array, array.shape, strides)


SLICES: dict[str, tuple] = {
    "row": (slice(1),),
    "column": (slice(None), slice(1)),
    "single": (slice(1), slice(1)),
    "no-rows": (slice(0),),
    "no-columns": (slice(None), slice(0)),
}


LABELLED = (*CLASSES, MULTI)
PARTS = [
    (name, part)
    for name, part in product(GOOD, SLICES)
    if not (name in LABELLED and part == "no-columns")  # of no classes there are no labels
]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_axes_that_are_not_walked_have_any_step(name: str, part: str) -> None:
    arrays = [np.ascontiguousarray(good.numpy()[SLICES[part][: good.dim()]]) for good in GOOD[name]]
    if name in LABELLED:
        arrays[1] = np.minimum(arrays[1], arrays[0].shape[-1] - 1)
    both = nbloss.value_and_grad(getattr(nbloss, name))
    cases = [arrays]
    if name == "cross_entropy":
        cases.append([arrays[0], np.full_like(arrays[0], 0.25)])
    for given, reduction in product(cases, ("none", "mean")):
        expected = both(*given, reduction=reduction)
        for step in UNTAKEN:
            found = both(*(with_steps(array, step) for array in given), reduction=reduction)
            for mine, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(mine, other)
        found = both(*(array[::-1] if len(array) < 2 else array for array in given),
                     reduction=reduction)  # fmt: skip
        np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("widths", [(1, 0, 1), (0, 1, 1), (1, 1, 0)])
def test_rows_of_one_coordinate_beside_rows_of_none(widths: tuple, swap: bool) -> None:
    """They broadcast to no coordinates, but some of the distances have one."""
    tensors = [torch.full((3, width), 2.0) for width in widths]
    tensors = [x.requires_grad_() for x in tensors]
    assert_alike("triplet_margin_loss", tensors, {"swap": swap, "reduction": "none"})
    with pytest.raises(RuntimeError, match="rows of one coordinate"):
        ours.triplet_margin_loss(*(x.detach().numpy() for x in tensors), swap=swap)


# --- targets that change after they were checked ------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", (*CLASSES, MULTI))
def test_targets_that_change_before_backward(name: str, reduction: str) -> None:
    """What was in range in forward is not in backward: nothing may follow the new index."""
    good = real(GOOD[name][0].tolist())
    needs_grad = call(getattr(theirs, name), (good, GOOD[name][1]), {"reduction": reduction})
    for bad in (10**6, -(2**63), 2**63 - 1):
        x, t = good.detach().clone().requires_grad_(), GOOD[name][1].clone()
        loss = getattr(ours, name)(x, t, reduction=reduction)
        t.numpy()[...] = bad  # behind the back of torch's version counter
        grad_output = torch.linspace(0.5, 1.5, loss.numel()).view(loss.shape)
        for _ in range(2):
            x.grad = None
            _, error = attempt(loss.backward, (grad_output,), {"retain_graph": True})
            if error is not None:
                assert isinstance(error, (IndexError, RuntimeError)), repr(error)
            elif not x.grad.isnan().all():  # a row whose target has gone bad is NaN
                torch.testing.assert_close(x.grad, needs_grad.gradients[0])


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("bad", [5, -2, 10**6, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("name", (*CLASSES, MULTI))
def test_kernels_guard_labels_themselves(
    name: str, bad: int, reduction: str, launched: list[tuple[Plan, Any]]
) -> None:
    """As if a label had changed after it was validated: its row is NaN, and all others are right.

    The kernels of a valid call are run again, without the step that validates.
    """
    both = nbloss.value_and_grad(getattr(nbloss, name))
    x, t = (good.numpy() for good in GOOD[name])
    weight = {} if name == MULTI else {"weight": np.linspace(1.0, 2.0, 5, dtype=np.float32)}
    value, gradient = both(x, t, **weight, reduction=reduction)
    assert launched
    for launch, _ in launched:
        launch.record[VALIDATIONS] = 0
    spoilt = t.copy()
    spoilt[1, ...] = bad
    try:
        value, changed = (
            np.asarray(result) for result in both(x, spoilt, **weight, reduction=reduction)
        )
    finally:
        forget()
    assert np.isnan(changed[1]).all()
    np.testing.assert_array_equal(changed[[0, 2, 3]], gradient[[0, 2, 3]])
    assert np.isnan(value if reduction == "sum" else value[1]).all()


CHANGING = """
import sys, threading, time
import numpy as np, nbloss

name, seconds = sys.argv[1], float(sys.argv[2])
rng = np.random.default_rng(0)
if name == "multilabel_margin_loss":
    x, t = rng.normal(size=(256, 64)), rng.integers(0, 64, (256, 64))
    weight = {}
else:
    x, t = rng.normal(size=(20000, 10)), rng.integers(0, 10, 20000)
    weight = {"weight": np.ones(10)}
both = nbloss.value_and_grad(getattr(nbloss, name))
both(x, t, **weight)
good, bad, done = t.copy(), np.full_like(t, 1 << 40), threading.Event()

def change():
    while not done.is_set():
        np.copyto(t, bad)
        np.copyto(t, good)

thread = threading.Thread(target=change)
thread.start()
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        both(x, t, **weight)
    except (IndexError, RuntimeError) as error:
        assert "out of" in str(error), error
done.set()
thread.join()
"""


@pytest.mark.parametrize("name", (*CLASSES, MULTI))
def test_labels_that_another_thread_changes(name: str) -> None:
    """A call may compute anything, or say that a label is out of range; it must not crash."""
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CHANGING, name, "1.5"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]


# --- memory that runs out -----------------------------------------------------------------------

WIDE = """
import resource, sys
import numpy as np, nbloss

def used():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

both = nbloss.value_and_grad(nbloss.multilabel_margin_loss)
classes = 1 << 22
x, t = np.zeros((2, classes), np.float32), np.full((2, classes), -1)
t[:, 0] = 3
narrow = 1 << 17
both(x[:, :narrow].copy(), t[:, :narrow].copy())  # compiles, and starts the threads
both(x[:1], t[:1], reduction="sum")
resource.setrlimit(resource.RLIMIT_AS, (used() + (96 << 20),) * 2)
for reduction in ("mean", "sum", "none"):
    try:
        found = both(x, t, reduction=reduction)
    except MemoryError as error:
        assert str(error), "says nothing"
    else:
        sys.exit(f"no MemoryError but {found}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits what Linux counts in /proc")
def test_kernels_without_memory_to_work_in_say_so() -> None:
    """No result of an earlier call is handed out, and nothing is printed."""
    run = subprocess.run(
        [sys.executable, "-c", WIDE], capture_output=True, text=True, check=False, timeout=300
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# --- differences on purpose ---------------------------------------------------------------------


@pytest.mark.parametrize("name", (*CLASSES, MULTI))
def test_int32_targets(name: str) -> None:
    t = GOOD[name][1]
    blocks = [] if name == MULTI else [(4, 5, 3), (4, 5, 3, 2), (4, 5, 1, 3, 2)]
    for shape in ((5,), (4, 5), *blocks):
        scores = torch.linspace(-1, 1, 5 if shape == (5,) else 20)
        scores = scores.view(-1, 5, *[1] * len(shape[2:])).expand(4, 5, *shape[2:])
        target = t.view(4, *t.shape[1:], *[1] * len(shape[2:])).expand(4, *t.shape[1:], *shape[2:])
        if shape == (5,):
            scores, target = scores[0], target[1]
        scores = scores.detach().clone().requires_grad_()
        expected = call(getattr(theirs, name), (scores, target), {})
        assert_same(call(getattr(ours, name), (scores, target.int()), {}), expected)
        value = getattr(ours, name)(scores.detach().numpy(), target.int().numpy())
        np.testing.assert_allclose(value, expected.value.detach(), rtol=1e-5)


def test_multilabel_margin_of_nothing() -> None:
    loss, x, t = getattr(ours, MULTI), torch.zeros(0, 5, requires_grad=True), indices(0, 5)
    for reduction, expected in (("none", []), ("mean", NAN), ("sum", 0.0)):
        for value in (
            loss(x, t, reduction=reduction),
            loss(*map(as_array, (x, t)), reduction=reduction),
        ):
            np.testing.assert_array_equal(as_array(value), np.float32(expected))
        loss(x, t, reduction=reduction).sum().backward()
        assert x.grad.shape == (0, 5)


def test_multilabel_margin_of_nan() -> None:
    x, t = (
        torch.tensor([[NAN, 1.0, 2.0], [1.0, NAN, 2.0], [1.0, 2.0, 3.0]]),
        whole([[0, -1, 0]] * 3),
    )
    loss = getattr(ours, MULTI)
    for scores, target in ((x, t), (x.numpy(), t.numpy())):
        rows = loss(scores, target, reduction="none")
        assert np.isnan(as_array(rows)).tolist() == [True, True, False]
        assert math.isnan(loss(scores[0], target[0]))
        for reduction in ("mean", "sum"):
            assert math.isnan(loss(scores, target, reduction=reduction))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_multilabel_margin_of_half_types(dtype: torch.dtype) -> None:
    x, t = GOOD[MULTI][0].to(dtype), GOOD[MULTI][1]
    for reduction in REDUCTIONS:
        value = getattr(ours, MULTI)(x, t, reduction=reduction)
        wide = theirs.multilabel_margin_loss(x.float(), t, reduction=reduction)
        torch.testing.assert_close(value, wide.to(dtype))


# --- once more, with every index checked --------------------------------------------------------


@pytest.mark.skipif("NUMBA_BOUNDSCHECK" in os.environ, reason="this is the run that checks")
def test_every_index_is_in_bounds(tmp_path: Path) -> None:
    """Run this file with Numba's own checks; fresh kernels, for those on disk have none.

    They see the kernels that are written by hand. Emitted ones are checked in test_codegen.py.
    """
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", "-x", __file__]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", "-k", "multilabel_margin"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
