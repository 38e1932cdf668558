"""Systems without a server, from scenario to run folder."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedmac.record import read_rounds
from fedmac.runs import run
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import merge, nest
from tests.fedmac.clock.small_systems import simulated
from tests.killer import Killed, Killer

SMALL: dict[str, Any] = {
    "name": "peers",
    "rounds": 3,
    "data": {"source": "digits", "devices": 4},
    "training": {"learning_rate": 0.2, "local_batches": 1, "batch_size": 16},
    "uplink": {"kind": "ideal"},
    "devices": {"profiles": ["flagship-phone", "microcontroller"], "jitter": 0.2},
    "engine": {"workers": 1},
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "ring": {"name": "ring-all-reduce"},
    "gossip": {"name": "gossip"},
    "pull on a ring": {"name": "gossip", "mode": "pull", "graph": "ring", "every": 2},
    "push on a grid": {"name": "gossip", "mode": "push", "graph": "grid"},
    "elastic": {"name": "elastic-averaging"},
    "elastic with a server": {"name": "elastic-averaging", "server": True, "every": 2},
}
FAULTS: dict[str, Any] = {
    "faults": {"loss": 0.03, "mean_up_s": 0.004, "mean_down_s": 0.001, "hang_probability": 0.1, "hang_s": 0.004},
    "engine.round_timeout_s": 0.002,
}


def changed(strategy: str | Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    named = SYSTEMS[strategy] if isinstance(strategy, str) else strategy
    return merge(copy.deepcopy(SMALL), nest({"strategy": dict(named), **changes}))


def rounds_of(folder: Path, strategy: str | Mapping[str, Any], changes: Mapping[str, Any], **given: Any) -> list[Any]:
    run(Scenario.load(changed(strategy, changes)), out=folder, report=False, **given)
    return read_rounds(folder / "rounds.jsonl")


def model(folder: Path) -> np.ndarray:
    """The final model, shape (d,)."""
    arrays = load_file(folder / "model.safetensors")
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_folder_has_simulated_time_consensus_and_utilisation(name: str, tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", name, {"rounds": 4})
    assert [record["round"] for record in rounds] == [0, 1, 2, 3, 4]
    clocks = [record["clock_s"] for record in rounds[1:]]
    assert clocks == sorted(clocks)
    assert clocks[0] > 0
    last = rounds[-1]
    assert {"test_accuracy", "train_loss", "failures", "connected", "messages"} <= last.keys()
    assert (last["participants"], last["messages_lost"], last["messages_missed"], last["reformed"]) == (4, 0, 0, 0)
    assert len(last["utilisation"]) == 4
    assert 0 < last["utilisation_mean"] < 1
    assert last["energy_j_per_device_mean"] > last["radio_j_per_device_mean"] > 0
    assert last["bits_per_device_mean"] > 0
    assert ("spectral_gap" in rounds[0]) == (SYSTEMS[name]["name"] == "gossip")
    assert (last["consensus_distance"] == 0) == (name == "ring")
    assert last["test_loss"] < rounds[0]["test_loss"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["variants"][0]["clock_s"] == last["clock_s"]
    assert summary["variants"][0]["units"] == "physical"


def test_workers_round_a_ring_are_the_synchronous_server_to_rounding(tmp_path: Path) -> None:
    ring = rounds_of(tmp_path / "ring", "ring", {"rounds": 10})
    server = rounds_of(tmp_path / "server", {"name": "synchronous"}, {"rounds": 10})
    # Ten steps of a float32 mean in another order: a few roundings of entries of size 0.1 each.
    np.testing.assert_allclose(model(tmp_path / "ring"), model(tmp_path / "server"), atol=1e-6)
    for one, other in zip(ring[1:], server[1:], strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)


def test_gossip_of_two_after_every_step_is_the_synchronous_server_to_rounding(tmp_path: Path) -> None:
    changes = {"rounds": 5, "data.devices": 2}
    rounds_of(tmp_path / "gossip", "gossip", changes)
    rounds_of(tmp_path / "server", {"name": "synchronous"}, changes)
    np.testing.assert_allclose(model(tmp_path / "gossip"), model(tmp_path / "server"), atol=1e-6)  # as above


@pytest.mark.parametrize("name", ["ring", "pull on a ring", "elastic"])
def test_two_runs_are_equal_to_the_bit_whatever_the_number_of_workers(name: str, tmp_path: Path) -> None:
    one = rounds_of(tmp_path / "one", name, {})
    two = rounds_of(tmp_path / "two", name, {"engine.workers": 2})
    assert simulated(one) == simulated(two)
    np.testing.assert_array_equal(model(tmp_path / "one"), model(tmp_path / "two"))


def test_the_network_changes_when_and_not_what(tmp_path: Path) -> None:
    fast = rounds_of(tmp_path / "fast", "gossip", {"network.link": "infiniband"})
    slow = rounds_of(tmp_path / "slow", "gossip", {"network.link": "lte", "devices.jitter": 0.5})
    assert [r["test_loss"] for r in fast] == [r["test_loss"] for r in slow]
    assert fast[-1]["clock_s"] < slow[-1]["clock_s"] / 10


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("faults", [{}, FAULTS], ids=["all well", "faults"])
def test_a_killed_run_resumes_to_the_model_of_an_unbroken_one(
    name: str, faults: dict[str, Any], tmp_path: Path
) -> None:
    changes = {"rounds": 8, "network.link": "ethernet-1g", "devices.spans": True, **faults}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # with faults a run may end early, the same in both
        unbroken = rounds_of(tmp_path / "unbroken", name, changes)
        with pytest.raises(Killed):
            rounds_of(tmp_path / "killed", name, changes, progress=Killer(4))
        resumed = rounds_of(tmp_path / "killed", name, changes, resume=True)
    assert simulated(resumed) == simulated(unbroken)
    np.testing.assert_array_equal(model(tmp_path / "unbroken"), model(tmp_path / "killed"))


def test_a_run_that_its_faults_end_before_any_step_says_why_and_is_a_result(tmp_path: Path) -> None:
    crash = {"faults": {"incidents": [{"device": 2, "kind": "crash", "at_s": 1e-9}]}}
    with pytest.warns(UserWarning, match="ended early: peer [013] waited in vain: peer 2 is gone"):
        rounds = rounds_of(tmp_path / "run", {"name": "ring-all-reduce", "on_lost": "stop"}, crash)
    assert [record["round"] for record in rounds] == [0, 1]
    assert rounds[1]["participants"] == 0
    assert rounds[1]["stopped"].endswith("peer 2 is gone")
    assert json.loads((tmp_path / "run/summary.json").read_text())["interrupted"] is False
    assert not model(tmp_path / "run").any()  # the initial one: zeros


def test_work_and_messages_take_as_long_as_profile_and_links_say(tmp_path: Path) -> None:
    changes = {
        "devices": {"profiles": ["mine"], "own": {"mine": {"flops_per_s": 1e6, "busy_watts": 3.0}}, "jitter": 0.0},
        "network": {"link": "ethernet-1g", "up_mbps": 1.0, "latency_ms": 5.0}, "rounds": 1, "model.name": "softmax",
    }  # fmt: skip
    rounds = rounds_of(tmp_path / "run", "ring", changes)
    # Softmax on 64 pixels and 10 classes: a product forward and one back, 2 * 64 * 10 each, of 16 examples.
    step = 16 * 2 * 2 * 64 * 10 / 1e6
    # 650 float32 numbers, cut in four as equal as can be; six turns.
    turns = 6 * (5e-3 + 650 / 4 * 32 / 1e6)
    assert rounds[1]["clock_s"] == pytest.approx(step + turns, rel=1e-3)  # parts differ by a number
    assert rounds[1]["compute_j_per_device_mean"] == pytest.approx(3.0 * step)
    assert rounds[1]["bits_per_device_mean"] == pytest.approx(2 * 650 * 3 / 4 * 32)


def test_spans_of_work_are_recorded_where_they_are_asked_for(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", "gossip", {"devices.spans": True, "rounds": 2})
    spans = [span for record in rounds[1:] for span in record["spans"]]
    assert {what for _, what, _, _ in spans} == {"compute", "receive", "send"}
    assert all(start <= end <= rounds[-1]["clock_s"] for _, _, start, end in spans)


def test_a_geometric_graph_is_that_of_the_devices_places(tmp_path: Path) -> None:
    geometric = {"name": "gossip", "graph": "geometric", "radius_m": 2000.0}
    channel = {"units": "physical", "path_loss": "log-distance", "cell_radius_m": 500.0, "tx_power_dbm": 10.0}
    rounds = rounds_of(tmp_path / "run", geometric, {"channel": channel, "rounds": 1})
    assert rounds[0]["spectral_gap"] == pytest.approx(4 / 6)  # all reach all: complete, p / (2 (p - 1))
    lonely = changed(geometric | {"radius_m": 1.0}, {"channel": channel})
    with pytest.raises(ScenarioError, match=r"strategy\.radius_m = 1: the graph is in 4 parts: \{0\}, \{1\}"):
        run(Scenario.load(lonely), out=tmp_path / "lonely", report=False)
    allowed = changed(geometric | {"radius_m": 1.0, "allow_disconnected": True}, {"channel": channel, "rounds": 1})
    with pytest.warns(UserWarning, match=r"the graph is in 4 parts: \{0\}"):
        run(Scenario.load(allowed), out=tmp_path / "allowed", report=False)


@pytest.mark.parametrize(
    ("strategy", "changes", "message"),
    [
        ({"name": "gossip", "mode": "shout"}, {}, "strategy.mode = 'shout': accepted: push, pull, symmetric"),
        ({"name": "gossip", "graph": "star"}, {}, "strategy.graph = 'star': accepted: complete, ring, grid"),
        ({"name": "gossip", "graph": "geometric"}, {}, 'strategy.radius_m: missing, but graph = "geometric" needs it'),
        ({"name": "gossip", "radius_m": 5.0}, {}, "strategy.radius_m = 5.0: accepted: radius_m left out"),
        ({"name": "gossip", "evry": 2}, {}, "strategy.evry = 2: gossip has no such parameter; did you mean every?"),
        ({"name": "gossip", "every": 0}, {}, "strategy.every = 0: accepted: an integer >= 1"),
        ({"name": "elastic-averaging", "beta": 2.0}, {}, "strategy.beta = 2.0: accepted: a number above 0, up to 1"),
        ({"name": "ring-all-reduce", "on_lost": "cry"}, {}, "strategy.on_lost = 'cry': accepted: go-on, stop"),
        ("ring", {"data.devices": 1}, 'data.devices = 1: with strategy.name = "ring-all-reduce" a peer alone'),
        ("ring", {"uplink.kind": "over-the-air"}, "uplink.kind = 'over-the-air': strategy.name = \"ring-all-reduce\""),
        ("ring", {"engine.kind": "flower", "devices": None}, 'has no server; accepted: "local", "collective"'),
        ("ring", {"engine.kind": "collective"}, 'devices: with engine.kind = "collective" devices, network and time'),
        (
            {"name": "synchronous"},
            {"engine.kind": "collective"},
            "engine.kind = 'collective': strategy.name = \"synchronous\" has a server",
        ),
        (
            "ring",
            {"trust.bad_replies": 0},
            'trust.bad_replies = 0: strategy.name = "ring-all-reduce" has no server that',
        ),
        ("ring", {"network.peer_mbps": 10**400}, "network.peer_mbps = 1000"),
        ("ring", {"network.peer_mbps": 0.0}, "network.peer_mbps = 0.0: accepted: a number > 0, or a matrix of them"),
        ("ring", {"network.peer_mbps": [[0, 1], [1, 0]]}, "network.peer_mbps = a matrix of 2 devices: accepted: of 4"),
        ("ring", {"network.peer_mbps": [[0, -1], [1, 0]]}, "network.peer_mbps = -1 from device 0 to device 1"),
        (
            "ring",
            {"network": {"peer_link": "channel"}, "channel": {"units": "physical"}},
            "network.peer_link = 'channel': nothing says what the distance between two devices does",
        ),
        ("ring", {"network.peer_link": "chanel"}, "peer_link = 'chanel': did you mean channel? accepted: \"channel\""),
        (
            "ring",
            {"network": {"peer_link": "channel", "peer_mbps": 1.0}},
            'network.peer_mbps = 1.0: peer_link = "channel" has rates; accepted: one of them',
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    strategy: str | dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    content = {key: value for key, value in changed(strategy, changes).items() if value is not None}
    with pytest.raises(ScenarioError) as refused:
        Scenario.load(content)
    assert message in str(refused.value)
