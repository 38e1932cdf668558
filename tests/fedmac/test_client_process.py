"""The program that SuperNodes start for each message: Flower's in what it does, less in what it loads."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from fedmac import client_process
from fedmac.client_process import PROGRAM, first_on_path, main, options


def test_it_has_flowers_own_options() -> None:
    own = sys.modules[flwr_clientapp.__module__]._parse_args_run_flwr_clientapp()
    facts = [
        {(tuple(a.option_strings), a.dest, str(a.default), a.type, a.nargs, a.required) for a in parser._actions}
        for parser in (own, options())
    ]
    # a type of str says the same as none
    normal = [{tuple(None if fact is str else fact for fact in facts) for facts in each} for each in facts]
    assert normal[0] == normal[1]


def test_it_hands_flower_what_the_supernode_said(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(run_clientapp, "run_clientapp", lambda **given: seen.update(given))
    main(["--runtime-api-address", "127.0.0.1:9", "--token", "abc", "--insecure", "--parent-pid", "7"])
    gc.unfreeze()
    assert seen == {
        "runtime_api_address": "127.0.0.1:9",
        "token": "abc",
        "insecure": True,
        "certificates": None,
        "parent_pid": 7,
        "runtime_dependency_install": False,
    }


PROBE = """
import gc, sys
from flwr.supernode.runtime import run_clientapp
from fedmac.client_process import main
run_clientapp.run_clientapp = lambda **_: print(
    gc.isenabled(), "fedmac.client_app" in sys.modules, *({"sqlalchemy", "alembic"} & set(sys.modules))
)
main(["--token", "abc", "--insecure"])
"""


def test_the_app_is_there_and_no_database_when_flower_takes_over() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_a_supernode_finds_it_before_flowers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    path = first_on_path(tmp_path / "bin")["PATH"]
    assert shutil.which(PROGRAM, path=path) == str(tmp_path / "bin" / PROGRAM)
    assert path.split(os.pathsep)[1:] == [str(Path(sys.executable).parent), "/usr/bin"]
    assert client_process.first_on_path(tmp_path / "bin")["PATH"] == path  # a second start finds the first's
