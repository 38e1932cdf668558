"""The command line as a fixture."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest

from fedmac import cli
from tests.fedmac.command_line import Command, Ended


@pytest.fixture
def fedmac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process, in an empty folder, as on a terminal 80 characters wide."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the command changes

    def command(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["fedmac", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return command
