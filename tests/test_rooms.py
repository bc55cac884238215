"""The rooms and the arrows between them: what each may import, of recalign and of the world."""

import ast
import itertools
import sys
from pathlib import Path

import pytest

import recalign

ROOT = Path(recalign.__file__).parent
# Arrows go down this list, never up.
MAY_IMPORT = {
    "cli": {"serving", "runs", "t5x", "tokens", "samples", "evaluation", "engine", "domains"},
    "serving": {"runs", "tokens", "samples", "evaluation", "engine", "domains"},
    "runs": {"tokens", "samples", "evaluation", "engine", "domains"},
    "t5x": {"samples", "evaluation", "engine", "domains"},
    "tokens": {"evaluation", "engine", "domains"},
    "samples": {"evaluation", "domains"},
    "evaluation": {"engine", "domains"},
    "engine": set(),
    "domains": set(),
}
BLOCKED = {
    "samples": {"jax", "flax", "optax", "orbax", "t5x"},
    "tokens": {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"},
    "evaluation": {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"},
    "engine": {"tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"},
    "domains": {"tensorflow", "seqio", "jax", "flax", "t5x"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = [
    pytest.param(room, path, id=str(path.relative_to(ROOT)))
    for room in MAY_IMPORT
    for path in sorted((ROOT / room).rglob("*.py"))
]


@pytest.mark.parametrize(("room", "path"), FILES)
def test_arrows_go_down(room, path):
    own = {name.split(".")[1] for name in imports(path) if name.startswith("recalign.")}
    rooms = own & (MAY_IMPORT.keys() | {"tasks"})
    assert rooms <= MAY_IMPORT[room] | {room}


@pytest.mark.parametrize(("room", "path"), [p for p in FILES if p.values[0] in BLOCKED])
def test_walls_between_the_planes(room, path):
    world = {name.split(".")[0] for name in imports(path)}
    assert not world & BLOCKED[room]


def test_every_file_lies_in_a_room():
    names = ("__init__", "__main__", "bindings", "errors", "files", "progress", "prompts")
    outside = {f"{name}.py" for name in names}
    assert {path.name for path in ROOT.glob("*.py")} == outside
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms == MAY_IMPORT.keys()


@pytest.mark.parametrize("name", ["prompts", "errors", "progress"])
def test_what_every_room_imports_is_light(name):
    world = {module.split(".")[0] for module in imports(ROOT / f"{name}.py")}
    assert world <= sys.stdlib_module_names | {"recalign", "tqdm"}


def test_no_two_rooms_import_each_other():
    for one, other in itertools.combinations(MAY_IMPORT, 2):
        assert not (other in MAY_IMPORT[one] and one in MAY_IMPORT[other])
