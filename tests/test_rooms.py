"""The house: dependencies point one way, and opening a door costs little."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = {
    "channel": set(),
    "clients": {"channel"},
    "strategies": {"channel"},
    "fedmac": {"channel", "clients", "strategies"},
}
"""Each room and the rooms it may import."""

ROOT = Path(__file__).parent.parent
HEAVY = ("cvxpy", "plotly", "ray", "sionna")
MODULES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imports(path: Path) -> Iterator[str]:
    """Top-level package of everything a module imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_the_rooms_below_it(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    others = (set(imports(path)) & (set(ROOMS) | {"tests", "scenarios", "benchmarks"})) - {room}
    assert others <= ROOMS[room]


@pytest.mark.parametrize("path", [p for p in MODULES if p.is_relative_to(ROOT / "channel")], ids=lambda p: p.stem)
def test_the_air_knows_nothing_of_flower(path: Path) -> None:
    assert not {name for name in imports(path) if name.startswith(("flwr", "ray"))}


def loaded(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh process has loaded after `statement`."""
    probe = f"{statement}\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import fedmac", (*HEAVY, "torch", "flwr", "pydantic", "pandas", "scipy")),
        ("import channel, clients, strategies", (*HEAVY, "torch", "flwr")),
        ("from clients import *; from strategies import *; import fedmac.client_app", HEAVY),
    ],
)
def test_opening_a_door_loads_only_what_is_needed(statement: str, absent: tuple[str, ...]) -> None:
    assert loaded(statement, absent) == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_of_a_room_is_there(room: str) -> None:
    package = importlib.import_module(room)
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert set(package.__all__) - {"__version__"} <= set(dir(package))
