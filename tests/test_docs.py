"""The documentation: every public name has a page, and every sample on the pages runs."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import nbloss
from nbloss import primitives
from nbloss.formula.registry import LOSSES

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDES = [DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]


def blocks(text: str) -> list[str]:
    """The Python of a page; what is shown and not run is marked in another way."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run(text: str) -> None:
    """Run a page's samples one after the other, in a process of its own."""
    script = "\n".join(blocks(text))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_samples_of_the_guides_run(page: Path) -> None:
    text = page.read_text()
    if blocks(text):
        run(text)


def test_a_loss_of_ones_own_may_come_late() -> None:
    """When all that there is for the other losses has been made."""
    loaded = "import torch, nbloss.nn\nnbloss.huber_loss(torch.zeros(2), torch.ones(2))\n"
    run(f"```python\n{loaded}```\n" + (DOCS / "guides" / "own_losses.md").read_text())


def test_a_loss_of_ones_own_may_come_before_the_operators() -> None:
    """And be asked for after them."""
    text = (DOCS / "guides" / "own_losses.md").read_text()
    first_use = "x = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)\n"
    assert first_use in text
    run(text.replace(first_use, "import nbloss.torch.operators\n" + first_use))


@pytest.mark.parametrize("name", LOSSES)
def test_samples_of_a_losss_page_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import loss_pages

    text = loss_pages.page(LOSSES[name])
    assert len(blocks(text)) == 2 + loss_pages.in_torch(LOSSES[name])
    exec("\n".join(blocks(text)), {})


@pytest.mark.parametrize("name", LOSSES)
def test_a_page_says_whether_the_formula_is_all(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-sum-exp, smoothing, pairs and distances of the other losses stand in loops around it."""
    monkeypatch.syspath_prepend(str(DOCS))
    import loss_pages

    alone = "no other code" in loss_pages.page(LOSSES[name]).lower()
    assert alone == (LOSSES[name].pattern == "pointwise")


def test_pages_need_nothing_that_tests_need() -> None:
    """`make docs` installs the packages of the documentation, and pytest is not among them."""
    folders = [str(DOCS), str(DOCS.parent / "benchmarks"), str(DOCS.parent / "tests")]
    script = f"""import sys

sys.modules |= dict.fromkeys(["pytest", "pytest_benchmark", "hypothesis", "expecttest"])
sys.path[:0] = {folders}
import loss_pages
from nbloss.formula.registry import LOSSES

assert all(loss_pages.page(definition) for definition in LOSSES.values())
"""
    run(f"```python\n{script}```")


def test_every_public_name_has_a_place() -> None:
    text = "".join(
        page.read_text() for page in DOCS.rglob("*.md") if "auto_examples" not in page.parts
    )
    for name in nbloss.__all__:
        if name not in LOSSES:  # these have a page each
            assert re.search(
                rf"\bnbloss\.{name}\b|autofunction:: {name}\b|autoclass:: {name}\b", text
            ), name


def test_links_lead_somewhere() -> None:
    """Links from page to page; made pages are those of the losses and the gallery."""
    pages = [*GUIDES, DOCS / "api.md", DOCS / "cuda.md", *(DOCS / "benchmarks").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            made = link.startswith(("losses/", "../auto_examples/", "../losses/"))
            assert made or (page.parent / link).exists(), f"{page.name}: {link}"


def test_mistakes_have_the_errors_that_the_guide_says() -> None:
    text = (DOCS / "guides" / "own_losses.md").read_text()
    table = text.partition("| the formula returns | the error says |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) > 5
    names = {"nbloss": nbloss, "math": math, "torch": torch, "w": np.ones(3)}
    names |= {name: getattr(primitives, name) for name in ("sum", "where")}
    for formula, message in rows:
        function = eval(f"lambda x, y, label: {formula}", names)
        function.__annotations__ = {"label": nbloss.Index}
        with pytest.raises(nbloss.FormulaError) as error:
            nbloss.rowwise(function)
        assert message.replace("\\|", "|") in str(error.value)
