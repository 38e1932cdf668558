"""This machine as a device profile, and the FLOPs that it is measured by."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from clients.device_profiles import profile_from
from clients.models import build
from clients.training import Training
from clients.training_flops import examples_visited, flops_per_example
from fedmac.cli import app
from fedmac.clock import this_machine
from fedmac.clock.profile_table import profile_table
from fedmac.clock.this_machine import PowerUnknown, measure_profile
from fedmac.scenario_errors import ScenarioError


def test_flops_of_a_dense_network_are_two_for_each_weight_and_product() -> None:
    model = build("mlp", (784,), 10, hidden=(128,))
    counted = flops_per_example(model, torch.randn(3, 784), torch.tensor([0, 1, 2]), nn.functional.cross_entropy)
    # Forward and the weights' gradients in both layers, the gradient of the hidden units in the second.
    assert counted == 2 * (2 * 784 * 128 + 3 * 128 * 10)


def test_counting_leaves_the_model_and_the_random_state_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    flops_per_example(
        model, torch.randn(1, 4, generator=torch.Generator()), torch.tensor([0]), nn.functional.cross_entropy
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_flops_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no examples; accepted: at least one"):
        flops_per_example(nn.Linear(1, 1), torch.empty(0, 1), torch.empty(0), nn.functional.mse_loss)


@pytest.mark.parametrize(
    ("training", "visited"),
    [
        (Training(0.1, full_batch=True, local_steps=3), 75),
        (Training(0.1, local_epochs=2, batch_size=10), 50),
        (Training(0.1, local_batches=1, batch_size=10), 10),
        (Training(0.1, local_batches=3, batch_size=10), 25),  # the last of a pass has five
        (Training(0.1, local_batches=4, batch_size=10), 35),
        (Training(0.1, local_batches=1, batch_size=100), 25),
    ],
)
def test_work_is_counted_by_the_examples_that_training_visits(training: Training, visited: int) -> None:
    assert examples_visited(training, 25) == visited


def test_a_measured_profile_goes_into_a_scenario_and_comes_back() -> None:
    profile = measure_profile("bench", seconds=0.05, watts=15.0, idle_watts=2.0)
    assert profile.flops_per_s > 1e6
    table = tomllib.loads(profile_table(profile))["devices"]["own"]["bench"]
    assert profile_from("bench", table) == profile


def test_what_was_measured_has_three_digits_and_what_was_given_is_kept() -> None:
    profile = measure_profile("bench", seconds=0.05, watts=15.0625)
    assert profile.flops_per_s == float(f"{profile.flops_per_s:.3g}")
    assert profile.busy_watts == 15.0625


@pytest.mark.parametrize(("threads", "said"), [(1, ", 1 thread,"), (2, ", 2 threads,")])
def test_the_source_counts_threads(threads: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert said in measure_profile("bench", seconds=0.05, watts=1.0).source


def test_the_table_has_no_keys_that_say_nothing() -> None:
    table = tomllib.loads(profile_table(measure_profile("bench", seconds=0.05, watts=15.0)))["devices"]["own"]["bench"]
    assert list(table) == ["flops_per_s", "busy_watts", "source"]


def test_power_is_read_from_the_processors_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = tmp_path / "energy_uj"
    counter.write_text("1000000")
    monkeypatch.setattr(this_machine, "ENERGY_COUNTER", counter)
    speed = this_machine._Work.speed

    def drawing(work: this_machine._Work, seconds: float) -> float:
        counter.write_text(str(int(counter.read_text()) + 10**6))
        return speed(work, seconds)

    monkeypatch.setattr(this_machine._Work, "speed", drawing)
    profile = measure_profile("bench", seconds=0.05)
    assert profile.busy_watts is not None
    assert profile.busy_watts > 0
    assert "by the processor's counter" in profile.source


def test_without_a_counter_power_has_to_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "ENERGY_COUNTER", tmp_path / "none")
    with pytest.raises(PowerUnknown, match="accepted: --watts"):
        measure_profile("bench", seconds=0.05)


def test_the_command_prints_a_table_or_writes_a_new_file(tmp_path: Path) -> None:
    out = tmp_path / "mine.toml"
    options = ["profile", "--name", "mine", "--watts", "9", "--seconds", "0.05"]
    shown = CliRunner().invoke(app, options)
    assert tomllib.loads(shown.output)["devices"]["own"]["mine"]["busy_watts"] == 9.0
    assert CliRunner().invoke(app, [*options, "--out", str(out)]).exit_code == 0
    assert "mine" in tomllib.loads(out.read_text())["devices"]["own"]
    again = CliRunner().invoke(app, [*options, "--out", str(out)])
    assert isinstance(again.exception, ScenarioError)
    assert "exists already; accepted: a new file" in str(again.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--watts", "-1"], "--watts = -1.0: accepted: a finite number >= 0"),
        (["--watts", "nan"], "--watts = nan: accepted: a finite number >= 0"),
        (["--watts", "9", "--idle-watts", "inf"], "--idle-watts = inf: accepted: a finite number >= 0"),
        (["--watts", "9", "--seconds", "0"], "--seconds = 0.0: accepted: a finite number > 0"),
        (["--watts", "9", "--device", "tpu"], "--device: 'tpu' is not a device; accepted: auto, cpu, cuda"),
        (["--watts", "9", "--name", ""], "--name = '': accepted: a text that is not empty"),
    ],
)
def test_the_command_names_the_option_that_cannot_be(options: list[str], message: str) -> None:
    refused = CliRunner().invoke(app, ["profile", *options])
    assert isinstance(refused.exception, ScenarioError)
    assert str(refused.exception) == message
