"""What was measured, in short: of pytest-benchmark's JSON what the report is made of."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads import Workload

CONTENDERS = ("eager", "compile", "nbloss", "numpy", "copy")
DIGITS = 4


@dataclass(frozen=True)
class Results:
    """Everything that the report says.

    Attributes
    ----------
    machine : dict
        Processor, cores, threads, versions, commit and date.
    seconds : dict
        For each workload and contender the seconds of a call, a median for each turn.
    moved : dict
        For each workload the bytes that cannot but be moved.
    first_calls, memory, held : list of dict
        As the tests of the first call and of memory have them.
    """

    machine: dict[str, Any]
    seconds: dict[Workload, dict[str, list[float]]]
    moved: dict[Workload, int]
    first_calls: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    held: list[dict[str, Any]]

    def time(self, workload: Workload, contender: str) -> float | None:
        """Seconds of a call; the median of the turns."""
        found = self.seconds.get(workload, {}).get(contender)
        return None if found is None else statistics.median(found)

    def ratio(self, workload: Workload, than: Iterable[str] = ("eager", "compile")) -> float | None:
        """How many times as fast as the best of others nbloss is.

        The median over the turns of the ratio within the turn: what slows the machine down for a
        while slows down both.
        """
        found = self.seconds.get(workload, {})
        others = [name for name in than if name in found]
        if not others or "nbloss" not in found:
            return None
        best = min(others, key=lambda name: statistics.median(found[name]))
        return statistics.median(
            other / mine for other, mine in zip(found[best], found["nbloss"], strict=True)
        )

    def of_floor(self, workload: Workload) -> float | None:
        """How near to a copy of as many bytes nbloss comes: 1 is as fast as memory is."""
        mine, copy = self.time(workload, "nbloss"), self.time(workload, "copy")
        return None if mine is None or copy is None else copy / mine


def condensed(raw: dict[str, Any]) -> dict[str, Any]:
    """Boil pytest-benchmark's JSON down to one that a repository can hold."""
    rows: dict[Workload, dict[str, Any]] = {}
    rest: dict[str, list[dict[str, Any]]] = {"first call": [], "memory": [], "held": []}
    for entry in raw["benchmarks"]:
        info = dict(entry["extra_info"])
        kind = info.pop("kind")
        if kind != "speed":
            rest[kind].append(
                {k: rounded(v) if isinstance(v, float) else v for k, v in info.items()}
            )
            continue
        contender, calls, moved = (info.pop(name) for name in ("contender", "calls", "moved"))
        row = rows.setdefault(Workload(**info), {**info, "moved": moved, "seconds": {}})
        turns = row["seconds"].setdefault(contender, [])
        turns.append(rounded(entry["stats"]["median"] / calls))
    info = raw["machine_info"]
    return {
        "machine": {
            "processor": info["cpu"]["brand_raw"],
            "cores": info["cpu"]["count"],
            "threads": info["threads"],
            "threading layer": info["threading layer"],
            "system": f"{info['system']} {info['machine']}",
            "python": info["python_version"],
            **info["packages"],
            "commit": raw["commit_info"]["id"][:12] + "+" * raw["commit_info"]["dirty"],
            "date": raw["datetime"][:10],
        },
        "speed": list(rows.values()),
        "first calls": rest["first call"],
        "memory": rest["memory"],
        "held": rest["held"],
    }


def rounded(x: float) -> float:
    return float(f"{x:.{DIGITS}g}")


def dump(data: dict[str, Any], path: Path) -> None:
    """Write JSON with a line for each row."""
    parts = []
    for name, value in data.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            parts.append(f" {json.dumps(name)}: [\n{rows}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def by_workload(rows: list[dict[str, Any]]) -> tuple[dict[Workload, Any], dict[Workload, int]]:
    """Give the seconds, and the bytes that have to be moved, of each workload."""
    seconds, moved = {}, {}
    for row in rows:
        row = dict(row)
        times, size = row.pop("seconds"), row.pop("moved")
        workload = Workload(**row)
        seconds[workload], moved[workload] = times, size
    return seconds, moved


def load(path: Path) -> Results:
    """Read what `dump` wrote."""
    data = json.loads(path.read_text())
    seconds, moved = by_workload(data["speed"])
    return Results(
        data["machine"], seconds, moved, data["first calls"], data["memory"], data["held"]
    )
