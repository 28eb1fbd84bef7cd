"""DTensors on two ranks: right, or refused by both ranks alike; never wrong.

Everything is held against the oracles, which know the whole tensors and no torch. One run of this
file as a script, with two processes, makes all the outcomes that the tests look at.
"""

import datetime
import os
import pickle
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing

import nbloss
import oracles
from versions import since

pytestmark = since(2, 13)

RANKS = 2
REDUCTIONS = ("mean", "sum", "none")


# --- what is computed -----------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Case:
    """A loss of whole tensors; its operands are placed on the mesh in several ways.

    Attributes
    ----------
    leaves : tuple of str
        The operands whose gradients are looked at.
    """

    name: str
    label: str
    operands: dict[str, np.ndarray]
    leaves: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name}-{self.label}"


def cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for label, (rows, classes) in {"even": (4, 6), "uneven": (5, 7)}.items():
        x, y, z = rng.normal(scale=2, size=(3, rows, classes))
        signs = rng.choice([-1.0, 1.0], size=(rows, classes))
        shares = np.exp(y) / np.exp(y).sum(1, keepdims=True)
        weight = rng.uniform(0.1, 2, size=classes)
        target = rng.integers(classes, size=rows)
        ignored = np.where(np.arange(rows) < 1, -100, target)  # on the first rank alone
        of_one_rank = np.where(np.arange(rows) < (rows + 1) // 2, -100, target)
        sets = np.where(np.arange(classes) < 1, target[:, None], -1)

        yield Case("huber_loss", label, {"input": x, "target": y}, ("input", "target"))
        weighted = {"input": x, "target": y, "weight": np.abs(z)}
        yield Case("huber_loss", f"{label}-weight", weighted, ("input", "target"))
        both = {"input1": x, "input2": y, "target": signs}
        yield Case("margin_ranking_loss", label, both, ("input1", "input2"), {"margin": 0.5})
        for name in ("triplet_margin_loss", "triplet_margin_with_distance_loss"):
            three = {"anchor": x, "positive": y, "negative": z}
            yield Case(name, label, three, tuple(three))
            yield Case(name, f"{label}-swap", three, tuple(three), {"swap": True})
        yield Case("multilabel_margin_loss", label, {"input": x, "target": sets}, ("input",))
        soft = {"input": x, "target": (signs + 1) / 2}
        yield Case("multilabel_soft_margin_loss", label, soft, ("input",))
        logs = x - np.log(np.exp(x).sum(1, keepdims=True))
        for name, scores in (("nll_loss", logs), ("cross_entropy", x)):
            for kind, labels in (("", target), ("-ignored", ignored), ("-one-rank", of_one_rank)):
                one = {"input": scores, "target": labels}
                yield Case(name, label + kind, one, ("input",))
            yield Case(name, f"{label}-weight", {**one, "weight": weight}, ("input",))
        yield Case("cross_entropy", f"{label}-shares", {"input": x, "target": shares}, ("input",))
        index = {"input": x, "target": target}
        smooth = {"label_smoothing": 0.1}
        yield Case("cross_entropy", f"{label}-smoothing", index, ("input",), smooth)


CASES = {repr(case): case for case in cases()}

# How the first operand is placed, and how the others are: a number is the dimension of a shard.
PLACED: list[tuple[Any, Any]] = [
    (0, 0),
    (0, "replicate"),
    (1, "replicate"),
    (1, 0),
    ("replicate", 0),
    ("replicate", "replicate"),
    ("partial", "replicate"),
]
# Modes cost more, and have less to go wrong: these calls are enough.
IN_MODES = [
    (name, placed, reduction)
    for name in (
        "huber_loss-uneven",
        "margin_ranking_loss-uneven",
        "triplet_margin_loss-even",
        "triplet_margin_with_distance_loss-even",
        "multilabel_margin_loss-even",
        "multilabel_soft_margin_loss-even",
        "nll_loss-even-ignored",
        "cross_entropy-even-weight",
    )
    for placed, reduction in (((0, 0), "mean"), ((0, 0), "sum"), ((1, "replicate"), "mean"))
]


def all_calls() -> Iterator[tuple[str, tuple[Any, Any], str]]:
    for name in CASES:
        for reduction in REDUCTIONS:
            many = len(PLACED) if reduction != "none" else 4
            for placed in PLACED[: 1 if "-even" in name else many]:
                yield name, placed, reduction


def is_refused(name: str, placed: tuple[Any, Any], reduction: str) -> bool:
    """Whether torch's result of a call is wrong, or would be with other data."""
    case = CASES[name]
    if case.name == "multilabel_margin_loss":
        return True
    if reduction != "mean":
        return False
    if case.name == "huber_loss" and "weight" not in case.operands:
        return any(isinstance(place, int) for place in placed)
    if case.name in ("nll_loss", "cross_entropy") and not name.endswith("shares"):
        return placed[0] == 0
    return False


# torch 2.13 has no rule for sharding the backward pass of these, and says so; later ones may.
WITHOUT_GRADIENT = ("multilabel_soft_margin_loss",)


# --- what the two processes do --------------------------------------------------------------------


class Rank:
    """One of the two processes, with its mesh."""

    def __init__(self) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.mesh = init_device_mesh("cpu", (RANKS,))
        self.number = torch.distributed.get_rank()

    def place(self, x: np.ndarray, where: Any) -> Any:
        from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

        whole = torch.from_numpy(x)
        if where == "partial":
            part = torch.linspace(-1, 1, whole.numel(), dtype=whole.dtype).reshape(whole.shape)
            mine = part if self.number == 0 else whole - part
            return DTensor.from_local(mine, self.mesh, [Partial()])
        there = Replicate() if where == "replicate" else Shard(where)
        return distribute_tensor(whole, self.mesh, [there])

    def operands(self, case: Case, placed: tuple[Any, Any]) -> dict[str, Any]:
        found = {}
        for k, (key, x) in enumerate(case.operands.items()):
            of_classes = key == "weight" and x.ndim == 1
            where = placed[0] if k == 0 else "replicate" if of_classes else placed[1]
            found[key] = self.place(x, where)
            if key in case.leaves:
                found[key] = found[key].detach().requires_grad_()
        return found

    def outcome(
        self, name: str, placed: tuple[Any, Any], reduction: str, call: Callable[..., Any]
    ) -> dict[str, Any]:
        """Say how a call ends: in errors against the oracle, or in an exception."""
        case = CASES[name]
        given = self.operands(case, placed)
        options = {**case.options, "reduction": reduction}
        expected = oracles.value(case.name, case.operands, options)
        grad_output = np.random.default_rng(1).normal(size=expected.shape)
        slopes = oracles.gradients(case.name, case.operands, options, case.leaves, grad_output)
        found: dict[str, Any] = {}
        try:
            value = call(getattr(nbloss, case.name), {**given, **options})
            found["value"] = off(value, expected)
            value.full_tensor().backward(torch.from_numpy(grad_output))
            found["gradients"] = max(off(given[key].grad, slopes[key]) for key in case.leaves)
        except Exception as error:
            found["error"] = type(error).__name__, str(error)
        return found


def off(x: Any, expected: np.ndarray) -> float:
    """Greatest error of a DTensor; NaN is an error like any other, but where it is expected."""
    whole = x.full_tensor().detach().numpy()
    assert whole.shape == expected.shape
    same = (whole == expected) | (np.isnan(whole) & np.isnan(expected))
    return float(np.max(np.where(same, 0.0, np.nan_to_num(np.abs(whole - expected), nan=np.inf))))


def plain(function: Callable, given: dict[str, Any]) -> Any:
    return function(**given)


def positional(function: Callable, given: dict[str, Any]) -> Any:
    """Give the tensors by position, which the rules have to name."""
    if function.__name__ == "huber_loss":
        return function(given.pop("input"), given.pop("target"), given.pop("reduction"), **given)
    keep = [key for key in given if isinstance(given[key], torch.Tensor)]
    tensors = [given.pop(key) for key in keep]
    return function(*tensors, **given)


def watched(function: Callable, given: dict[str, Any]) -> Any:
    from torch.distributed.tensor.debug import CommDebugMode

    with CommDebugMode():
        return function(**given)


def patched(function: Callable, given: dict[str, Any]) -> Any:
    with nbloss.patch_torch():
        return getattr(torch.nn.functional, function.__name__)(**given)


def on_device(function: Callable, given: dict[str, Any]) -> Any:
    """A mode of ``__torch_function__`` is in progress."""
    with torch.device("cpu"):
        return function(**given)


def compiled(function: Callable, given: dict[str, Any]) -> Any:
    torch._dynamo.reset()
    # A gradient through an operation before the loss, whose result is no input of the graph.
    first = next(iter(given))

    def step(given: dict[str, Any]) -> Any:
        return function(**{**given, first: given[first] * 1.0})

    return torch.compile(step, fullgraph=True, backend="aot_eager")(given)


MODES: dict[str, Callable[[Callable, dict[str, Any]], Any]] = {
    "positional": positional,
    "watched": watched,
    "patched": patched,
    "on_device": on_device,
    "compiled": compiled,
}


def transformed(rank: Rank, reduction: str) -> dict[str, Any]:
    """The gradient by ``torch.func``."""
    case = CASES["huber_loss-uneven"]
    x, y = rank.operands(case, (0, 0)).values()
    slopes = oracles.gradients(case.name, case.operands, {"reduction": reduction}, ("input",))
    gradient = torch.func.grad(lambda x: nbloss.huber_loss(x, y.detach(), reduction=reduction))
    return {"value": off(gradient(x.detach()), slopes["input"])}


def advice(rank: Rank, name: str, how: str) -> dict[str, Any]:
    """What the messages say to do instead of a mean."""
    from torch.distributed.tensor import Replicate

    case = CASES[name]
    given = rank.operands(case, (0, 0))
    function = getattr(nbloss, case.name)
    if how == "none":
        value = function(**given, reduction="none").mean()
    elif how == "sum":
        counted = case.operands["target"] >= 0
        weight = case.operands.get("weight", np.ones(case.operands["input"].shape[1]))
        total = weight[case.operands["target"][counted]].sum()
        value = function(**given, reduction="sum") / total
    elif how == "replicate":
        value = function(**{k: x.redistribute(placements=[Replicate()]) for k, x in given.items()})
    else:
        value = function(**{k: x.full_tensor() for k, x in given.items()})
    value.backward()
    whole = value.detach() if how == "whole" else value.detach().full_tensor()
    slopes = oracles.gradients(case.name, case.operands, {}, case.leaves)
    return {
        "value": float(abs(whole.numpy() - oracles.value(case.name, case.operands, {}))),
        "gradients": max(off(given[key].grad, slopes[key]) for key in case.leaves),
    }


def old_words(rank: Rank, size_average: bool) -> dict[str, Any]:
    """The reduction in torch's old arguments, by position."""
    case = CASES["nll_loss-even-ignored"]
    x, target = rank.operands(case, (0, 0)).values()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = nbloss.nll_loss(x, target, None, size_average)
    return {"value": off(value, oracles.value(case.name, case.operands, {"reduction": "sum"}))}


def of_ones_own(rank: Rank) -> Any:
    @nbloss.pointwise
    def quartic_loss(input: Any, target: Any) -> Any:
        return (input - target) ** 4

    return quartic_loss(*rank.operands(CASES["huber_loss-even"], (0, 0)).values())


def mixed(rank: Rank, reduction: str) -> Any:
    x, y = rank.operands(CASES["huber_loss-even"], (0, 0)).values()
    return nbloss.huber_loss(x, y.full_tensor(), reduction=reduction)


def batched(rank: Rank) -> Any:
    x, y = rank.operands(CASES["huber_loss-even"], (0, 0)).values()
    loss = nbloss.huber_loss
    return torch.func.vmap(lambda x, y: loss(x, y, reduction="sum"))(x.detach(), y.detach())


def distances_of_ours(rank: Rank) -> Any:
    three = rank.operands(CASES["triplet_margin_with_distance_loss-even"], (0, 0))
    return nbloss.triplet_margin_with_distance_loss(
        **three, distance_function=nbloss.distances.euclidean
    )


def strided(rank: Rank) -> Any:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import _StridedShard

    x = torch.zeros(2, 3)
    x = DTensor.from_local(x, rank.mesh, [_StridedShard(0, split_factor=2)], run_check=False)
    return nbloss.huber_loss(x, x, reduction="sum")


def before_213(rank: Rank) -> Any:
    from nbloss.torch import sharded

    given = rank.operands(CASES["huber_loss-even"], ("replicate", "replicate"))
    now, sharded.TORCH = sharded.TORCH, (2, 12)
    try:
        return nbloss.huber_loss(**given)
    finally:
        sharded.TORCH = now


ADVICE = [
    ("huber_loss-uneven", "none"),
    ("huber_loss-uneven", "replicate"),
    ("huber_loss-uneven", "whole"),
    ("nll_loss-uneven-weight", "sum"),
    ("cross_entropy-uneven-weight", "sum"),
    ("cross_entropy-uneven-weight", "replicate"),
    ("cross_entropy-uneven-weight", "whole"),
]
OTHERS: dict[str, Callable[[Rank], Any]] = {
    "transformed-sum": lambda rank: transformed(rank, "sum"),
    "transformed-mean": lambda rank: transformed(rank, "mean"),
    "old-sum": lambda rank: old_words(rank, False),
    "old-mean": lambda rank: old_words(rank, True),
    "mixed": lambda rank: mixed(rank, "sum"),
    "own": of_ones_own,
    "batched": batched,
    "distance": distances_of_ours,
    "strided": strided,
    "before 2.13": before_213,
    **{
        f"advice-{name}-{how}": lambda rank, n=name, h=how: advice(rank, n, h)
        for name, how in ADVICE
    },
}


def work(number: int, port: str, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=30)
    torch.distributed.init_process_group("gloo", rank=number, world_size=RANKS, timeout=wait)
    rank = Rank()
    outcomes: dict[Any, dict[str, Any]] = {}
    try:
        for call in all_calls():
            outcomes["plain", *call] = rank.outcome(*call, plain)
        for mode, how in MODES.items():
            for call in IN_MODES:
                outcomes[mode, *call] = rank.outcome(*call, how)
        for name, other in OTHERS.items():
            try:
                outcomes[name] = other(rank)
            except Exception as error:
                outcomes[name] = {"error": (type(error).__name__, str(error))}
    finally:
        with open(os.path.join(folder, str(number)), "wb") as file:
            pickle.dump(outcomes, file)
        torch.distributed.destroy_process_group()


def main(port: str, folder: str) -> None:
    # Calls that go to torch, with no DTensor among them.
    x = torch.zeros(3, 2, dtype=torch.complex64)
    nbloss.triplet_margin_loss(x, x, x)
    assert "torch.distributed.tensor" not in sys.modules
    torch.multiprocessing.spawn(work, (port, folder), nprocs=RANKS)


if __name__ == "__main__":
    main(*sys.argv[1:])


# --- what has to come out -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, dict[str, Any]]]:
    """The outcomes of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, __file__, port, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return [pickle.loads(Path(folder, str(number)).read_bytes()) for number in range(RANKS)]


def assert_right(outcome: dict[str, Any]) -> None:
    assert "error" not in outcome, outcome
    assert max(outcome.values()) < 1e-12, outcome


def assert_refused(outcome: dict[str, Any], *words: str) -> None:
    kind, message = outcome["error"]
    # torch's compiler wraps what is raised while it traces a whole graph, and quotes it.
    assert kind in ("NotImplementedError", "Unsupported"), outcome
    for word in words:
        assert word in message


def assert_expected(
    outcome: dict[str, Any], name: str, placed: tuple[Any, Any], reduction: str
) -> None:
    case = CASES[name]
    if is_refused(name, placed, reduction):
        assert set(outcome) == {"error"}
        first = next(iter(case.operands))
        assert_refused(outcome, f"{case.name}(): ", f"{first} with placements (", "x.full_tensor()")
        return
    if case.name in WITHOUT_GRADIENT and "error" in outcome:
        assert "log_sigmoid_backward" in outcome.pop("error")[1]
    assert_right(outcome)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", CASES)
def test_losses_of_dtensors_are_right_or_refused(name: str, reduction: str, ranks: list) -> None:
    for call in all_calls():
        if (call[0], call[2]) == (name, reduction):
            for outcomes in ranks:
                assert_expected(dict(outcomes["plain", *call]), *call)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("call", IN_MODES, ids=str)
def test_compilers_modes_and_patches_change_no_outcome(
    mode: str, call: tuple[str, tuple[Any, Any], str], ranks: list
) -> None:
    for outcomes in ranks:
        outcome = dict(outcomes[mode, *call])
        if mode == "compiled" and call[0].startswith(WITHOUT_GRADIENT) and "value" not in outcome:
            # The backward pass is compiled with the forward pass, which fails, too.
            assert "log_sigmoid_backward" in outcome["error"][1]
        else:
            assert_expected(outcome, *call)


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("advice")])
def test_what_a_refusal_advises_is_right(name: str, ranks: list) -> None:
    for outcomes in ranks:
        assert_right(outcomes[name])


def test_gradients_of_torch_func_go_the_same_way(ranks: list) -> None:
    for outcomes in ranks:
        assert_right(outcomes["transformed-sum"])
        assert_refused(
            outcomes["transformed-mean"], "huber_loss(): ", "input with placements (Shard(dim=0),)"
        )


def test_the_old_arguments_name_a_reduction(ranks: list) -> None:
    for outcomes in ranks:
        assert_right(outcomes["old-sum"])
        assert_refused(outcomes["old-mean"], "nll_loss(): ", "reduction='mean'")


def test_torch_speaks_of_mixed_arguments(ranks: list) -> None:
    for outcomes in ranks:
        assert "mixed torch.Tensor and DTensor" in outcomes["mixed"]["error"][1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own", ("quartic_loss(): ", "target with placements", "full_tensor()")),
        ("batched", ("huber_loss(): ", "vmap", "full_tensor()")),
        ("distance", ("triplet_margin_with_distance_loss(): ", "distance_function")),
        ("strided", ("huber_loss(): ", "placements", "Replicate()")),
        ("before 2.13", ("huber_loss(): ", "from torch 2.13 on", "full_tensor()")),
    ],
)
def test_what_is_not_known_to_be_right_is_refused(
    name: str, words: tuple[str, ...], ranks: list
) -> None:
    for outcomes in ranks:
        assert_refused(outcomes[name], *words)
