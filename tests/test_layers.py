"""How the modules of the package rest on each other: one way, without circles."""

import ast
import re
import tokenize
from pathlib import Path

import pytest

import nbloss

ROOT = Path(nbloss.__file__).parent
# Each may import what stands before it, and its own; the rest of the package is above all of them.
LAYERS = ("formula", "losses", "codegen", "engine", "backends", "torch", "functional")
MODULES = {
    ".".join(("nbloss", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in ROOT.rglob("*.py")
}


def imports(path: Path) -> set[str]:
    """Name what a file imports, at any time; what it imports for type checkers does not count."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else node.module for name in whole}
        waiting += ast.iter_child_nodes(node)
    return found


GRAPH = {name: imports(path) & MODULES.keys() - {name} for name, path in MODULES.items()}


def layer(module: str) -> int:
    parts = module.split(".")
    in_a_folder = len(parts) > 1 and parts[1] in LAYERS
    return LAYERS.index(parts[1]) if in_a_folder else len(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_below_imports_what_is_above(module: str) -> None:
    if module == "nbloss.engine.cache":
        GRAPH[module].discard("nbloss._version")  # which says no more than a number
    above = [name for name in GRAPH[module] if layer(name) > layer(module)]
    assert above == []


def test_no_module_imports_another_in_a_circle() -> None:
    """Whatever is imported by nothing that is left can go; a circle stays."""
    left = {name: set(found) for name, found in GRAPH.items()}
    while free := left.keys() - set().union(*left.values()):
        left = {name: found for name, found in left.items() if name not in free}
        if not left:
            break
    assert left == {}


@pytest.mark.parametrize(
    ("package", "module"),
    [
        ("numba.cuda", "nbloss.engine.cuda.compiler"),
        ("cuda.bindings.driver", "nbloss.engine.cuda.driver"),
    ],
)
def test_one_module_knows_what_may_have_to_be_replaced(package: str, module: str) -> None:
    """The names stand in strings, too, for imports that are made late."""
    assert [name for name, path in MODULES.items() if f'"{package}"' in path.read_text()] == [
        module
    ]
    assert not any(package in imports(path) for path in MODULES.values())


def test_the_bottom_knows_neither_numba_nor_torch() -> None:
    for name, path in MODULES.items():
        if layer(name) < LAYERS.index("codegen"):
            assert not {"numba", "torch"} & {found.split(".")[0] for found in imports(path)}, name


# What the package does not call things, and what it calls them instead.
INSTEAD = {
    "upstream": "grad_output",
    "wanted": "needs_grad",
    "early": "in_forward",
    "likeness": "cache_key",
    "fits": "guard",
    "remember": "cache_plan",
    "originals": "fallback",
    "refuse": "unsupported",
    "Unserved": "Unsupported",
    "contract": "validation",
    "survey": "validate",
    "face": "public_function",
    "Launch": "Plan",
    "prepared": "plan_for",
}
PROSE = ("whoever", "somebody", "nobody", "gradient from above", "derivative by", "gradient by")


@pytest.mark.parametrize("module", MODULES)
def test_names_are_those_of_the_field(module: str) -> None:
    with tokenize.open(MODULES[module]) as file:
        tokens = list(tokenize.generate_tokens(file.readline))
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    assert {name: INSTEAD[name] for name in names & INSTEAD.keys()} == {}
    texts = [x.string.lower() for x in tokens if x.type in (tokenize.STRING, tokenize.COMMENT)]
    found = [word for word in PROSE if any(re.search(rf"\b{word}\b", text) for text in texts)]
    assert found == []
