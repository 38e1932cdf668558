"""The ServerApp of a scenario waits for its nodes, but not for ever."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any, cast

import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.config import get_fab_config
from flwr.serverapp import Grid
from hypothesis import given
from hypothesis import strategies as st

from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_text import scenario_from_text
from fedmac.server_app import named_variants, wait_for_nodes

TEXT = 'name = "x"\nrounds = 1\ndata = { source = "digits", devices = 4 }\ntraining = { learning_rate = 0.1 }\n'


class Nodes:
    """A grid on which `counts[i]` nodes are connected the i-th time it is asked, the last number from then on."""

    def __init__(self, *counts: int) -> None:
        self.counts = list(counts)

    def get_node_ids(self) -> list[int]:
        return list(range(self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]))


def wait(*counts: int, timeout: float = 5.0) -> None:
    wait_for_nodes(cast(Grid, Nodes(*counts)), scenario_from_text(TEXT), timeout)


def test_nodes_that_connect_late_are_waited_for() -> None:
    grid = Nodes(0, 3, 4)
    wait_for_nodes(cast(Grid, grid), scenario_from_text(TEXT), 5.0)
    assert grid.counts == [4]


@pytest.mark.parametrize("there", [0, 3, 5])
def test_a_wrong_number_of_nodes_is_an_error_that_says_how_to_have_the_right_one(there: int) -> None:
    with pytest.raises(ScenarioError, match=rf'devices = 4, but {there} devices.*"num-supernodes=4"'):
        wait(there, timeout=0.0)


def test_a_scenario_travels_as_text_as_a_path_or_with_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, elsewhere = tmp_path / "app", tmp_path / "elsewhere"
    for folder, name in ((app, "sent"), (elsewhere, "other")):
        (folder / "scenarios").mkdir(parents=True)
        (folder / "scenarios/mine.toml").write_text(TEXT.replace('"x"', f'"{name}"'))
    monkeypatch.chdir(elsewhere)
    assert scenario_from_text(TEXT).name == "x"
    assert scenario_from_text("scenarios/mine.toml").name == "other"
    monkeypatch.syspath_prepend(app)  # what Flower does with the app that was sent
    assert scenario_from_text("scenarios/mine.toml").name == "sent"
    assert scenario_from_text(str(elsewhere / "scenarios/mine.toml")).name == "other"
    assert scenario_from_text("scenarios/quickstart.toml").name == "quickstart"


def test_overrides_of_a_run_configuration_reach_the_scenario() -> None:
    scenario: Scenario = scenario_from_text(TEXT, "rounds=7; data.devices=3")
    assert (scenario.rounds, scenario.data.devices) == (7, 3)


@given(names=st.lists(st.text(min_size=1)))
def test_names_of_variants_travel_as_they_are_also_with_commas(names: list[str]) -> None:
    assert named_variants(json.dumps(names)) == names


@pytest.mark.parametrize(
    ("only", "names"), [("", []), ("rlc", ["rlc"]), ("rlc,ideal", ["rlc", "ideal"]), ('["a, b"]', ["a, b"])]
)
def test_names_given_by_hand_may_stand_between_commas(only: str, names: list[str]) -> None:
    assert named_variants(only) == names


@pytest.mark.parametrize("only", ["[rlc]", '["a"', "[1]", '[["a"]]'])
def test_a_list_that_is_none_of_names_is_refused(only: str) -> None:
    with pytest.raises(ScenarioError, match=r"only = .*: not a JSON list of names; accepted: names between commas"):
        named_variants(only)


def test_the_repository_is_an_app_that_flower_accepts_and_sends_its_scenarios_only() -> None:
    root = Path(__file__).resolve().parents[2]
    files = [root / "pyproject.toml", root / ".gitignore", *root.glob("scenarios/*"), *root.glob("fedmac/*.py")]
    bundle, _ = build_fab_from_files({str(file.relative_to(root)): file for file in files if file.is_file()})
    config: dict[str, Any] = get_fab_config(bundle)["tool"]["flwr"]["app"]
    assert config["components"] == {"serverapp": "fedmac.server_app:app", "clientapp": "fedmac.client_app:app"}
    assert set(config["config"]) == {"scenario", "overrides", "only", "out"}
    names = zipfile.ZipFile(io.BytesIO(bundle)).namelist()
    assert "scenarios/quickstart.toml" in names
    assert not any(name.endswith(".py") for name in names)
