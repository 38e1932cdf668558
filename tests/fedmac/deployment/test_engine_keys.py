"""The scenario's keys of the deployment engine, and a run folder that the server cannot see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedmac.record import NoRunHere
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.server_app import check_shared
from tests.fedmac.command_line import Command
from tests.fedmac.deployment.test_control import answering, nodes

CONTENT: dict[str, Any] = {
    "name": "x",
    "rounds": 1,
    "data": {"source": "digits", "devices": 2},
    "training": {"learning_rate": 0.1},
}


def load(**engine: Any) -> Scenario:
    return Scenario.load(CONTENT | {"engine": engine})


def test_the_deployment_engine_needs_its_superlink() -> None:
    assert load(kind="deployment", superlink="host:9443").engine.superlink == "host:9443"
    with pytest.raises(ScenarioError, match=r'engine\.superlink: missing, but kind = "deployment" needs it'):
        load(kind="deployment")


def test_a_superlink_is_of_the_deployment_engine() -> None:
    with pytest.raises(ScenarioError, match=r'engine\.superlink = .*has no meaning with kind = "local"'):
        load(superlink="host:9443")


@pytest.mark.parametrize("key", ["nodes_timeout_s", "round_timeout_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("inf"), "soon"])
def test_waits_are_positive_and_end(key: str, value: object) -> None:
    with pytest.raises(ScenarioError, match=rf"engine\.{key} = "):
        load(**{key: value})


def test_the_engine_changes_no_result_and_may_change_when_a_run_is_resumed() -> None:
    from fedmac.scenario_keys import CHANGE_NO_RESULT

    assert "engine" in CHANGE_NO_RESULT


def test_a_run_folder_that_the_server_cannot_see_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(NoRunHere, match=r"out: the run folder is not to be seen where the server runs .* --out below"):
        check_shared(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/scenario.toml").touch()
    check_shared(tmp_path / "out")


def test_a_run_on_a_server_that_is_not_there_fails_with_the_address(fedmac: Command, tmp_path: Path) -> None:
    import tomli_w

    (tmp_path / "x.toml").write_text(tomli_w.dumps(CONTENT))
    ended = fedmac("run", "x.toml", "--engine", "deployment", "--superlink", "http://127.0.0.1:1", "--no-report")
    assert ended.code == 1
    assert "engine.superlink: 127.0.0.1:1: nothing listens there" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_refused_for_missing_devices_leaves_no_folder(fedmac: Command, tmp_path: Path) -> None:
    import tomli_w

    content = CONTENT | {"engine": {"nodes_timeout_s": 0.01}}
    (tmp_path / "x.toml").write_text(tomli_w.dumps(content))
    answers = {"/health": (200, b"{}"), "/v1/control/list-nodes": (200, nodes("device-0"))}
    waited = pytest.warns(UserWarning, match=r"1 of 2 devices online \(device-0\); waiting up to 0\.01 s")
    with answering(answers) as address, waited:
        ended = fedmac("run", "x.toml", "--engine", "deployment", "--superlink", f"http://{address}", "--no-report")
    assert ended.code == 1
    assert "data.devices = 2, but 1 device is online" in ended.err
    assert "(missing: device-1)" in ended.err
    assert not (tmp_path / "runs").exists()


def test_a_run_on_what_is_no_server_is_bad_input(fedmac: Command, tmp_path: Path) -> None:
    import tomli_w

    (tmp_path / "x.toml").write_text(tomli_w.dumps(CONTENT))
    ended = fedmac("run", "x.toml", "--engine", "deployment", "--superlink", "nowhere", "--no-report")
    assert ended.code == 2
    assert "engine.superlink = 'nowhere': accepted: a folder with server.toml" in ended.err
    assert not (tmp_path / "runs").exists()
