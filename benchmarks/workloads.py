"""What is timed: cases of the tests' registry, in sizes from a few numbers to ten million.

A workload is a case with a size, a number type and a number of threads. The registry is
`tests/cases.py`; pytest has its folder on the path.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from cases import CASES, Case, margin_targets

# The case of each loss that its curve of time against size is measured on.
TYPICAL = {
    "huber_loss": "plain",
    "margin_ranking_loss": "2d",
    "multilabel_soft_margin_loss": "2d",
    "triplet_margin_loss": "2d",
    "triplet_margin_with_distance_loss": "default",
    "cross_entropy": "2d",
    "nll_loss": "2d",
    "multilabel_margin_loss": "few-targets",
}
# What learns: in training, gradients go to these and not to targets.
LEARNING = {"input", "input1", "input2", "anchor", "positive", "negative"}
# Most losses work in parallel from 256 × 256 on.
SIZES = [
    (8, 10),
    (32, 32),
    (100, 100),
    (255, 255),
    (257, 257),
    (316, 316),
    (1000, 1000),
    (1000, 10_000),
]
MOST_THREADS = 2
HALVES = ("float16", "bfloat16")
DTYPES = ("float64", *HALVES)
MEDIUM, LARGE = (1000, 1000), (1000, 10_000)


def labels(count: int) -> Case:
    """Multi-label margin with so many labels in each row."""
    build = margin_targets(lambda rng, classes: count)
    return Case("multilabel_margin_loss", f"{count}-targets", build)


def spatial_size(name: str) -> tuple[int, int]:
    """The further dimensions that a case such as `spatial-64x65` has."""
    height, width = name.split("-")[1].split("x")
    return int(height), int(width)


def spatial(loss: str, name: str) -> Case:
    """A class loss of images, with scores and a target for each pixel, as in segmentation.

    With `-ignored` in the name every other target is the default `ignore_index`.
    """
    size = spatial_size(name)

    def build(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
        scores = rng.normal(size=(rows, columns, *size))
        if loss == "nll_loss":
            scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        target = rng.integers(0, columns, size=(rows, *size))
        if name.endswith("-ignored"):
            target.reshape(-1)[1::2] = -100
        return {"input": scores, "target": target}

    return Case(loss, name, build)


REGISTRY = {(case.loss, case.name): case for case in CASES}


def case_of(loss: str, name: str) -> Case:
    """A case of the registry, one of images, or one of multi-label margin with some labels."""
    if (loss, name) in REGISTRY:
        return REGISTRY[loss, name]
    if name.startswith("spatial-"):
        return spatial(loss, name)
    return labels(int(name.removesuffix("-targets")))


@dataclass(frozen=True)
class Workload:
    """What is timed; ``part`` is forward, backward or both."""

    loss: str
    case: str
    rows: int
    columns: int
    dtype: str = "float32"
    threads: int = MOST_THREADS
    part: str = "both"

    @property
    def id(self) -> str:
        size = f"{self.rows}x{self.columns}"
        return f"{self.loss}-{self.case}-{size}-{self.dtype}-{self.threads}-{self.part}"

    @property
    def definition(self) -> Case:
        return case_of(self.loss, self.case)


@dataclass(frozen=True)
class Target:
    """How much faster than the better of eager and compile a workload should be.

    ``eager`` is by how much it should be faster than eager, where that is asked for as well;
    ``headline`` whether README has it.
    """

    workload: Workload
    ratio: float
    eager: float | None = None
    headline: bool = False


def target(
    loss: str, case: str, rows: int, columns: int, ratio: float, eager: float | None = None,
    headline: bool = False,
) -> Target:  # fmt: skip
    return Target(Workload(loss, case, rows, columns), ratio, eager, headline)


WITH_DISTANCE = "triplet_margin_with_distance_loss"
TARGETS = [
    target("huber_loss", "plain", 1000, 1000, 2.0, headline=True),
    target("huber_loss", "plain", 4000, 4000, 2.5, headline=True),
    target("margin_ranking_loss", "2d", 1000, 1000, 8.0, headline=True),
    target("multilabel_margin_loss", "10-targets", 128, 1000, 30.0),
    target("multilabel_margin_loss", "100-targets", 16, 10_000, 100.0),
    target("multilabel_margin_loss", "3000-targets", 16, 10_000, 500.0, headline=True),
    target("multilabel_margin_loss", "4-targets", 2000, 80, 8.0),
    target("multilabel_soft_margin_loss", "2d", 128, 1000, 4.0),
    target("multilabel_soft_margin_loss", "2d", 1000, 10_000, 8.0, headline=True),
    target("nll_loss", "2d", 10_000, 1000, 1.0),
    target("nll_loss", "3d", 1000, 1000, 1.0),
    target("cross_entropy", "2d", 1000, 1000, 1.5),
    target("cross_entropy", "2d", 64, 128_000, 2.0, headline=True),
    target("triplet_margin_loss", "2d", 4096, 128, 3.5),
    target("triplet_margin_loss", "2d", 65_536, 256, 3.5, 6.0, headline=True),
    target("triplet_margin_loss", "p-1-swap", 4096, 128, 3.5),
    target("triplet_margin_loss", "p-1-swap", 65_536, 256, 3.5, 6.0),
    target(WITH_DISTANCE, "cosine", 65_536, 256, 5.0, 30.0, headline=True),
]
# On tiny input it is eager that counts.
TINY = (8, 10)
TINY_TARGETS = dict.fromkeys(TYPICAL, 1.0) | {"nll_loss": 0.75, "multilabel_margin_loss": 0.75}
BETWEEN = 0.9
# Many losses of one prediction, of 16 MB.
HELD, MANY = (4096, 1024), 40
# Inputs of shape (N, C, d1, d2): rows are samples, columns are classes.
SPATIAL = [
    Workload("cross_entropy", "spatial-64x65", 2, 21),
    Workload("cross_entropy", "spatial-256x256", 4, 21),
    Workload("cross_entropy", "spatial-128x128", 2, 150),
    Workload("cross_entropy", "spatial-7x7", 8, 1000),
    Workload("nll_loss", "spatial-256x256", 4, 21),
    Workload("nll_loss", "spatial-256x256-ignored", 4, 21),
    Workload("nll_loss", "spatial-7x7", 8, 1000),
]
# How multi-label margin grows with classes and labels.
GRID_ROWS = 16
GRID = [
    (classes, count)
    for classes in (100, 1000, 10_000)
    for count in (1, 3, 10, 30, 100, 300, 1000, 3000)
    if count < classes
]


def workloads() -> list[Workload]:
    """All workloads, each once; a size with different passes or types comes in one go."""
    found = [
        *(one.workload for one in TARGETS),
        *(Workload(loss, case, *size) for loss, case in TYPICAL.items() for size in SIZES),
        *(
            Workload(loss, case, *size, part=part)
            for loss, case in TYPICAL.items()
            for size in (TINY, MEDIUM)
            for part in ("forward", "backward")
        ),
        *(
            Workload(loss, case, *MEDIUM, dtype=dtype)
            for loss, case in TYPICAL.items()
            for dtype in DTYPES
        ),
        *(Workload(loss, case, *MEDIUM, threads=1) for loss, case in TYPICAL.items()),
        *SPATIAL,
        *(
            Workload("multilabel_margin_loss", f"{count}-targets", GRID_ROWS, classes)
            for classes, count in GRID
        ),
    ]
    return list(dict.fromkeys(found))


@functools.lru_cache(maxsize=2)
def operands(loss: str, case: str, rows: int, columns: int) -> dict[str, np.ndarray]:
    """Numbers to work on, float64, the same in every run; see `Case.make`."""
    return case_of(loss, case).make(0, (rows, columns))


def arrays(workload: Workload) -> dict[str, Any]:
    """The operands in the workload's type."""
    made = operands(workload.loss, workload.case, workload.rows, workload.columns)
    dtype = "float32" if workload.dtype == "bfloat16" else workload.dtype
    return {
        name: value.astype(dtype) if value.dtype.kind == "f" else value
        for name, value in made.items()
    }


def moved(workload: Workload) -> int:
    """Bytes that cannot but be moved, forward and backward: operands read, gradients written.

    Of log-probabilities, `nll_loss` reads no more than one for each target.
    """
    size = 8 if workload.dtype == "float64" else 2 if workload.dtype in HALVES else 4
    total, made = 0, arrays(workload)
    for name, value in made.items():
        if value.dtype.kind == "f":
            read = made["target"].size if workload.loss == "nll_loss" else value.size
            total += size * (read + (value.size if name in LEARNING else 0))
        else:
            total += value.nbytes
    return total
