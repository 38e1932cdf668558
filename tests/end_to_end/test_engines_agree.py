"""One scenario, one seed, two engines: the same figures; and Flower's failures come back as failures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import fedmac
from fedmac.record import MEASURED

pytestmark = pytest.mark.flower

SCENARIO = """
name = "agree"
rounds = 3

[data]
source = "digits"
devices = 4
partition = "dirichlet"
alpha = 1.0

[model]
name = "mlp"
hidden = [16]

[training]
learning_rate = 0.1
local_epochs = 1

[uplink]
code = "random-linear"
ratio = 0.2

[power_control]
name = "minimum-mse"

[channel]
fading = "rayleigh"
noise_power = 0.01

[[variants]]
name = "rlc"

[[variants]]
name = "ideal"
uplink = { kind = "ideal" }

[[variants]]
name = "half"
strategy.fraction_train = 0.5

[[variants]]
name = "sign"
uplink.kind = "digital"
codec = { name = "scaled-sign", error_feedback = 1.0 }
link.name = "mcs"

[[variants]]
name = "sign again"
uplink.kind = "digital"
codec = { name = "scaled-sign", error_feedback = 1.0 }
link.name = "mcs"

[[variants]]
name = "lossy"
uplink.kind = "digital"
codec = { name = "scaled-sign", error_feedback = 1.0 }
link = { name = "fixed-rate", bits_per_use = 6.0 }

[[variants]]
name = "everything"
power_control.combining = "zero-forcing"
channel = { subbands = 3, antennas = 2 }
plan = { name = "power-law", every = 1 }

[variants.impairments]
pilots = 1
frame_s = 1e-4
csi_correlation = 0.95
phase_error_deg = 5.0
timing_error_ns = 50.0
cyclic_prefix_ns = 500.0
frequency_offset_hz = 20.0
slots = 2
clip_db = 3.0
subcarriers = 16
adc_bits = 8
interference_db = 0.0
availability = 0.7
mean_outage = 2.0

[[variants]]
name = "energies"
uplink = { kind = "non-coherent", chips = 2 }
channel = { subbands = 2, antennas = 2 }
training.warm_up = 2

[[variants]]
name = "votes"
uplink = { code = "majority-vote", step = 0.002 }
impairments.availability = 0.7

[[variants]]
name = "workers"
strategy = { name = "synchronous" }
uplink.kind = "digital"
codec = { name = "qsgd", levels = 3, packing = "entropy" }

[[variants]]
name = "asynchronous"
strategy = { name = "asynchronous" }
uplink = { kind = "ideal" }

[[variants]]
name = "stale-synchronous"
strategy = { name = "stale-synchronous" }
uplink = { kind = "ideal" }

[[variants]]
name = "fedbuff"
strategy = { name = "fedbuff" }
uplink = { kind = "ideal" }
"""

VARIANTS = ("rlc", "ideal", "half", "sign", "sign again", "lossy", "everything", "energies", "votes")

SYSTEM = "workers"
"""A system of a server and its workers, whose time is simulated on one engine and real on the other."""

WITHOUT_ROUNDS = ("asynchronous", "stale-synchronous", "fedbuff")
"""Systems whose server steps when an update comes: in which order that is, is not the same on both engines."""

# Measured seconds are nobody's to repeat. The error of the mean update needs the plain updates, which a server that is
# reached by messages never sees: Flower's record leaves it out.
NOT_SHARED = {*MEASURED, "mse_measured", "mse_predicted"}


def command(scenario: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`fedmac run` on Flower's engine, as a user calls it."""
    words = [sys.executable, "-m", "fedmac.cli", "run", str(scenario), "--out", str(out), "--engine", "flower", *more]
    path = os.pathsep.join([str(scenario.parent), str(Path(__file__).parents[2])])
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, cwd=scenario.parent)


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The run folders of the local engine and of Flower's: one Flower run for all variants."""
    place = tmp_path_factory.mktemp("engines")
    scenario = place / "agree.toml"
    scenario.write_text(SCENARIO)
    fedmac.run(scenario, out=place / "local", engine="local", workers=1)
    done = command(scenario, place / "flower", "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    return place / "local", place / "flower"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_figure_of_every_round_is_the_same_on_both_engines(folders: tuple[Path, Path], variant: str) -> None:
    local, flower = (records(folder / variant) for folder in folders)
    assert [r["round"] for r in flower] == [0, 1, 2, 3]
    # float32 updates are added up before coding (local) or coded and then added up (messages): rounding differs by
    # a few 6e-8; amplitudes, receive scale and the signals' errors follow the norms.
    for there, here in zip(local, flower, strict=True):
        assert here.keys() - {"wire_down_bytes", "wire_up_bytes"} == there.keys()  # in one process nothing is sent
        for name in there.keys() - NOT_SHARED:
            if isinstance(there[name], float) or (
                isinstance(there[name], list) and name not in ("failures", "not_asked")
            ):
                np.testing.assert_allclose(here[name], there[name], rtol=1e-6, atol=1e-9, err_msg=name)
            else:
                assert here[name] == there[name], name


def test_the_shared_figures_are_the_ones_that_matter(folders: tuple[Path, Path]) -> None:
    shared = records(folders[1] / "rlc")[1].keys() - NOT_SHARED
    assert {
        "test_loss", "test_accuracy", "train_loss", "devices", "weights", "update_norms", "gains", "amplitudes",
        "receive_scale", "signal_mse_measured", "channel_uses", "energy_j_per_device_mean", "air_time_s", "failures",
    } <= shared  # fmt: skip


def test_packets_are_the_same_on_both_engines_and_nodes_keep_nothing_from_one_variant_to_the_next(
    folders: tuple[Path, Path],
) -> None:
    for folder in folders:
        first, second = (records(folder / variant) for variant in ("sign", "sign again"))
        for one, other in zip(first[1:], second[1:], strict=True):
            assert {"packet_bits", "rates", "snr_db", "attempts", "arrived"} <= one.keys()
            assert one["test_loss"] == other["test_loss"]


def test_packets_are_lost_before_the_last_round_of_the_lossy_variant(folders: tuple[Path, Path]) -> None:
    """What is fed back of them is the same on both engines, by the figures above."""
    for folder in folders:
        assert any(record["silent"] for record in records(folder / "lossy")[1:-1])


def test_half_of_the_devices_take_part_and_they_are_the_same_ones(folders: tuple[Path, Path]) -> None:
    local, flower = ([r["devices"] for r in records(folder / "half")[1:]] for folder in folders)
    assert flower == local
    assert all(len(devices) == 2 for devices in flower)
    assert len({tuple(devices) for devices in flower}) > 1


def test_the_server_of_a_message_engine_knows_no_plain_update(folders: tuple[Path, Path]) -> None:
    for record in records(folders[1] / "rlc")[1:]:
        assert record["mse_measured"] is None


@pytest.mark.parametrize("variant", [*VARIANTS, SYSTEM])
def test_the_final_models_are_the_same(folders: tuple[Path, Path], variant: str) -> None:
    local, flower = (load_file(folder / variant / "model.safetensors") for folder in folders)
    for name, array in local.items():
        np.testing.assert_allclose(flower[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_workers_packets_are_all_accepted_on_both_engines(folders: tuple[Path, Path]) -> None:
    for record in records(folders[0] / SYSTEM)[1:] + records(folders[1] / SYSTEM)[1:]:
        assert record["accepted"] == 4
        assert record["failures"] == []


@pytest.mark.parametrize("variant", WITHOUT_ROUNDS)
def test_systems_without_rounds_of_all_learn_from_messages_that_come_when_they_come(
    folders: tuple[Path, Path], variant: str
) -> None:
    rounds = records(folders[1] / variant)
    assert [record["round"] for record in rounds] == [0, 1, 2, 3]
    assert all(record["accepted"] > 0 and record["failures"] == [] for record in rounds[1:])
    assert rounds[-1]["train_loss"] < rounds[0]["test_loss"]


def test_the_run_folder_of_flower_reads_like_any_other(folders: tuple[Path, Path]) -> None:
    run = fedmac.Run(folders[1])
    assert run.summary["engine"] == "flower"
    assert run.summary["interrupted"] is False
    assert run.variants == [*VARIANTS, SYSTEM, *WITHOUT_ROUNDS]
    assert (folders[1] / "report.html").is_file()
    assert (folders[1] / "flower.log").is_file()


BROKEN_ON_DEVICES = """
import sys
from clients.models import softmax

def factory(input_shape, num_classes):
    if any("default_worker" in word for word in sys.orig_argv):  # a process in which Ray runs devices
        raise ImportError("this device lacks a package")
    return softmax(input_shape, num_classes)
"""


def test_devices_that_all_fail_fail_the_command_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN_ON_DEVICES)
    scenario = tmp_path / "broken.toml"
    head, _, _ = SCENARIO.replace("rounds = 3", "rounds = 1").partition("[[variants]]")
    scenario.write_text(head.replace('name = "mlp"\nhidden = [16]', 'name = "broken:factory"'))
    done = command(scenario, tmp_path / "out", "--workers", "1")
    assert done.returncode == 1, done.stderr
    assert "no device sent in any of 1 rounds" in done.stderr
    assert "this device lacks a package" in done.stderr
    assert len(records(tmp_path / "out")[1]["failures"]) == 4
    assert json.loads((tmp_path / "out/summary.json").read_text())["interrupted"] is True
