"""Strategies over the air on a simulated clock, from scenario to run folder."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedmac.engines.superlink import EngineError
from fedmac.record import read_rounds
from fedmac.report.clock_figures import SIMULATED, clock_table
from fedmac.report.folder import read_run
from fedmac.runs import run
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_merge import merge, nest
from tests.fedmac.clock.small_systems import simulated
from tests.killer import Killed, Killer

SMALL: dict[str, Any] = {
    "name": "air",
    "rounds": 3,
    "data": {"source": "digits", "devices": 3},
    "training": {"learning_rate": 0.2, "local_batches": 1, "batch_size": 16},
    "uplink": {"code": "random-linear", "ratio": 0.5},
    "channel": {"units": "physical", "tx_power_dbm": 10.0, "bandwidth_mhz": 1.0, "fading": "rayleigh"},
    "devices": {"profiles": ["mine"], "own": {"mine": {"flops_per_s": 1e6, "busy_watts": 3.0, "idle_watts": 0.5}}},
    "engine": {"workers": 1},
}
ENTRIES = 650  # softmax on 64 pixels and 10 classes
SECONDS = 16 * 2 * 2 * 64 * 10 / 1e6  # products forward and back, 2 * 64 * 10 each, of 16 examples


def changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    return merge(copy.deepcopy(SMALL), nest(dict(changes)))


def rounds_of(folder: Path, changes: Mapping[str, Any], **given: Any) -> list[dict[str, Any]]:
    run(Scenario.load(changed(changes)), out=folder, report=False, **given)
    return read_rounds(folder / "rounds.jsonl")


def test_a_round_takes_the_computing_of_the_profile_and_the_channel_uses_over_the_bandwidth(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", {})
    air = ENTRIES / 2 / 2e6  # half a use an entry, two real uses in a microsecond
    for number, record in enumerate(rounds[1:], 1):
        assert record["air_time_s"] == pytest.approx(number * air)
        assert record["compute_s"] == pytest.approx(number * SECONDS)
        assert record["clock_s"] == pytest.approx(number * (SECONDS + air))
        assert record["download_s"] == 0.0
        assert record["compute_j_per_device_mean"] == pytest.approx(3.0 * number * SECONDS)
        assert record["idle_j_per_device_mean"] == pytest.approx(0.5 * number * air)
    radio = np.sum([record["energies"] for record in rounds[1:]]) / 3
    assert rounds[-1]["radio_j_per_device_mean"] == pytest.approx(radio)
    # Power control may use 10 mW for the time on air, and no more but for what a code moves in one exchange.
    assert 0 < radio < 1.2 * 3 * 10e-3 * air


def test_the_model_comes_down_at_the_rate_of_the_slowest_device(tmp_path: Path) -> None:
    link = {"link": "channel", "server_tx_power_dbm": 30.0}
    plain = {"channel": SMALL["channel"] | {"fading": "none", "noise_power": 1e-3}, "network": link, "rounds": 1}
    rounds = rounds_of(tmp_path / "run", plain)
    # 1 W over 1 mW of noise in 1 MHz, all devices alike.
    assert rounds[1]["download_s"] == pytest.approx(32 * ENTRIES / (1e6 * math.log2(1001.0)))
    assert rounds[1]["bits_down_per_device_mean"] == 32 * ENTRIES


def test_the_parts_of_the_clock_in_a_report_are_the_whole(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", {"network.link": "wifi", "devices.jitter": 0.3})
    table = clock_table(read_run(tmp_path / "run").rounds)
    parts = table.loc[:, table.columns.isin(SIMULATED)]
    assert list(parts) == ["compute_s", "air_time_s", "download_s"], "nothing is left to wait for"
    assert (parts > 0).all(axis=None)
    assert parts.to_numpy().sum() == pytest.approx(rounds[-1]["clock_s"])


def test_the_clock_changes_nothing_of_what_is_learnt(tmp_path: Path) -> None:
    rounds_of(tmp_path / "with", {"devices.jitter": 0.5})
    content = changed({})
    del content["devices"]
    run(Scenario.load(content), out=tmp_path / "without", report=False)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("with", "without")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])


CASES: dict[str, dict[str, Any]] = {
    "analog": {"devices.jitter": 0.3, "network.link": "wifi", "devices.spans": True},
    "digital": {"uplink": {"kind": "digital"}, "codec": {"name": "eden", "bits": 2}, "devices.jitter": 0.3},
    "deadline": {"devices.jitter": 0.5, "devices.deadline_s": SECONDS},
}


@pytest.mark.parametrize("case", CASES)
def test_two_runs_are_equal_whatever_the_number_of_workers(case: str, tmp_path: Path) -> None:
    one = rounds_of(tmp_path / "one", CASES[case])
    two = rounds_of(tmp_path / "two", CASES[case] | {"engine.workers": 2})
    assert simulated(one) == simulated(two)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_resumes_on_the_clock_of_an_unbroken_one(case: str, tmp_path: Path) -> None:
    changes = CASES[case] | {"rounds": 5}
    unbroken = rounds_of(tmp_path / "unbroken", changes)
    with pytest.raises(Killed):
        rounds_of(tmp_path / "killed", changes, progress=Killer(2))
    resumed = rounds_of(tmp_path / "killed", changes, resume=True)
    assert simulated(resumed) == simulated(unbroken)
    assert resumed[-1]["clock_s"] > 0


@pytest.mark.parametrize("uplink", ["over-the-air", "digital"])
def test_who_misses_the_deadline_is_not_heard(uplink: str, tmp_path: Path) -> None:
    own = {"kind": uplink} | ({"code": "uncoded"} if uplink == "over-the-air" else {})
    changes = {"devices.jitter": 0.8, "devices.deadline_s": SECONDS, "rounds": 6}
    rounds = rounds_of(tmp_path / "run", changes | {"uplink": own})[1:]
    late = [{failure["device"] for failure in record["failures"]} for record in rounds]
    assert any(late)
    for record, missing in zip(rounds, late, strict=True):
        assert set(record["devices"]) == set(range(3)) - missing
        assert {failure["kind"] for failure in record["failures"]} <= {"no-reply"}
    took = np.diff([0.0, *(record["compute_s"] for record in rounds)])
    assert [bool(missing) for missing in late] == [seconds == pytest.approx(SECONDS) for seconds in took]
    assert max(took) <= SECONDS * (1 + 1e-12)


def test_a_deadline_that_nobody_misses_changes_nothing(tmp_path: Path) -> None:
    without = rounds_of(tmp_path / "without", {})
    within = rounds_of(tmp_path / "within", {"devices.deadline_s": 2 * SECONDS})
    assert simulated(within) == simulated(without)


def test_a_deadline_that_nobody_can_make_ends_the_run_which_says_what_the_quickest_needs(tmp_path: Path) -> None:
    says = f"5 exchanges in a row were empty with devices.deadline_s = 1e-09: the quickest device needed {SECONDS:g} s"
    with (
        pytest.warns(UserWarning, match=f"ended early: {says}"),
        pytest.raises(EngineError, match=f"no device sent in any of 5 rounds; {says}; accepted: a longer deadline_s"),
    ):
        rounds_of(tmp_path / "run", {"devices.deadline_s": 1e-9, "rounds": 12})
    rounds = read_rounds(tmp_path / "run/rounds.jsonl")
    assert [record["round"] for record in rounds] == [0, 1, 2, 3, 4, 5]
    assert all(record["devices"] == [] and record["participants"] == 0 for record in rounds[1:])
    assert ["stopped" in record for record in rounds] == [False] * 5 + [True]


def test_a_deadline_that_is_made_now_and_then_ends_the_run_with_what_is_learnt(tmp_path: Path) -> None:
    # One device, whose jitter lets it make the deadline in some of the first rounds, and then not five times in a row.
    one = {"data.devices": 1, "devices.jitter": 0.5, "devices.deadline_s": 0.6 * SECONDS, "rounds": 60}
    with pytest.warns(UserWarning, match="ended early: 5 exchanges in a row were empty"):
        rounds = rounds_of(tmp_path / "run", one)
    sent = [bool(record["devices"]) for record in rounds[1:]]
    assert any(sent)
    assert sent[-6:] == [True] + [False] * 5
    assert not any(a == [False] * 5 for a in (sent[k : k + 5] for k in range(len(sent) - 5)))
    assert rounds[-1]["stopped"]
    assert (tmp_path / "run/model.safetensors").is_file()
    with pytest.raises(Killed):  # two empty exchanges before the last: they are counted on
        rounds_of(tmp_path / "killed", one, progress=Killer(len(sent) - 2))
    with pytest.warns(UserWarning, match="ended early: 5 exchanges in a row were empty"):
        resumed = rounds_of(tmp_path / "killed", one, resume=True)
    assert simulated(resumed) == simulated(rounds)


def test_packets_take_the_time_of_their_access(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", CASES["digital"] | {"devices.jitter": 0.0})
    last = rounds[-1]
    assert last["clock_s"] == pytest.approx(last["compute_s"] + last["air_time_s"])
    assert last["compute_s"] == pytest.approx(3 * SECONDS)
    assert last["bits_per_device_mean"] > 0


def test_variants_of_systems_and_of_the_air_share_their_tables() -> None:
    content = changed({"network.link": "wifi"})
    content["variants"] = [
        {"name": "air"},
        {"name": "asynchronous", "strategy": {"name": "asynchronous"}, "uplink": {"kind": "digital"}},
    ]
    units = [variant.scenario.channel.units for variant in Scenario.load(content).resolve()]
    assert units == ["physical", "physical"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channel": {"units": "normalised", "snr_db": 10.0}},
            "channel.units = 'normalised': joules of computing (the table devices) do not add up with units of noise",
        ),
        ({"faults": {"loss": 0.1}}, 'faults: strategy.name = "fedavg" is none of the systems'),
        ({"engine": {"kind": "flower"}}, 'devices: with engine.kind = "flower" devices, network and time are real'),
        (
            {"strategy": {"name": "dingo"}, "uplink": {"kind": "ideal"}},
            'devices: its clock is not simulated with strategy.name = "dingo"',
        ),
        (
            {
                "strategy": {"name": "synchronous"},
                "uplink": {"kind": "ideal"},
                "devices": SMALL["devices"] | {"deadline_s": 1.0},
            },
            'devices.deadline_s = 1.0: strategy.name = "synchronous" has no exchange of all devices',
        ),
        ({"network": {"link": "wifi", "server_tx_power_dbm": 30.0}}, "network.server_tx_power_dbm = 30.0: has no"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    content = copy.deepcopy(SMALL)
    for key, value in changes.items():
        content[key] = value
    if "dingo" in message:
        content["training"] = {}
        del content["channel"]["fading"]
    with pytest.raises(ScenarioError) as refused:
        Scenario.load(content)
    assert message in str(refused.value)


def test_a_network_without_devices_is_refused() -> None:
    content = changed({"network.link": "wifi"})
    del content["devices"]
    with pytest.raises(ScenarioError, match="network: its clock is not simulated without the table devices"):
        Scenario.load(content)
