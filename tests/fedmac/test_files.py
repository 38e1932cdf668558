"""Files: nothing that is read runs as code, nothing is written outside a run's folder, code is imported if allowed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedmac
from channel.trace_file import read_recording
from clients import disk_cache
from fedmac import client_app, server_app
from fedmac.engines.superlink import environment, ray_environment
from fedmac.scenario import RUN_FILES, Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_paths import ALLOW_IMPORTS, is_folder_name, refuse_imports
from tests.fedmac.loaders import loaders, modules
from tests.fedmac.small_scenario import VARIANTS, small

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("channel", "clients", "strategies", "fedmac", "scenarios", "benchmarks")

KNOWN = {
    "clients/hub.py": {"datasets.load_dataset()"},  # tables (Arrow, Parquet, CSV …): version 4 runs no scripts
    "clients/models.py": {"importlib.import_module()"},  # model.name, which refuse_imports guards
    "scenarios/gallery.py": {"shell="},  # the commands of docs/gallery.md, run by who edits them
    "strategies/names.py": {"importlib.import_module()"},  # names from a table of ours
}
"""Where a loader may be, and why."""

OWN_MODEL = {"model": {"name": "own_models:tiny"}}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import pickle as p", "from dill import loads", "import torch\ntorch.load(f)",
        "import torch as t\nt.load(f, weights_only=False)", "from torch import load\nload(f)",
        "import numpy as np\nnp.load(f)", "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, allow_pickle=maybe)", "from numpy import savez\nsavez(f, a=1)",
        "import numpy\nnumpy.lib.format.read_array(f)", "import yaml\nyaml.load(f)", "eval(text)", "exec(text)",
        "import builtins\nbuiltins.eval(text)", "__import__(name)", "frame.to_pickle(path)",
        "import pandas\npandas.read_pickle(f)",
        "from importlib import import_module\nimport_module(name)", "import joblib",
        "import subprocess\nsubprocess.run(x, shell=True)",
        "import datasets\ndatasets.load_dataset(x, trust_remote_code=True)", "import shelve", "import os\nos.system(x)",
    ],
)  # fmt: skip
def test_each_kind_of_loader_is_found(source: str) -> None:
    assert [line for line, _ in loaders(source)][-1] == source.count("\n") + 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(f, weights_only=True)", "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import json\njson.load(f)", "import tomllib\ntomllib.load(f)", "model.eval()", "import re\nre.compile('a')",
        "from importlib import import_module\nimport_module('cvxpy')", "from safetensors.torch import load\nload(f)",
    ],
)  # fmt: skip
def test_what_reads_data_only_is_no_loader(source: str) -> None:
    assert not list(loaders(source))


def test_nothing_that_fedmac_reads_can_run_as_code() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in modules(ROOT, *PACKAGES)
        for line, what in loaders(path.read_text(encoding="utf-8"))
        if what not in KNOWN.get(str(path.relative_to(ROOT)), ())
    ]
    assert not found, "\n".join(found)


def test_every_exception_to_the_rule_is_still_needed() -> None:
    assert {f: {what for _, what in loaders((ROOT / f).read_text())} for f in KNOWN} == KNOWN


class Planted:
    """An object that leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_in_the_cache_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    disk_cache.forget()
    (tmp_path / "fedmac").mkdir()
    planted = np.array([Planted(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "fedmac" / "rows.npz", allow_pickle=True, rows=planted)
    made = disk_cache.cached("rows", lambda: {"rows": np.arange(3)})
    assert made["rows"].tolist() == [0, 1, 2]
    assert not (tmp_path / "ran").exists()


def test_a_pickle_as_a_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, allow_pickle=True, gains=np.array([Planted(tmp_path / "ran")], dtype=object))
    with pytest.raises(ValueError, match="trace"):
        read_recording(path)
    assert not (tmp_path / "ran").exists()


BAD_NAMES = [
    "", " ", ".", "..", "../x", "/etc", "a/b", "a\\b", "..\\x", "a\0b", "a\nb", ".hidden", "x.", "x ", " x",
    "con", "CON", "nul.txt", "Com1", "a:b", "a|b", 'a"b', "a" * 101, "é" * 51, "a\u202eb", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_is_no_folder_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ScenarioError, match=r"^name"):
        Scenario.load(small(name=name))
    with pytest.raises(ScenarioError, match=r"^variants\[0\]\.name"):
        Scenario.load(small(variants=[{"name": name}]))


@pytest.mark.parametrize("name", [*sorted(RUN_FILES), "Rounds.jsonl", "SCENARIO.TOML"])
def test_a_variant_cannot_take_the_place_of_a_file_of_the_run(name: str) -> None:
    with pytest.raises(ScenarioError, match=r"^variants\[0\]\.name"):
        Scenario.load(small(variants=[{"name": name}]))


@given(st.text(max_size=12) | st.text(alphabet="./\\ ~-aZ:\0", max_size=8))
def test_whatever_may_name_a_folder_names_one_directly_below_the_runs(name: str) -> None:
    if is_folder_name(name):
        folder = Path("/runs/here")
        assert (folder / name).parent == folder
        assert (folder / name).resolve().parent == folder
        assert (folder / name).name == name


def test_a_run_writes_nothing_outside_its_folder(tmp_path: Path) -> None:
    fedmac.run(small(variants=VARIANTS, rounds=1), out=tmp_path / "here" / "run", sinks=["textfile"])
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["run"]


@pytest.mark.parametrize("said", [None, "0"])
def test_a_scenario_that_is_sent_imports_no_code_unless_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, said: str | None
) -> None:
    monkeypatch.delenv(ALLOW_IMPORTS, raising=False)
    if said is not None:
        monkeypatch.setenv(ALLOW_IMPORTS, said)
    for scenario in (small(**OWN_MODEL), small(variants=[*VARIANTS, {"name": "own", **OWN_MODEL}])):
        with pytest.raises(ScenarioError, match=r"model\.name = 'own_models:tiny': imports code.*--allow-imports"):
            refuse_imports(Scenario.load(scenario))
    refuse_imports(Scenario.load(small(variants=VARIANTS)))


def test_what_is_allowed_may_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_IMPORTS, "1")
    refuse_imports(Scenario.load(small(**OWN_MODEL)))
    monkeypatch.setenv(ALLOW_IMPORTS, "yes")
    with pytest.raises(ScenarioError, match=r"FEDMAC_ALLOW_IMPORTS = 'yes': accepted: 0, 1"):
        refuse_imports(Scenario.load(small(**OWN_MODEL)))


TEXT = """name = "x"
rounds = 1
data = { source = "digits", devices = 2 }
training = { learning_rate = 0.1 }
model = { name = "planted_model:tiny" }
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when it is imported; gives that file."""
    (tmp_path / "planted_model.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOW_IMPORTS, raising=False)
    return tmp_path / "ran"


def test_a_device_does_not_import_what_the_server_names(planted: Path) -> None:
    context = SimpleNamespace(
        run_config={"scenario": TEXT}, node_config={"partition-id": 0, "num-partitions": 2}, node_id=2, run_id=1
    )
    with pytest.raises(ScenarioError, match="planted_model:tiny"):
        client_app.workplace(context, {"variant": "x", "seed": 0})  # type: ignore[arg-type]
    assert not planted.exists()


def test_a_server_does_not_import_what_a_run_names(planted: Path, tmp_path: Path) -> None:
    context: Any = SimpleNamespace(run_config={"scenario": TEXT, "out": str(tmp_path / "out")})
    grid: Any = SimpleNamespace()
    with pytest.raises(ScenarioError, match="planted_model:tiny"):
        server_app.main(grid, context)
    assert not planted.exists()
    assert not (tmp_path / "out").exists()


def test_the_flower_engine_imports_what_its_user_names_and_a_deployment_does_not(tmp_path: Path) -> None:
    assert ray_environment(tmp_path, None)[ALLOW_IMPORTS] == "1"
    assert environment(tmp_path).get(ALLOW_IMPORTS) != "1"
