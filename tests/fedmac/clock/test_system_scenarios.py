"""Systems of a server and its workers, from scenario to run folder."""

from __future__ import annotations

import gc
import json
import math
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from strategies.systems.model_form import FlatModel
from tests.fedmac.clock.small_systems import SYSTEMS, changed, rounds_of, simulated
from tests.killer import Killed, Killer


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_run_folder_has_simulated_time_staleness_and_utilisation(name: str, tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", {"strategy.name": name})
    assert [record["round"] for record in rounds] == [0, 1, 2, 3]
    clocks = [record["clock_s"] for record in rounds[1:]]
    assert clocks == sorted(clocks)
    assert clocks[0] > 0
    last = rounds[-1]
    assert {"accepted", "rejected", "late", "staleness", "failures", "test_accuracy", "train_loss"} <= last.keys()
    assert len(last["utilisation"]) == 4
    assert 0 < last["utilisation_mean"] < 1
    assert last["energy_j_per_device_mean"] > last["radio_j_per_device_mean"] > 0
    assert last["bits_per_device_mean"] > 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["variants"][0]["clock_s"] == last["clock_s"]
    assert summary["variants"][0]["units"] == "physical"


def test_two_runs_are_equal_to_the_bit_whatever_the_number_of_workers(tmp_path: Path) -> None:
    one = rounds_of(tmp_path / "one", {})
    two = rounds_of(tmp_path / "two", {"engine.workers": 2})
    assert simulated(one) == simulated(two)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])


def test_a_bound_of_infinity_is_none(tmp_path: Path) -> None:
    stale = {"strategy": {"name": "stale-synchronous", "staleness_bound": math.inf}}
    rounds_of(tmp_path / "stale", stale)
    rounds_of(tmp_path / "asynchronous", {"strategy": {"name": "asynchronous", "server_learning_rate": 1 / 4}})
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("stale", "asynchronous")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])
    assert rounds_of(tmp_path / "stale", stale, resume=True)  # the run folder names it as it is
    with pytest.raises(ScenarioError, match=r"strategy\.staleness_bound = -inf"):
        Scenario.load(changed({"strategy": {"name": "stale-synchronous", "staleness_bound": -math.inf}}))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_killed_run_resumes_to_the_model_of_an_unbroken_one(name: str, tmp_path: Path) -> None:
    faults = {"faults.loss": 0.02, "engine.round_timeout_s": 5.0}
    changes = {"strategy.name": name, "rounds": 5, "devices.spans": True, **faults}
    unbroken = rounds_of(tmp_path / "unbroken", changes)
    with pytest.raises(Killed):
        rounds_of(tmp_path / "killed", changes, progress=Killer(2))
    resumed = rounds_of(tmp_path / "killed", changes, resume=True)
    assert simulated(resumed) == simulated(unbroken)
    models = [load_file(tmp_path / folder / "model.safetensors") for folder in ("unbroken", "killed")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize("name", ["asynchronous", "gossip"])
def test_an_hour_s_wait_for_a_lost_message_is_warned_of(name: str, tmp_path: Path) -> None:
    changes = {"strategy": {"name": name}, "faults.loss": 1e-9, "rounds": 1}
    with pytest.warns(UserWarning, match=r"faults\.loss = 1e-09: .* engine\.round_timeout_s = 3600 \(the default"):
        rounds_of(tmp_path / "hour", changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rounds_of(tmp_path / "minute", changes | {"engine.round_timeout_s": 60.0})


def alive() -> int:
    return sum(type(one) is FlatModel for one in gc.get_objects())


def test_a_reply_s_model_is_freed_as_soon_as_it_has_been_read(tmp_path: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        before = alive()
        rounds_of(tmp_path / "run", {"rounds": 20})  # 80 replies
        left = alive() - before
    finally:
        gc.enable()
    assert left < 20  # some ten: the last messages and replies of four devices, and what the server holds


def test_work_takes_as_long_as_the_profile_says(tmp_path: Path) -> None:
    changes = {
        "strategy": {"name": "synchronous"}, "devices.jitter": 0.0, "devices.profiles": ["mine"],
        "devices.own.mine": {"flops_per_s": 1e6, "busy_watts": 3.0}, "network.link": "infiniband", "rounds": 1,
    }  # fmt: skip
    rounds = rounds_of(tmp_path / "run", changes)
    # Softmax on 64 pixels and 10 classes: a product forward and one back, 2 * 64 * 10 each, of 16 examples.
    seconds = 16 * 2 * 2 * 64 * 10 / 1e6
    assert rounds[1]["clock_s"] == pytest.approx(seconds, abs=1e-4)
    assert rounds[1]["compute_j_per_device_mean"] == pytest.approx(3.0 * seconds)


def test_rates_can_be_those_of_the_channel(tmp_path: Path) -> None:
    changes = {
        "network.link": "channel", "rounds": 1,
        "channel": {
            "units": "physical", "tx_power_dbm": 10.0, "bandwidth_mhz": 1.0, "path_loss": "log-distance",
            "cell_radius_m": 500.0,
        },
    }  # fmt: skip
    rounds = rounds_of(tmp_path / "run", changes)
    assert rounds[1]["clock_s"] > 0
    # 10 mW for the time on air: the energy of 20,800 bits at some Mbit/s.
    assert 0 < rounds[1]["radio_j_per_device_mean"] < 1e-2


def test_a_deadline_too_short_ends_the_run_with_a_warning_that_says_so(tmp_path: Path) -> None:
    changes = {"strategy": {"name": "synchronous", "deadline_s": 1e-6, "most_empty_rounds": 2}, "rounds": 50}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rounds = rounds_of(tmp_path / "run", changes)
    assert [record["round"] for record in rounds] == [0, 1, 2]
    assert rounds[-1]["empty"]
    assert any("ended early: 2 rounds in a row were empty with deadline_s = 1e-06" in str(w.message) for w in said)


def test_spans_of_work_are_recorded_where_they_are_asked_for(tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", {"devices.spans": True, "rounds": 2})
    spans = [span for record in rounds[1:] for span in record["spans"]]
    assert {what for _, what, _, _ in spans} == {"compute", "receive", "send"}
    assert all(start <= end <= rounds[-1]["clock_s"] for _, _, start, end in spans)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy.largest_staleness": -1}, "strategy.largest_staleness = -1: accepted: an integer >= 0"),
        ({"strategy": {"name": "stale-synchronous", "staleness_bound": -2}}, "strategy.staleness_bound = -2: accepted"),
        (
            {"strategy": {"name": "synchronous", "backup_workers": 4}},
            "strategy.backup_workers = 4: there are 4 workers; accepted: an integer from 0 to 3",
        ),
        (
            {"strategy": {"name": "synchronous", "backup_workers": 1}, "data.devices": 1},
            "strategy.backup_workers = 1: there are 1 workers; accepted: 0",
        ),
        (
            {"devices.own.mine": {"flops_per_s": 0, "busy_watts": 1}},
            "'mine': flops_per_s = 0: accepted: a finite number",
        ),
        ({"devices.profiles": ["flagship-fone"]}, "did you mean flagship-phone"),
        ({"network.link": "wi-fi"}, "network.link = 'wi-fi': no such link; did you mean wifi"),
        ({"network": {"link": "channel", "up_mbps": 1.0}}, 'network.up_mbps = 1.0: link = "channel" has the rates'),
        ({"network": {"up_mbps": 0.0}}, "network.up_mbps"),
        ({"faults.mean_up_s": 10.0}, "faults.mean_down_s: missing; accepted"),
        (
            {"faults.incidents": [{"device": 9, "kind": "crash", "at_s": 1.0}]},
            "faults.incidents.device = 9: there is no such device; accepted: an integer from 0 to 3",
        ),
        ({"uplink.kind": "over-the-air"}, "uplink.kind = 'over-the-air': strategy.name = \"asynchronous\" sends mess"),
        ({"strategy": {"name": "asynchronous", "concurrency": 0}}, "strategy.concurrency = 0: accepted: an integer"),
        ({"engine": {"kind": "flower"}}, 'devices: with engine.kind = "flower" devices, network and time are real'),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    content = changed(changes)
    if "strategy" in changes:
        content["strategy"] = changes["strategy"]
    with pytest.raises(ScenarioError) as refused:
        Scenario.load(content)
    assert message in str(refused.value)


def test_the_scenario_of_the_manual_is_one() -> None:
    manual = (Path(__file__).parents[3] / "docs" / "systems.md").read_text(encoding="utf-8")
    example = manual.split("```toml\n")[1].split("```")[0]
    variants = Scenario.load(tomllib.loads(example)).resolve()
    assert [variant.scenario.strategy.name for variant in variants] == ["synchronous", "asynchronous"]
    assert all(variant.scenario.channel.units == "physical" for variant in variants)


def test_a_variant_with_another_link_lets_go_of_the_old_ones_rates() -> None:
    content = changed({"network": {"link": "wifi", "up_mbps": 5.0}})
    content["variants"] = [{"name": "lte", "network": {"link": "lte"}}]
    (variant,) = Scenario.load(content).resolve()
    assert variant.scenario.network is not None
    assert variant.scenario.network.up_mbps is None


def test_the_table_trust_holds_for_systems(tmp_path: Path) -> None:
    hostile = {
        "attackers": {"devices": [1], "kind": "scaled-update", "factor": 1e4},
        "devices.jitter": 0.0,
        "rounds": 4,
    }
    believed = rounds_of(tmp_path / "believed", hostile)
    assert all("bad_replies" not in record for record in believed)
    bounded = rounds_of(tmp_path / "bounded", hostile | {"trust.largest_norm_ratio": 50.0, "trust.bad_replies": 1})
    assert bounded[-1]["bad_replies"] == {"1": {"norm": 1}}
    assert [one["device"] for one in bounded[-1]["not_asked"]] == [1]
    assert [(one["device"], one["kind"]) for record in bounded for one in record.get("failures", ())] == [(1, "norm")]
