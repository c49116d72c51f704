"""Imports run one way, read from the source: those inside functions and for types count too."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "kerasrobust"
# What may be imported from a room: itself and what stands before it.
ROOMS = (
    ("_backend", "_version", "norms", "losses", "checks", "specs", "registry"),
    ("engine",),
    ("attacks",),
    ("defenses",),
    ("metrics",),
    ("evaluation",),
    ("protocols",),
    ("hardening",),
)


def _modules() -> dict[str, ast.Module]:
    modules = {}
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent / "cli").glob("*.py")]:
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        name = "kerasrobust_cli" + name.removeprefix("cli") if parts[0] == "cli" else name
        modules[name] = ast.parse(path.read_text(encoding="utf-8"))
    return modules


def imports(name: str, tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of the package that a module imports: those it names, not their parents.

    A package whose name is taken from its `__init__` counts, and a submodule that is taken from
    its package counts alone.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                found.add(inside if inside in known else str(node.module))
    return found & known


MODULES = _modules()
EDGES = {name: imports(name, tree, set(MODULES)) for name, tree in MODULES.items()}


def room(name: str) -> int | None:
    """The number of a module's room; None for those that have no place in the row."""
    head, _, rest = name.partition(".")
    if head == "kerasrobust_cli":
        return len(ROOMS)
    part = rest.partition(".")[0]
    return next((number for number, names in enumerate(ROOMS) if part in names), None)


def test_the_reader_sees_what_is_there():
    text = (
        "def f():\n    import a.b\n    from a import b, X\n    if 1:\n        from a.c import Y\n"
    )
    assert imports("m", ast.parse(text), {"a", "a.b", "a.c", "d"}) == {"a", "a.b", "a.c"}
    assert "kerasrobust.attacks.base" in EDGES["kerasrobust.attacks.fast_gradient"]
    assert "kerasrobust.attacks.registry" in EDGES["kerasrobust.attacks.transfer"]


def test_no_circle():
    try:
        graphlib.TopologicalSorter(EDGES).prepare()
    except graphlib.CycleError as error:
        pytest.fail("imported by one another: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) is not None])
def test_rooms_are_imported_one_way(name):
    own = room(name)
    later = {other for other in EDGES[name] if (room(other) or 0) > own}
    assert not later


def test_nothing_imports_the_bridge():
    bridge = {name for name in MODULES if name.startswith("kerasrobust.art")}
    assert "kerasrobust.art.attacks" in bridge
    assert not {name for name in EDGES if name not in bridge and EDGES[name] & bridge}
    mentions = {
        name
        for name, tree in MODULES.items()
        if name not in bridge
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and "kerasrobust.art" in str(node.value)
    }
    assert mentions == {"kerasrobust"}  # the public name, which waits until it is asked for
