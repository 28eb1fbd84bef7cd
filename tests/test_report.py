"""The benchmark report: what is boiled down, what is computed of it, and what is written."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpu
import report
import tables
from markers import insert
from results import CONTENDERS, Results, condensed, dump, load
from workloads import GRID, SIZES, SPATIAL, TARGETS, TYPICAL, Workload, arrays, moved, workloads

SECONDS = {"eager": 4.0, "compile": 3.0, "nbloss": 1.0, "numpy": 1.5, "copy": 0.5}


def entry(workload: Workload, contender: str, median: float, calls: int) -> dict[str, Any]:
    info = {"kind": "speed", **vars(workload), "contender": contender, "calls": calls, "moved": 96}
    return {"extra_info": info, "stats": {"median": median}}


@pytest.fixture
def raw() -> dict[str, Any]:
    """What pytest-benchmark writes, as far as it matters: every workload in two turns."""
    speed = [
        entry(workload, name, 10 * turn * SECONDS[name], 10)
        for workload in workloads()
        for turn in (1.0, 2.0)
        for name in CONTENDERS
        if not (name == "compile" and workload.loss == "multilabel_margin_loss")
    ]
    more = [
        {"extra_info": {"kind": kind, "loss": loss, "contender": who, **numbers}, "stats": {}}
        for loss in TYPICAL
        for who in ("eager", "compile", "nbloss")
        for kind, numbers in (
            ("first call", {"cold": 2.0, "cached": 0.123456}),
            ("memory", {"rows": 1000, "columns": 10_000, "allocated": 4e7, "resident": None}),
        )
    ]
    more += [
        {"extra_info": {"kind": "held", "loss": loss, "contender": who, **numbers}, "stats": {}}
        for loss in TYPICAL
        for who in ("eager", "nbloss")
        for numbers in ({"checkpoint": False, "held": 64e6}, {"checkpoint": True, "held": 0})
    ]
    packages = {"nbloss": "0.1", "torch": "2", "numba": "0.6", "llvmlite": "0.4", "numpy": "2"}
    return {
        "benchmarks": speed + more,
        "machine_info": {
            "cpu": {"brand_raw": "A Processor", "count": 2},
            "threads": 2,
            "threading layer": "omp",
            "system": "Linux",
            "machine": "x86_64",
            "python_version": "3.11.0",
            "packages": packages,
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": True},
        "datetime": "2026-01-02T03:04:05",
    }


@pytest.fixture
def results(raw: dict[str, Any], tmp_path: Path) -> Results:
    path = tmp_path / "some.json"
    dump(condensed(raw), path)
    return load(path)


HUBER = Workload("huber_loss", "plain", 1000, 1000)


def test_what_is_boiled_down_is_what_was_measured(results: Results) -> None:
    assert set(results.seconds) == set(workloads())
    assert results.seconds[HUBER]["nbloss"] == [1.0, 2.0]
    assert results.time(HUBER, "eager") == 6.0
    assert results.time(HUBER, "nobody") is None
    assert results.moved[HUBER] == 96
    assert {row["cached"] for row in results.first_calls} == {0.1235}
    assert len(results.memory) == 3 * len(TYPICAL)
    assert "| `huber_loss` | 64 MB | 64 MB | 0 MB | 0 MB |" in tables.held(results)
    text = tables.machine(results)
    assert "A Processor" in text
    assert "0123456789ab+" in text


def test_a_ratio_is_that_of_the_turns(results: Results) -> None:
    assert results.ratio(HUBER) == 3.0
    assert results.ratio(HUBER, ("eager",)) == 4.0
    # Over the whole the medians are as 5 to 2; within two of three turns it is 1.
    results.seconds[HUBER] |= {"nbloss": [1.0, 2.0, 5.0], "compile": [1.0, 9.0, 5.0]}
    results.seconds[HUBER]["eager"] = [99.0, 99.0, 99.0]
    assert results.ratio(HUBER) == 1.0
    del results.seconds[HUBER]["nbloss"]
    assert results.ratio(HUBER) is None


def test_the_floor_is_a_copy(results: Results) -> None:
    assert results.of_floor(HUBER) == 0.5
    assert moved(HUBER) == 12_000_000  # two operands and a gradient
    assert moved(Workload("nll_loss", "2d", 100, 10)) == 4000 + 400 + 800


def test_whether_an_aim_is_met(results: Results) -> None:
    rows = tables.targets(results).splitlines()[2:]
    assert len(rows) == len(TARGETS)
    for row, target in zip(rows, TARGETS, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        best = 4.0 if target.workload.loss == "multilabel_margin_loss" else 3.0
        met = best >= target.ratio and (target.eager or 0.0) <= 4.0
        assert cells[-1] == ("yes" if met else "no")
        assert cells[-3] == f"**{tables.times(best)}**"


def test_the_lowest_ratio_is_named(results: Results) -> None:
    slow = Workload("nll_loss", "2d", *SIZES[3])
    results.seconds[slow]["nbloss"] = [5.0, 10.0]
    assert "0.60× (`nll_loss`, 255 × 255)" in tables.between(results)


@pytest.mark.parametrize("name", tables.TABLES)
def test_tables_are_tables(results: Results, name: str) -> None:
    text = tables.TABLES[name](results)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) <= 1
    rows = {"machine": 0, "spatial": 2 + len(SPATIAL)}
    assert len(lines) >= rows.get(name, 2 + len(TYPICAL))


@pytest.mark.parametrize("workload", SPATIAL, ids=lambda workload: workload.id)
def test_spatial_workloads_are_images(workload: Workload) -> None:
    made = arrays(workload)
    samples, classes, *size = made["input"].shape
    assert (samples, classes) == (workload.rows, workload.columns)
    assert made["target"].shape == (samples, *size)
    assert f"-{size[0]}x{size[1]}-" in f"{workload.case}-"
    ignored = (made["target"] == -100).mean()
    assert ignored == (0.5 if workload.case.endswith("-ignored") else 0.0)
    if workload.loss == "nll_loss":
        np.testing.assert_allclose(np.exp(made["input"]).sum(1), 1.0, rtol=1e-5)


def test_spatial_rows_that_were_not_measured_are_left_out(results: Results) -> None:
    first, *rest = SPATIAL
    for workload in rest:
        del results.seconds[workload]
    (row,) = tables.spatial(results).splitlines()[2:]
    assert row.startswith("| `cross_entropy` | 2 × 21 × 64 × 65 |")
    assert row.endswith("| 4.0× | **3.0×** |")
    del results.seconds[first]
    assert "|" not in tables.spatial(results)


def test_a_run_of_some_workloads_makes_a_report_with_gaps(results: Results) -> None:
    for workload in list(results.seconds)[1:]:
        if workload.loss != "huber_loss":
            del results.seconds[workload]
    for make in tables.TABLES.values():
        assert make(results)
    assert "–" in tables.targets(results)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (2.5e-6, "2.50 µs"),
        (1e-9, "0.00 µs"),
        (0.012345, "12.3 ms"),
        (0.98765, "988 ms"),
        (12.0, "12.0 s"),
        (1234.0, "1234 s"),
    ],
)
def test_times_have_three_digits(seconds: float | None, text: str) -> None:
    assert tables.time(seconds) == text


def test_markers() -> None:
    page = "a <!-- x --> old <!-- end of x --> b"
    assert insert(page, "x", r"new \1") == "a <!-- x -->\n\nnew \\1\n\n<!-- end of x --> b"
    for wrong in ("nothing", page + page):
        with pytest.raises(ValueError, match="needs the markers"):
            insert(wrong, "x", "new")


def test_figures(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from figures import FIGURES, draw

    draw(results, tmp_path)
    first = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(first) == {f"{name}.svg" for name in FIGURES}
    draw(results, tmp_path)
    assert first == {path.name: path.read_text() for path in tmp_path.glob("*.svg")}


# --- what the repository holds --------------------------------------------------------------------


def test_the_pages_say_what_the_data_say() -> None:
    for path, text in report.pages(load(report.DATA)).items():
        assert path.read_text() == text, f"run: python benchmarks/report.py, for {path.name}"


def test_every_aim_has_its_figure() -> None:
    results = load(report.DATA)
    for target in TARGETS:
        assert results.ratio(target.workload) is not None, target
    for classes, count in GRID:
        w = Workload("multilabel_margin_loss", f"{count}-targets", 16, classes)
        assert results.time(w, "nbloss") is not None
    for figure in re.findall(r"\]\((\w+\.svg)\)", report.PAGE.read_text()):
        assert (report.FOLDER / figure).exists()


def test_the_data_are_plain_json() -> None:
    data = json.loads(report.DATA.read_text())
    assert not data["machine"]["commit"].endswith("+"), "measured with changes not committed"


# --- CUDA devices ---------------------------------------------------------------------------------


@pytest.fixture
def on_device() -> dict[str, Any]:
    """What `gpu.measure` writes down: nbloss three times as fast as both others."""

    def row(workload: Workload) -> dict[str, Any]:
        seconds = {"eager": [3e-3, 6e-3], "nbloss": [1e-3, 2e-3], "copy": [9e-4, 18e-4]}
        if workload.loss != "multilabel_margin_loss":
            seconds["compile"] = [3e-3, 6e-3]
        return {**vars(workload), "moved": 8, "seconds": seconds}

    names = ("device", "cuda", "python", "torch", "triton", "numba", "numba-cuda", "numpy")
    return {
        "machine": {**dict.fromkeys(names, "X"), "commit": "0123", "date": "2026-01-02"},
        "speed": [row(one.workload) for one in gpu.TARGETS],
        "tiny": [row(Workload(loss, case, 8, 10)) for loss, case in TYPICAL.items()],
    }


def test_a_devices_page_has_every_workload(on_device: dict[str, Any]) -> None:
    page = gpu.page(on_device)
    assert page.count("| yes |") + page.count("| no |") == len(gpu.TARGETS) + len(TYPICAL)
    huber = next(line for line in page.splitlines() if line.startswith("| `huber_loss` | 4096"))
    assert "| 3.0× | 3.0× | 90% | 2× / 1.4× / 80% | yes |" in huber
    many = next(line for line in page.splitlines() if "32 labels" in line)
    assert "| 3.0× | – | 90% | 20× | no |" in many


@pytest.mark.parametrize("path", gpu.reports(), ids=lambda path: path.stem)
def test_a_devices_page_says_what_was_measured(path: Path) -> None:
    assert path.with_suffix(".md").read_text() == gpu.page(json.loads(path.read_text()))
