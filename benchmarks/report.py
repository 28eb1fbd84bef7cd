"""From what was measured to the report: tables and figures in docs/benchmarks, and README.

    python benchmarks/report.py build/benchmarks.json     # from a new run of pytest-benchmark
    python benchmarks/report.py                           # from docs/benchmarks/cpu.json, as it is

`make bench` does the first after running the suite.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from markers import insert  # noqa: E402
from results import Results, condensed, dump, load  # noqa: E402
from tables import TABLES, headline, machine  # noqa: E402

FOLDER = ROOT / "docs" / "benchmarks"
DATA, PAGE, README = FOLDER / "cpu.json", FOLDER / "cpu.md", ROOT / "README.md"


def pages(results: Results) -> dict[Path, str]:
    """The pages with their tables anew."""
    page = PAGE.read_text()
    for name, make in TABLES.items():
        page = insert(page, name, make(results))
    text = f"{headline(results)}\n\n{machine(results)}"
    return {PAGE: page, README: insert(README.read_text(), "headline", text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("raw", nargs="?", type=Path, help="JSON of a run of pytest-benchmark")
    raw = parser.parse_args().raw
    if raw is not None:
        dump(condensed(json.loads(raw.read_text())), DATA)
    results = load(DATA)
    from figures import draw

    draw(results, FOLDER)
    for path, text in pages(results).items():
        path.write_text(text)
    print(f"The report is in {PAGE.relative_to(ROOT)}; README.md has the headline.")


if __name__ == "__main__":
    main()
