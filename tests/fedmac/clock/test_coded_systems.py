"""Systems whose workers send packets, from scenario to run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from channel.codecs import EDEN
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from tests.fedmac.clock.small_systems import SYSTEMS, changed, rounds_of, simulated
from tests.killer import Killed, Killer

ENTRIES = 650  # softmax on 64 pixels and 10 classes
DIGITAL: dict[str, Any] = {"uplink.kind": "digital", "codec": {"name": "eden", "bits": 2}}


@pytest.mark.parametrize("name", SYSTEMS)
def test_workers_send_the_bits_of_the_codec(name: str, tmp_path: Path) -> None:
    rounds = rounds_of(tmp_path / "run", DIGITAL | {"strategy.name": name, "devices.jitter": 0.0})
    last = rounds[-1]
    # Twelve arrivals, or those and some that the last ones overtook.
    packets = last["bits_per_device_mean"] * 4 / EDEN(2).bits(ENTRIES)
    assert packets == int(packets) >= 12
    assert last["test_loss"] < rounds[0]["test_loss"]


def test_a_codec_that_loses_nothing_learns_the_plain_model(tmp_path: Path) -> None:
    # Synchronous, because packets take another time than models, and the order of arrival would be another.
    exact = {"uplink.kind": "digital", "codec": {"name": "top-k", "fraction": 1.0}, "strategy": {"name": "synchronous"}}
    rounds_of(tmp_path / "packets", exact)
    rounds_of(tmp_path / "plain", {"strategy": {"name": "synchronous"}})
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("packets", "plain")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])


def test_sending_a_packet_takes_the_power_limit_for_its_time_at_the_channels_rate(tmp_path: Path) -> None:
    changes = DIGITAL | {
        "strategy": {"name": "synchronous"}, "network.link": "channel", "rounds": 1,
        "channel": {"units": "physical", "tx_power_dbm": 10.0, "bandwidth_mhz": 1.0, "noise_power": 1e-4},
        "link": {"amplifier_efficiency": 0.5, "circuit_power": 0.1},
    }  # fmt: skip
    rounds = rounds_of(tmp_path / "run", changes)
    rate = 1e6 * math.log2(1 + 10e-3 / 1e-4)
    joules = (10e-3 / 0.5 + 0.1) * EDEN(2).bits(ENTRIES) / rate
    assert rounds[1]["radio_j_per_device_mean"] == pytest.approx(joules)


PACKINGS = {"fixed": DIGITAL, "entropy": {"uplink.kind": "digital", "codec": {"name": "qsgd", "packing": "entropy"}}}


@pytest.mark.parametrize("packing", PACKINGS)
def test_two_runs_are_equal_to_the_bit_whatever_the_number_of_workers(packing: str, tmp_path: Path) -> None:
    one = rounds_of(tmp_path / "one", PACKINGS[packing])
    two = rounds_of(tmp_path / "two", PACKINGS[packing] | {"engine.workers": 2})
    assert simulated(one) == simulated(two)
    models = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_killed_run_resumes_to_the_model_of_an_unbroken_one(packing: str, tmp_path: Path) -> None:
    own = {"rounds": 5, "strategy": {"name": "fedbuff", "buffer": 2, "concurrency": 3}}
    changes = PACKINGS[packing] | own
    unbroken = rounds_of(tmp_path / "unbroken", changes)
    with pytest.raises(Killed):
        rounds_of(tmp_path / "killed", changes, progress=Killer(2))
    resumed = rounds_of(tmp_path / "killed", changes, resume=True)
    assert simulated(resumed) == simulated(unbroken)
    models = [load_file(tmp_path / folder / "model.safetensors") for folder in ("unbroken", "killed")]
    assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": {"name": "nested"}}, "codec.name = 'nested': decodes packets with what others say in the same"),
        ({"codec": {"name": "factor"}}, "codec.name = 'factor': sends factors of gradients and no updates"),
        (
            {"codec": {"name": "scaled-sign", "error_feedback": 1.0}},
            "codec.error_feedback = 1.0: what a device keeps from message to message does not go with strategy.name",
        ),
        (
            {"link": {"access": "tdma"}},
            "link.access = 'tdma': strategy.name = \"asynchronous\" sends packets over the table network",
        ),
        ({"link": {"name": "snr-gap", "gap_db": 3.0}}, "link.name = 'snr-gap': strategy.name = \"asynchronous\""),
        ({"codec": {"name": "eden", "bits": 99}}, "codec.bits = 99"),
    ],
)
def test_what_packets_of_systems_do_not_go_with_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        Scenario.load(changed(DIGITAL) | changes)
    assert message in str(refused.value)


def test_without_packets_the_tables_codec_and_link_are_of_other_variants(tmp_path: Path) -> None:
    """They are not refused, as they would be with packets, and nothing of the run is by them."""
    tables: dict[str, Any] = {"codec": {"name": "nested"}, "link": {"access": "tdma"}}
    assert simulated(rounds_of(tmp_path / "with", tables)) == simulated(rounds_of(tmp_path / "without", {}))
