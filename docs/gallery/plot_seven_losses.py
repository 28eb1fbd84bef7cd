r"""
Seven losses, trained twice
===========================

Does a network that learns through ``nbloss`` learn the same as one that learns through
``torch.nn``? Here seven losses, and ``CrossEntropyLoss`` as an eighth, train a small network each
on real data: once with the class of ``torch.nn`` and once with the class of the same name of
``nbloss.nn``. Both start from the same weights and see the same batches in the same order, so the
two learning curves have to lie on top of each other, down to the rounding of 32-bit numbers.

On the way the page shows what each loss is *for*: what its target looks like, what the network has
to put out, and which number tells whether the result is any good.

================================= ===================================== ==========================
Loss                              The question that it asks             The data
================================= ===================================== ==========================
``NLLLoss``                       Which of the ten digits is it?        handwritten digits
``MultiLabelSoftMarginLoss``      Is this segment lit: yes or no?       digits on a display
``MultiLabelMarginLoss``          Which segments come before which?     digits on a display
``HuberLoss``                     How far has the disease progressed?   diabetes patients
``MarginRankingLoss``             Whose disease progressed further?     pairs of patients
``TripletMarginLoss``             Which two of three belong together?   triplets of digits
``TripletMarginWithDistanceLoss`` The same, judged by the angle         triplets of digits
================================= ===================================== ==========================

Both data sets ship with scikit-learn, so nothing is downloaded, and the whole page runs in well
under a minute on two cores. As a script it takes the place for its figure, and it ends with
status 1 if two curves part or if a network learns nothing::

    python docs/gallery/plot_seven_losses.py --output build/demo/seven_losses.png
"""

# %%
# What is compared
# ----------------
#
# A library is a module full of losses and, for the loss that lets its user choose how to measure a
# distance, the cosine distance. torch takes any Python function there. nbloss takes one, too, but
# ``nbloss.distances`` has the usual ones as definitions that compile into the loss itself.

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.stats import spearmanr
from sklearn.datasets import load_diabetes, load_digits
from sklearn.metrics import (
    f1_score,
    label_ranking_average_precision_score,
    mean_absolute_error,
    r2_score,
    silhouette_score,
)
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

import nbloss.nn
from nbloss import distances


@dataclass(frozen=True)
class Library:
    """Where the losses come from."""

    name: str
    losses: ModuleType
    cosine: Callable[[Tensor, Tensor], Tensor]


TORCH = Library("torch", torch.nn, lambda x, y: 1 - F.cosine_similarity(x, y))
NBLOSS = Library("nbloss", nbloss.nn, distances.cosine)

# %%
# Networks as small as these run faster on one thread than on several, and one thread adds its
# numbers in one order: every run of this page gives the same curves.

SEED = 0
BATCH = 128
torch.set_num_threads(1)
matplotlib.use("Agg")  # a figure in a file needs no screen

parser = argparse.ArgumentParser(description="Train with seven losses of torch and of nbloss.")
parser.add_argument(
    "--output",
    type=Path,
    default=Path("build/demo/seven_losses.png"),
    help="where to save the learning curves (%(default)s)",
)
# A notebook is no script: it has no file, and what stands in its argv is meant for others.
options = parser.parse_args(None if "__file__" in globals() else [])

# %%
# The data
# --------
#
# 1797 handwritten digits of 8 × 8 pixels, and 442 diabetes patients with ten measurements each
# (age, blood pressure, blood serum, …) together with a score of how far the disease has
# progressed one year later. A quarter is held out: no network sees it while it learns.

digits = load_digits()
pixels = (digits.data / 16).astype(np.float32)
pixels_train, pixels_test, digit_train, digit_test = train_test_split(
    pixels, digits.target, test_size=0.25, stratify=digits.target, random_state=SEED
)

diabetes = load_diabetes(scaled=False)
patients_train, patients_test, progress_train, progress_test = train_test_split(
    diabetes.data, diabetes.target, test_size=0.25, random_state=SEED
)

# %%
# The measurements come in units of all sorts. Every column is brought to mean 0 and spread 1 by
# the numbers of the training patients alone: those held out must not leak into the preparation.
# The progression score (25 to 346 points) is scaled likewise, and scaled back before it is judged.

centre, spread = patients_train.mean(axis=0), patients_train.std(axis=0)
patients_train = ((patients_train - centre) / spread).astype(np.float32)
patients_test = ((patients_test - centre) / spread).astype(np.float32)

middle, points = progress_train.mean(), progress_train.std()
severity_train = ((progress_train - middle) / points).astype(np.float32)

# %%
# Seven segments, seven labels
# ............................
#
# A pocket calculator shows a digit by lighting some of seven segments, so that every picture of a
# digit carries not one label but several: a 1 lights two segments, an 8 lights all of them.
#
# .. code-block:: text
#
#      aaa
#     f   b
#     f   b
#      ggg
#     e   c
#     e   c
#      ddd
#
# The two multi-label losses want the same fact in two forms. The soft margin takes a 0 or 1 for
# each label. The hard margin takes the *indices* of the labels that are present, and fills up
# what is left of the row with -1: a 1 is ``[1, 2, -1, -1, -1, -1, -1]``.

SEGMENTS = ["abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg"]
LIT = np.array([[int(segment in shown) for segment in "abcdefg"] for shown in SEGMENTS])
LIT_INDICES = np.array(
    [np.pad(np.flatnonzero(r), (0, 7 - r.sum()), constant_values=-1) for r in LIT]
)

lit_train, lit_test = LIT[digit_train], LIT[digit_test]

# %%
# Pairs and triplets
# ..................
#
# A ranking loss learns from *pairs*: two patients, and +1 where the first has progressed further
# or -1 where the second has. Ties teach nothing and are left out.
#
# A triplet loss learns from *threes*: an anchor, another picture of the same digit (the positive)
# and a picture of another digit (the negative). Both kinds are drawn from the training data alone.

draw = np.random.default_rng(SEED)

first, second = draw.integers(len(progress_train), size=(2, 4000))
untied = progress_train[first] != progress_train[second]
first, second = first[untied], second[untied]
further = np.sign(progress_train[first] - progress_train[second]).astype(np.float32)


def triplets(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of anchors, of partners with the same label, and of partners with another one."""
    anchor = draw.integers(len(labels), size=count)
    positive = np.array([draw.choice(np.flatnonzero(labels == labels[a])) for a in anchor])
    negative = np.array([draw.choice(np.flatnonzero(labels != labels[a])) for a in anchor])
    return anchor, positive, negative


anchor, positive, negative = triplets(digit_train, 4000)

# %%
# How to tell whether it has learnt anything
# ------------------------------------------
#
# A loss is what the optimiser looks at. A person looks at something else: the share of digits
# read correctly, the error in the unit of the data, the share of pairs put in the right order.
# Each function below takes a prediction (a function from inputs to outputs) and judges it on the
# data that was held out.

Predict = Callable[[np.ndarray], np.ndarray]
Metrics = dict[str, float]


def judge_digits(predict: Predict) -> Metrics:
    """Accuracy: the share of digits that got the highest score."""
    return {"accuracy": np.mean(predict(pixels_test).argmax(axis=1) == digit_test)}


def judge_display(predict: Predict) -> Metrics:
    """F1 over all segments, and the share of displays on which all seven segments are right."""
    shown = predict(pixels_test) > 0
    return {
        "segment F1": f1_score(lit_test, shown, average="micro"),
        "all 7 right": np.mean((shown == lit_test).all(axis=1)),
    }


def judge_order_of_segments(predict: Predict) -> Metrics:
    """Ranking precision, and the share with every lit segment above every dark one."""
    scores = predict(pixels_test)
    dimmest_lit = np.where(lit_test, scores, np.inf).min(axis=1)
    brightest_dark = np.where(lit_test, -np.inf, scores).max(axis=1)
    return {
        "ranking precision": label_ranking_average_precision_score(lit_test, scores),
        "all in order": np.mean(dimmest_lit > brightest_dark),
    }


def judge_progression(predict: Predict) -> Metrics:
    """Mean absolute error in points of the progression score, and the variance explained."""
    foretold = middle + points * predict(patients_test).ravel()
    return {
        "error (points)": mean_absolute_error(progress_test, foretold),
        "R²": r2_score(progress_test, foretold),
    }


def judge_order_of_patients(predict: Predict) -> Metrics:
    """The share of all pairs that are in the right order, and Spearman's rank correlation."""
    score = predict(patients_test).ravel()
    truth = np.sign(np.subtract.outer(progress_test, progress_test))
    guess = np.sign(np.subtract.outer(score, score))
    return {
        "pairs in order": np.mean((guess == truth)[truth != 0]),
        "Spearman": spearmanr(score, progress_test).statistic,
    }


def judge_neighbours(predict: Predict, metric: str) -> Metrics:
    """Accuracy of the five nearest neighbours, and how well the digits stand apart (silhouette)."""
    known, unknown = predict(pixels_train), predict(pixels_test)
    neighbours = KNeighborsClassifier(5, metric=metric).fit(known, digit_train)
    return {
        "5-NN accuracy": neighbours.score(unknown, digit_test),
        "silhouette": silhouette_score(unknown, digit_test, metric=metric),
    }


# %%
# A number means nothing without the number that comes for free. These are the best that one can
# do *without looking at the input*: always the most frequent digit, each segment as it is in most
# digits, the median of the patients; a coin for the order of two patients.


def always(answer: np.ndarray) -> Predict:
    """The prediction that gives the same answer whatever it is asked."""
    return lambda inputs: np.tile(answer, (len(inputs), 1))


often_lit = lit_train.mean(axis=0)
blind_digits = judge_digits(always(np.bincount(digit_train)))
blind_display = judge_display(always(often_lit - 0.5))
blind_order_of_segments = judge_order_of_segments(always(often_lit))
blind_progression = judge_progression(always(np.median(severity_train)))
blind_order_of_patients = {"pairs in order": 0.5, "Spearman": 0.0}
blind_neighbours = {"5-NN accuracy": blind_digits["accuracy"], "silhouette": 0.0}

LOWER_IS_BETTER = {"error (points)"}

# %%
# Tasks are data
# --------------
#
# All eight lessons differ in no more than what follows: a network, examples, and how many of the
# columns of an example pass through the network (one if there is a target, two for a pair,
# three for a triplet). Everything else about training is the same for all of them.


@dataclass(frozen=True)
class Task:
    """What there is to learn, and how to tell whether it has been learnt."""

    network: Callable[[], nn.Module]
    examples: tuple[np.ndarray, ...]  # columns of equal length
    scored: int  # so many of them pass through the network; the others go to the loss as they are
    judge: Callable[[Predict], Metrics]
    blind: Metrics
    epochs: int
    rate: float


@dataclass(frozen=True)
class Lesson:
    """A loss, told how to make it from either library, and the task that it is good for."""

    name: str
    loss: Callable[[Library], nn.Module]
    task: Task


def layers(*widths: int) -> nn.Sequential:
    """A network of linear layers with a smooth bend between them."""
    linear = [nn.Linear(*pair) for pair in pairwise(widths)]
    bent = [part for layer in linear[:-1] for part in (layer, nn.Tanh())]
    return nn.Sequential(*bent, linear[-1])


# %%
# Which of the ten digits is it?
# ..............................
#
# ``NLLLoss`` takes *log-probabilities* and picks out, with its sign turned, the one of the right
# class :math:`y`:
#
# .. math:: \ell(x, y) = -x_y
#
# So the network has to end in a log-softmax. ``CrossEntropyLoss`` has that step built in and takes
# plain scores; it must give the very same curve, which makes it a good eighth lesson.

read = {
    "examples": (pixels_train, digit_train),
    "scored": 1,
    "judge": judge_digits,
    "blind": blind_digits,
    "epochs": 40,
    "rate": 0.1,
}
read_from_log_probabilities = Task(
    lambda: nn.Sequential(layers(64, 48, 10), nn.LogSoftmax(dim=1)), **read
)
read_from_scores = Task(lambda: layers(64, 48, 10), **read)

# %%
# Which segments are lit?
# .......................
#
# ``MultiLabelSoftMarginLoss`` asks one yes-or-no question for each of the :math:`C` labels; a score
# above zero says yes:
#
# .. math::
#
#    \ell(x, y) = -\frac1C \sum_i y_i \log\sigma(x_i) + (1 - y_i) \log(1 - \sigma(x_i))
#
# ``MultiLabelMarginLoss`` only asks for an *order*: every label that is present (:math:`j`) is to
# score at least 1 above every label that is not (:math:`i`):
#
# .. math:: \ell(x, y) = \frac1C \sum_j \sum_i \max(0,\; 1 - (x_j - x_i))
#
# Where zero lies does not matter to it, and so its result is judged by the order alone. It has
# nothing to learn from an 8, which lights all segments and leaves none to be compared with.

light = Task(
    lambda: layers(64, 48, 7),
    examples=(pixels_train, lit_train.astype(np.float32)),
    scored=1,
    judge=judge_display,
    blind=blind_display,
    epochs=40,
    rate=0.5,
)
order_segments = Task(
    lambda: layers(64, 48, 7),
    examples=(pixels_train, LIT_INDICES[digit_train]),
    scored=1,
    judge=judge_order_of_segments,
    blind=blind_order_of_segments,
    epochs=40,
    rate=0.02,
)

# %%
# How far, and whose further?
# ...........................
#
# ``HuberLoss`` is the squared error as long as the error is small, and grows only linearly beyond
# :math:`\delta`, so that a few patients who are far from all others do not pull the network away:
#
# .. math::
#
#    \ell(x, y) = \begin{cases}
#        \tfrac12 (x - y)^2 & \text{where } |x - y| \le \delta \\
#        \delta\,(|x - y| - \tfrac12 \delta) & \text{elsewhere}
#    \end{cases}
#
# Here :math:`\delta` is 1, the spread of the score. ``MarginRankingLoss`` does not care for the
# score itself. It sees two patients and which of them (:math:`y = \pm 1`) has progressed further:
#
# .. math:: \ell(x_1, x_2, y) = \max(0,\; -y\,(x_1 - x_2) + \text{margin})

foretell = Task(
    lambda: layers(10, 16, 1),
    examples=(patients_train, severity_train[:, None]),
    scored=1,
    judge=judge_progression,
    blind=blind_progression,
    epochs=90,
    rate=0.02,
)
order_patients = Task(
    lambda: nn.Sequential(layers(10, 16, 1), nn.Flatten(0)),
    examples=(patients_train[first], patients_train[second], further),
    scored=2,
    judge=judge_order_of_patients,
    blind=blind_order_of_patients,
    epochs=10,
    rate=0.02,
)

# %%
# Which two of three belong together?
# ...................................
#
# Here the network sorts nothing into classes. It gives every picture a place in a space of sixteen
# dimensions, and the loss moves the anchor :math:`a` at least a margin nearer to the positive
# :math:`p` than to the negative :math:`n`:
#
# .. math:: \ell(a, p, n) = \max(0,\; d(a, p) - d(a, n) + \text{margin})
#
# For ``TripletMarginLoss``, :math:`d` is a norm of the difference. For
# ``TripletMarginWithDistanceLoss`` it is whatever one hands over: here the cosine distance
# :math:`1 - \cos(x, y)`, which looks at directions only. It lies between 0 and 2, so the margin
# is smaller. In both spaces a digit is then read by asking its five nearest neighbours.


def embed(metric: str, rate: float) -> Task:
    """Places for pictures, in which ``metric`` tells the digits apart."""
    return Task(
        lambda: layers(64, 48, 16),
        examples=(pixels_train[anchor], pixels_train[positive], pixels_train[negative]),
        scored=3,
        judge=partial(judge_neighbours, metric=metric),
        blind=blind_neighbours,
        epochs=10,
        rate=rate,
    )


LESSONS = [
    Lesson("NLLLoss", lambda lib: lib.losses.NLLLoss(), read_from_log_probabilities),
    Lesson("CrossEntropyLoss", lambda lib: lib.losses.CrossEntropyLoss(), read_from_scores),
    Lesson("MultiLabelSoftMarginLoss", lambda lib: lib.losses.MultiLabelSoftMarginLoss(), light),
    Lesson("MultiLabelMarginLoss", lambda lib: lib.losses.MultiLabelMarginLoss(), order_segments),
    Lesson("HuberLoss", lambda lib: lib.losses.HuberLoss(delta=1.0), foretell),
    Lesson(
        "MarginRankingLoss", lambda lib: lib.losses.MarginRankingLoss(margin=0.5), order_patients
    ),
    Lesson(
        "TripletMarginLoss",
        lambda lib: lib.losses.TripletMarginLoss(margin=1.0),
        embed("euclidean", rate=0.02),
    ),
    Lesson(
        "TripletMarginWithDistanceLoss",
        lambda lib: lib.losses.TripletMarginWithDistanceLoss(
            distance_function=lib.cosine, margin=0.1
        ),
        embed("cosine", rate=0.005),
    ),
]

# %%
# Training
# --------
#
# One function trains everything. The seed fixes the first weights and the order of the batches;
# the loss is the only thing that differs between two calls. What it records is the loss of
# *every* step, so that a difference has nowhere to hide.


@dataclass(frozen=True)
class Run:
    """What a training leaves behind."""

    curve: np.ndarray  # the loss of every step
    metrics: Metrics
    seconds: float


def loss_of(network: nn.Module, loss: nn.Module, task: Task, batch: list[Tensor]) -> Tensor:
    """The loss of a batch: some of its columns pass through the network, the others do not."""
    outputs = [network(column) for column in batch[: task.scored]]
    return loss(*outputs, *batch[task.scored :])


def train(
    loss: nn.Module, task: Task, seed: int, after_epoch: Callable[[], None] = lambda: None
) -> Run:
    """Train the network of a task from scratch, and judge it on the data that was held out."""
    torch.manual_seed(seed)
    columns = [torch.from_numpy(column) for column in task.examples]
    network = task.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=task.rate, momentum=0.9)
    curve = []
    start = time.perf_counter()
    for _ in range(task.epochs):
        for rows in torch.randperm(len(columns[0])).split(BATCH):
            value = loss_of(network, loss, task, [column[rows] for column in columns])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            curve.append(value.item())
        after_epoch()
    seconds = time.perf_counter() - start

    def predict(inputs: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(inputs)).numpy()

    return Run(np.array(curve), task.judge(predict), seconds)


# %%
# nbloss compiles a loss for the kind of numbers that it meets, when it first meets them. One step
# on one batch, with a network that is thrown away, gets that done before the clock of the training
# starts. How long it takes is not swept under the carpet: it has a column of its own. The machine
# code is kept on disk, so the second time this page runs that column is all but empty.


def first_call(loss: nn.Module, task: Task) -> float:
    """Seconds that the first step takes: forward, backward and whatever has to be compiled."""
    network = task.network()
    batch = [torch.from_numpy(column[:BATCH]) for column in task.examples]
    start = time.perf_counter()
    loss_of(network, loss, task, batch).backward()
    return time.perf_counter() - start


# %%
# When is a curve the same curve?
# -------------------------------
#
# Two right computations of one loss may differ in the last of the 24 binary digits of a 32-bit
# number, because they add the same terms in another order. Each step starts from what the last one
# left, and so the difference grows. How fast depends on the loss: a smooth one keeps it near
# 1e-7 to the end, but where a hinge has its kink, at :math:`\max(0, \cdot)`, the gradient jumps,
# and steep angles between short vectors carry a difference further still. Small rates and batches
# of 128 keep all eight lessons calm: if every gradient is disturbed by its last bit on purpose, the
# curves part by 1e-7 to 1e-5 of their height. The tolerance lies a little above that. A gradient
# that is wrong by one part in a thousand is found out by it.

TOLERANCE = 1e-4


def largest_gap(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference along two curves, as a part of the greatest height of the first."""
    return float(np.abs(one - other).max() / np.abs(one).max())


def no_better_than_blind(metrics: Metrics, blind: Metrics) -> list[str]:
    """Name the metrics that a guess without looking would have reached as well."""
    sign = {name: -1 if name in LOWER_IS_BETTER else 1 for name in metrics}
    return [name for name in metrics if not sign[name] * (metrics[name] - blind[name]) > 0]


@dataclass(frozen=True)
class Result:
    """One lesson, learnt twice."""

    lesson: Lesson
    torch: Run
    nbloss: Run
    first_call: float

    @property
    def gap(self) -> float:
        return largest_gap(self.torch.curve, self.nbloss.curve)

    @property
    def complaints(self) -> list[str]:
        """What is wrong, in words; nothing if all is well. A NaN is wrong, too."""
        found = [] if self.gap <= TOLERANCE else [f"the curves part by {self.gap:.1e}"]
        for library, run in (("torch", self.torch), ("nbloss", self.nbloss)):
            names = no_better_than_blind(run.metrics, self.lesson.task.blind)
            found += [f"{name} of {library} is no better than a blind guess" for name in names]
        return found


# %%
# The lessons
# -----------


def learn(lesson: Lesson, progress: Progress, bar: TaskID) -> Result:
    """Learn a lesson with torch, then with nbloss."""
    first_call(lesson.loss(TORCH), lesson.task)  # torch gets a warm start as well
    compiled_in = first_call(lesson.loss(NBLOSS), lesson.task)
    runs = []
    for library in (TORCH, NBLOSS):
        progress.update(bar, description=f"{lesson.name} of {library.name}")
        loss = lesson.loss(library)
        runs.append(train(loss, lesson.task, SEED, after_epoch=lambda: progress.advance(bar)))
    return Result(lesson, *runs, compiled_in)


def learn_all(lessons: list[Lesson], console: Console) -> list[Result]:
    """Learn one lesson after the other, and say how it goes."""
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    results = []
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=2 * sum(lesson.task.epochs for lesson in lessons))
        for lesson in lessons:
            results.append(learn(lesson, progress, bar))
            console.print(f"{lesson.name}: {'; '.join(results[-1].complaints) or 'learnt twice'}")
    return results


console = Console(width=None if sys.stdout.isatty() else 130)
results = learn_all(LESSONS, console)

# %%
# What came of it
# ---------------
#
# The *gap* is the largest difference between the two curves at any step. The metrics are those of
# the data held out, next to what a blind guess gets. The seconds are those of a whole training:
# with networks as small as these most of them go into the layers and the optimiser, which are
# torch's in both runs. How fast the losses are by themselves is a question for the benchmark.


def show(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def both(torch_value: float, nbloss_value: float) -> str:
    return f"{show(torch_value)} / {show(nbloss_value)}"


def report(results: list[Result]) -> Table:
    """All results as a table, a loss a row, and a line for each metric in it."""
    table = Table(box=box.SIMPLE_HEAD, title="Each loss from torch.nn / from nbloss.nn")
    table.add_column("Loss", no_wrap=True)
    table.add_column("Final loss", justify="right")
    table.add_column("Gap", justify="right")
    table.add_column("Held out", no_wrap=True)
    table.add_column("torch / nbloss", justify="right")
    table.add_column("Blind", justify="right")
    table.add_column("Seconds", justify="right")
    table.add_column("First\ncall", justify="right")
    table.add_column("Status")
    for result in results:
        task, one, other = result.lesson.task, result.torch, result.nbloss
        epoch = len(one.curve) // task.epochs
        table.add_row(
            result.lesson.name,
            both(one.curve[-epoch:].mean(), other.curve[-epoch:].mean()),
            f"{result.gap:.0e}",
            "\n".join(one.metrics),
            "\n".join(both(one.metrics[name], other.metrics[name]) for name in one.metrics),
            "\n".join(show(task.blind[name]) for name in one.metrics),
            f"{one.seconds:.2f} / {other.seconds:.2f}",
            f"{result.first_call:.2f}",
            "[red]wrong[/]" if result.complaints else "[green]same[/]",
        )
    table.caption = (
        "Final loss: mean over the last epoch. Gap: largest difference along the curve, relative\n"
        "to its height. First call: seconds of the first step with nbloss, compilation included,\n"
        "not part of the seconds before it; short where the machine code was found on disk."
    )
    return table


console.print(report(results))

# %%
# The learning curves
# -------------------
#
# torch is the broad pale line, nbloss the thin dark one on top of it. One line with a dark core
# means that the two agree.


def draw_curves(results: list[Result]) -> plt.Figure:
    """Draw the loss of every step, a panel a lesson."""
    figure, panels = plt.subplots(2, 4, figsize=(15, 7), layout="constrained")
    for panel, result in zip(panels.flat, results, strict=True):
        steps = np.arange(1, len(result.torch.curve) + 1)
        panel.plot(steps, result.torch.curve, color="#f4b183", linewidth=4.5, label="torch.nn")
        panel.plot(
            steps,
            result.nbloss.curve,
            color="#1f2d5a",
            linewidth=1,
            linestyle="--",
            label="nbloss.nn",
        )
        panel.set_title(result.lesson.name, fontsize=11)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
        panel.text(
            0.97,
            0.95,
            f"largest gap {result.gap:.0e}",
            transform=panel.transAxes,
            ha="right",
            va="top",
        )
    figure.supxlabel("optimisation step")
    figure.supylabel("training loss of the batch")
    figure.legend(*panels.flat[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


figure = draw_curves(results)
options.output.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(options.output, dpi=120)
console.print(f"Learning curves saved to {options.output}")

# %%
# The verdict
# -----------
#
# If anything went wrong, say what, and let the shell know.

complaints = [f"{r.lesson.name}: {text}" for r in results for text in r.complaints]
if complaints:
    sys.exit("\n".join([f"Not the same (tolerance {TOLERANCE:.0e}):", *complaints]))
console.print(f"All {len(results)} losses learn the same with nbloss as with torch.")
