"""Emitted kernels: what they compute, what they touch, and how they read."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings

import nbloss
from checked_memory import Memory, interpreted
from formulas import COLUMNS, PARAMETERS, ROWS, formulas, operands
from nbloss.codegen import layout, runtime
from nbloss.codegen.blocks import FLOATS, INTEGERS
from nbloss.codegen.spec import GRAD_OUTPUT, RESERVED, Spec, identifier
from nbloss.engine import kernels as compiling
from nbloss.engine.driver import run_chunks
from nbloss.formula import derive, expression
from nbloss.formula.evaluate import evaluate
from nbloss.formula.registry import LOSSES
from nbloss.formula.trace import Formula

SCALE = 0.5


@numba.njit
def run(kernel, integers, floats, chunks):
    run_chunks(0, kernel, integers, floats, chunks)


def computed(
    spec: Spec,
    given: dict[str, Any],
    parameters: dict[str, float],
    is_compiled: bool = True,
    spatial: int = 1,
    **more: int,
) -> tuple[Any, dict[str, np.ndarray]]:
    """Run a kernel, some rows a chunk; give its values and gradients."""
    columns = given["x"].shape[-2] if spec.tiled else given["x"].shape[-1]
    rows = given["x"].size // max(columns * spatial, 1)
    arrays = {name: np.ascontiguousarray(x) for name, x in given.items()}
    like = arrays["x"].dtype
    for name in spec.needs_grad:
        arrays[f"grad_{name}"] = np.full(given[name].shape, 99, like)
    arrays["values"] = np.full(rows * spatial, 99, like)
    tiles = -(-spatial // spec.tile) if spec.tiled else 1
    chunks = -(-rows * tiles // 2)
    arrays["partials"] = np.zeros(max(chunks, 1))
    integers, floats = np.zeros(INTEGERS, np.int64), np.zeros(FLOATS)
    memory, places = Memory(), spec.fields
    sizes = {"rows": rows, "columns": columns, "rows_per_chunk": 2, "spatial_size": spatial, **more}
    for name, place in places.items():
        if name in sizes:
            integers[place] = sizes[name]
        elif name in arrays:
            array, is_output = arrays[name], name not in given
            integers[place] = array.ctypes.data if is_compiled else memory.add(array, is_output)
        elif name.endswith("_row_step"):
            of = arrays[name.removesuffix("_row_step")]
            integers[place] = of.size // max(rows, 1)
        else:
            integers[place] = spatial
    floats[1] = SCALE
    for name, place in spec.numbers.items():
        floats[place] = parameters.get(name, floats[place])
    if is_compiled:
        kernel = compiling.kernel(spec)
        run(kernel, integers.ctypes.data, floats.ctypes.data, chunks)
    else:
        kernel = interpreted(spec, memory)
        memory.begin_stage()
        with np.errstate(all="ignore"):
            for chunk in range(chunks):
                memory.begin_chunk()
                kernel(integers, floats, chunk)
    value = arrays["values"] if spec.value == "each" else arrays["partials"].sum()
    return value, {name: arrays[f"grad_{name}"] for name in spec.needs_grad}


# --- random formulas ------------------------------------------------------------------------------


def expected(random: Formula, given: dict[str, Any], grad_output: Any) -> list[np.ndarray]:
    """The value and the gradients with respect to x, y and s, evaluated from the graph."""
    value = random.graph().value
    nodes = [expression.operand("x"), expression.operand("y"), expression.operand("s", "per_row")]
    slopes = derive.gradients(value, nodes, expression.operand("g", "per_row"))
    found = evaluate([value, *slopes], {**given, "g": SCALE * grad_output}, PARAMETERS, COLUMNS)
    shapes = [(ROWS, 1), (ROWS, COLUMNS), (ROWS, COLUMNS), (ROWS, 1)]
    return [np.broadcast_to(x, shape) for x, shape in zip(found, shapes, strict=True)]


def check(random: Formula, tiled: bool, is_compiled: bool) -> None:
    given = operands()
    grad_output = np.linspace(0.5, 1.5, ROWS)[:, None]
    spec = Spec(
        random,
        needs_grad=("x", "y") if tiled else ("x", "y", "s"),
        dtype="float64",
        tiled=tiled,
        segment=3,
        tile=2,
    )
    for value, has_grad_output in (("each", False), ("sum", False), ("", True)):
        asked = replace(spec, value=value, has_grad_output=has_grad_output)
        above = grad_output if has_grad_output else np.ones((ROWS, 1))
        values, *slopes = expected(random, given, above)
        arrays: dict[str, Any] = dict(given)
        if has_grad_output:
            arrays[identifier(GRAD_OUTPUT)] = grad_output
        if tiled:  # a single sample, whose rows lie side by side
            arrays = {n: x.T[None] if n in ("x", "y") else x.T for n, x in arrays.items()}
        found, gradients = computed(asked, arrays, PARAMETERS, is_compiled, ROWS if tiled else 1)
        if value:
            whole = values[:, 0] if value == "each" else values.sum()
            np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-10)
        for gradient, slope in zip(gradients.values(), slopes, strict=False):
            gradient = gradient[0].T if tiled else gradient
            np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-9)


def depends_on_all(random: Formula) -> bool:
    """Whether each operand has a gradient that varies as it does; else there is less to store."""
    value = random.graph().value
    return value.varies == {"row"}


@given(formulas.filter(depends_on_all))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_formulas_as_they_are_written(random: Formula) -> None:
    """Each kernel as plain Python, in which an access outside of an array is an error."""
    check(random, False, False)
    check(random, True, False)


@given(formulas.filter(depends_on_all))
@settings(max_examples=4, deadline=None, derandomize=True)
def test_random_formulas_compiled(random: Formula) -> None:
    check(random, False, True)
    check(random, True, True)


# --- labels ---------------------------------------------------------------------------------------

LABELS = np.array([2, -1, 7, 2**62, -(2**63), 0, -100])
OF_LABEL = [LOSSES["nll_loss"].row_formulas[0], LOSSES["cross_entropy"].row_formulas[0]]


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("ignores", [False, True])
@pytest.mark.parametrize("random", OF_LABEL, ids=lambda formula: formula.name)
def test_a_label_that_has_changed_spoils_its_row_alone(
    random: Formula, ignores: bool, tiled: bool, is_compiled: bool
) -> None:
    """After it was validated, say by another thread."""
    rows = len(LABELS)
    scores = np.random.default_rng(0).normal(size=(rows, 7))
    spec = Spec(
        replace(random, operands={"x": "element", "label": "index"}, function=renamed(random)),
        needs_grad=("x",),
        value="each",
        dtype="float64",
        ignores=ignores,
        tiled=tiled,
        segment=3,
        tile=2,
    )
    given = {"x": scores.T[None] if tiled else scores, "label": LABELS}
    values, gradients = computed(
        spec, given, {}, is_compiled, rows if tiled else 1, ignore_index=-100
    )
    gradient = gradients["x"][0].T if tiled else gradients["x"]
    for row, label in enumerate(LABELS):
        if ignores and label == -100:
            assert values[row] == 0.0
            assert not gradient[row].any()
        elif not 0 <= label < 7:
            assert np.isnan(values[row])
            assert np.isnan(gradient[row]).all()
        else:
            assert np.isfinite(values[row])
            assert np.isfinite(gradient[row]).all()
            assert gradient[row, label] < 0.0


def renamed(random: Formula) -> Callable[..., Any]:
    def loss(x, label):
        return random.function(x, label, expression.number(1.0))

    return loss


# --- how they read --------------------------------------------------------------------------------

SOURCES = Path(__file__).parent / "sources"
SHOWN: dict[str, Callable[[], str]] = {
    "huber_loss": lambda: nbloss.source(nbloss.huber_loss),
    "nll_loss": lambda: nbloss.source(nbloss.nll_loss),
    "cross_entropy": lambda: nbloss.source(nbloss.cross_entropy),
    "cross_entropy_smoothed": lambda: nbloss.source(nbloss.cross_entropy, label_smoothing=0.1),
    "cross_entropy_spatial": lambda: nbloss.source(nbloss.cross_entropy, shape=(2, 3, 4)),
    "triplet_margin_loss": lambda: nbloss.source(nbloss.triplet_margin_loss, swap=True),
    "huber_loss_cuda": lambda: nbloss.source(nbloss.huber_loss, device="cuda"),
    "cross_entropy_cuda": lambda: nbloss.source(nbloss.cross_entropy, device="cuda"),
    "cross_entropy_wide_cuda": lambda: nbloss.source(
        nbloss.cross_entropy, device="cuda", shape=(8, 40_000)
    ),
    "nll_loss_spatial_cuda": lambda: nbloss.source(nbloss.nll_loss, device="cuda", shape=(2, 3, 4)),
    "triplet_margin_loss_cuda": lambda: nbloss.source(
        nbloss.triplet_margin_loss, device="cuda", dtype="bfloat16", reduction="none"
    ),
    "half": lambda: nbloss.source(nbloss.margin_ranking_loss, dtype="bfloat16", reduction="none"),
}


def test_operands_can_be_given_to_source() -> None:
    """Probabilities as a target have another kernel than labels."""
    labels = nbloss.source(nbloss.cross_entropy)
    probabilities = nbloss.source(nbloss.cross_entropy, target=np.full((8, 16), 1 / 16, np.float32))
    assert "read_once" in labels
    assert "read_once" not in probabilities
    assert "target[c]" in probabilities


@pytest.mark.parametrize("name", SHOWN)
def test_sources_are_those_that_were_read(name: str) -> None:
    """Set NBLOSS_RENEW_SOURCES, run this test, and read what has changed."""
    path = SOURCES / f"{name}.py.txt"
    text = SHOWN[name]()
    if os.environ.get("NBLOSS_RENEW_SOURCES"):
        path.write_text(text)
    assert text == path.read_text()


def test_no_name_of_a_source_is_taken_twice() -> None:
    """What sources call cannot be the name of an operand."""
    assert set(runtime.names("float32")) | set(runtime.names("bfloat16")) <= RESERVED


@pytest.mark.parametrize(
    "line",
    [
        "    value = " + " + ".join(f"long_name_{k} * other_name_{k}" for k in range(8)),
        "    value = -where(" + ", ".join(f"a_rather_long_name_{k}" for k in range(8)) + ")",
        "    x[c] = factor * (" + " - ".join(f"a_rather_long_name_{k}" for k in range(8)) + ")",
    ],
)
def test_long_lines_mean_the_same_when_they_are_broken(line: str) -> None:
    import ast

    broken = layout.laid_out(line)
    assert len(broken) > 1
    assert max(map(len, broken)) <= layout.WIDTH
    same = ast.dump(ast.parse("if 1:\n" + line))
    assert ast.dump(ast.parse("if 1:\n" + "\n".join(broken))) == same
