"""What a call with tiny tensors costs, step by step, and beside torch's own.

With 8 × 10 numbers there is next to nothing to compute: what is measured is the way there and back.

    python benchmarks/tiny_calls.py                         # print the tables
    python benchmarks/tiny_calls.py docs/tiny_calls.md      # put them into the page
"""

import argparse
import platform
import statistics
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nbloss
from markers import insert
from nbloss.backends import torch as backend
from nbloss.engine import evaluate
from nbloss.torch import autograd, dispatch

ROUNDS = 100
CALLS = 40  # in a round


def losses() -> dict[str, tuple[Tensor, ...]]:
    """Each loss with operands of 8 × 10, the first of which wants a gradient."""
    generator = torch.Generator().manual_seed(0)
    x, y, z = torch.randn((3, 8, 10), generator=generator)
    classes = torch.randint(10, (8,), generator=generator)
    labels = torch.full((8, 10), -1)
    labels[:, :3] = torch.tensor([1, 4, 7])
    leaf = x.clone().requires_grad_()
    return {
        "huber_loss": (leaf, y),
        "margin_ranking_loss": (leaf, y, z.sign()),
        "multilabel_soft_margin_loss": (leaf, (z > 0).float()),
        "triplet_margin_loss": (leaf, y, z),
        "triplet_margin_with_distance_loss": (leaf, y, z),
        "cross_entropy": (leaf, classes),
        "nll_loss": (leaf, classes),
        "multilabel_margin_loss": (leaf, labels),
    }


def there_and_back(function: Callable, operands: tuple[Tensor, ...]) -> float:
    """Microseconds of a forward and a backward, from fresh gradients."""
    leaf = operands[0]
    start = time.perf_counter()
    for _ in range(CALLS):
        leaf.grad = None
        function(*operands).backward()
    return (time.perf_counter() - start) / CALLS * 1e6


def beside_torch() -> list[str]:
    """Time both libraries in turns, and give the rows of a table."""
    rows = ["| loss | nbloss, µs | torch, µs | nbloss / torch |", "|---|---:|---:|---:|"]
    for name, operands in losses().items():
        functions = [getattr(library, name) for library in (nbloss, torch.nn.functional)]
        for function in functions:
            there_and_back(function, operands)
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for function, found in zip(functions, times, strict=True):
                found.append(there_and_back(function, operands))
        mine, theirs = map(statistics.median, times)
        ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
        rows.append(f"| `{name}` | {mine:.1f} | {theirs:.1f} | {ratio:.2f} |")
    return rows


def steps() -> list[str]:
    """Time the steps of one call, and give the rows of a table."""
    x, y = losses()["huber_loss"]
    huber = nbloss.huber_loss
    for _ in range(2):  # the second call finds what the first has left
        huber(x, y).backward()
    key, tensors = dispatch.cache_key(huber, (x, y), {})
    kind = dispatch.CALL_PLANS[key].latest
    launch: Any = kind.launch
    value, gradient = torch.empty(()), torch.empty_like(x)
    addresses = tuple(map(Tensor.data_ptr, (x, y, gradient, value)))

    def choose() -> bool:
        return bool(
            dispatch._compiling()
            or dispatch._overridden((x, y))
            or dispatch.forward_ad._current_level >= 0
            or dispatch._modes()
            or not kind.guard(*tensors)
        )

    plain = x.detach()
    measured = {
        "choose a route, the guard included": choose,
        "tell options and tensors apart (`cache_key`)": lambda: dispatch.cache_key(
            huber, (x, y), {}
        ),
        "look up what is known of calls with such options": lambda: dispatch.CALL_PLANS.get(key),
        "make room for a gradient": lambda: torch.empty_like(x),
        "make room for a value": lambda: torch.empty_like(backend.NUMBERS["float32"]),
        "addresses of four tensors": lambda: (*map(Tensor.data_ptr, (x, y, gradient, value)),),
        "driver and kernel": lambda: launch.quick(launch.address, 1.0, addresses),
        "**room, addresses and kernel together (`run`)**": (
            lambda: evaluate.run(backend, launch, (x, y))
        ),
        "**the same as a step of the graph (`Function.apply`)**": (
            lambda: autograd.apply(kind, x, y)
        ),
        "**forward, a gradient wanted**": lambda: huber(x, y),
        "**forward, none wanted**": lambda: huber(plain, y),
    }
    rows = ["| step of `huber_loss(x, y)` | µs |", "|---|---:|"]
    for name, call in measured.items():
        number = 20_000
        empty = min(timeit.repeat(lambda: None, number=number, repeat=5))
        taken = min(timeit.repeat(call, number=number, repeat=7)) - empty
        rows.append(f"| {name} | {taken / number * 1e6:.2f} |")
    return rows


def machine() -> str:
    return (
        f"Measured on {platform.machine()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}; "
        f"medians of {ROUNDS} rounds of {CALLS} calls, in turns."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("page", nargs="?", type=Path, help="a page with markers for the tables")
    page = parser.parse_args().page
    tables = {"beside-torch": [machine(), "", *beside_torch()], "steps": steps()}
    for name, rows in tables.items():
        text = "\n".join(rows)
        if page is None:
            print(text, end="\n\n")
            continue
        page.write_text(insert(page.read_text(), name, text))


if __name__ == "__main__":
    main()
