"""The room's door: every public name is there, and opening it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import channel


@pytest.mark.parametrize("name", channel.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(channel, name) is not None


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import channel", ["cvxpy", "torch", "scipy"]),
        ("from channel import *", ["cvxpy", "flwr", "sionna", "ray", "plotly"]),
        ("import channel; channel.MinimumMSE('closed-form').allocate([1.0], [1.0], 1.0, 0.1)", ["cvxpy"]),
    ],
)
def test_importing_loads_only_what_is_needed(statement: str, absent: list[str]) -> None:
    probe = f"{statement}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
