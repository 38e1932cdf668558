"""The local engine with devices in batches: the same run, to rounding, and a reason where it cannot be."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg, FedProx, Strategy
from numpy.typing import NDArray
from torch import nn

import fedmac
from channel import AnalogUplink, Channel, IdealUplink, MinimumMSE, RandomLinearCode, Rayleigh, Uplink
from clients.app import Workplace, client_app
from clients.attack import Attack
from clients.batched_training import COPIES
from clients.training import Trainer, Training
from fedmac.engines.batched_devices import MOST, DevicesInBatches, devices_of_a_batch
from fedmac.engines.local import LocalGrid
from fedmac.engines.workers import Team
from fedmac.record import MEASURED
from fedmac.scenario import Scenario, ScenarioError
from fedmac.scenario_merge import merge, nest
from strategies import OverTheAir
from tests import fleet
from tests.fedmac.small_scenario import small

UPLINKS: dict[str, Uplink] = {
    "ideal": IdealUplink(),
    "random-linear": AnalogUplink(
        RandomLinearCode(ratio=0.5), MinimumMSE(), Channel(Rayleigh(), noise_power=0.01), trace=True
    ),
}
CONFIG = {"server-round": 1}

Run = tuple[NDArray[Any], list[dict[str, Any]]]


def run(work: Workplace, uplink: Uplink, batch: int, workers: int = 1, inner: Strategy | None = None) -> Run:
    records: list[dict[str, Any]] = []
    strategy = OverTheAir(inner or FedAvg(fraction_evaluate=0.0), uplink, on_exchange=records.append)
    app = client_app(lambda _context, _config: work)
    with LocalGrid(work, app, workers=workers, batch=batch) as grid:
        model = fleet.flat(fleet.run(strategy, grid, work, 2).arrays)
    return model, [{key: value for key, value in record.items() if key not in MEASURED} for record in records]


def assert_same_run(found: Run, expected: Run) -> None:
    """float64: a rounding of a device's sums is carried through two rounds of coding, power control and training."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-10)
    assert len(found[1]) == len(expected[1])
    for mine, theirs in zip(found[1], expected[1], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            _assert_same_value(mine[key], value, key)


def _assert_same_value(mine: Any, theirs: Any, key: str) -> None:
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for name in theirs:
            _assert_same_value(mine[name], theirs[name], f"{key}.{name}")
    elif isinstance(theirs, float) or (isinstance(theirs, list) and theirs and isinstance(theirs[0], float)):
        np.testing.assert_allclose(mine, theirs, rtol=1e-7, atol=1e-10, err_msg=key)
    else:
        assert mine == theirs, key


def no_warnings() -> warnings.catch_warnings:  # type: ignore[type-arg]
    return warnings.catch_warnings(action="error")


@pytest.mark.parametrize("name", UPLINKS)
@pytest.mark.parametrize(("batch", "workers"), [(2, 1), (7, 1), (64, 1), (3, 2)])
def test_a_run_with_devices_in_batches_is_the_same_run(name: str, batch: int, workers: int) -> None:
    """19 devices of unequal size: batches reach over the engine's 16 lanes, and the last one may be smaller."""
    work = fleet.workplace(19, rows=8)
    with no_warnings():
        found = run(work, UPLINKS[name], batch, workers)
    assert_same_run(found, run(work, UPLINKS[name], 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_norm": 0.2},
        {"warm_up": 2, "momentum": 0.9},
        {"full_batch": True, "local_steps": 2, "l2": 0.1},
    ],
    ids=str,
)
def test_whatever_devices_do_besides_they_do_in_batches_too(changes: dict[str, Any]) -> None:
    work = fleet.workplace(7, replace(fleet.ONE_EPOCH, **changes), rows=8)
    with no_warnings():
        found = run(work, UPLINKS["random-linear"], 4)
    assert_same_run(found, run(work, UPLINKS["random-linear"], 1))


@pytest.mark.parametrize("kind", ["sign-flip", "gaussian", "label-flip"])
def test_attackers_in_a_batch_attack_as_they_do_alone(kind: Any) -> None:
    work = fleet.workplace(6, rows=8)
    work.attack = Attack(kind, frozenset({1, 4}), factor=2.0)
    honest = run(fleet.workplace(6, rows=8), IdealUplink(), 4)
    found = run(work, IdealUplink(), 4)
    assert_same_run(found, run(work, IdealUplink(), 1))
    assert np.abs(found[0] - honest[0]).max() > 1e-3


def test_the_proximal_term_of_a_round_reaches_the_devices_of_a_batch() -> None:
    work = fleet.workplace(5, rows=20)
    found, expected = (
        run(work, IdealUplink(), batch, inner=FedProx(fraction_evaluate=0.0, proximal_mu=0.5)) for batch in (5, 1)
    )
    assert_same_run(found, expected)
    assert np.abs(found[0] - run(work, IdealUplink(), 5)[0]).max() > 1e-4


@pytest.mark.parametrize("memory", [0, 16 * 610 * 8])
def test_devices_beyond_the_memory_are_trained_again_in_batches(memory: int) -> None:
    """40 devices in 16 lanes that hold no update, or one each; 610 numbers an update."""
    work = fleet.workplace(40, rows=6)
    start = torch.from_numpy(fleet.flat(fleet.initial(work)))
    gains = np.random.default_rng(0).random((2, 40))
    superpositions = []
    for held, batch in ((10**9, 1), (memory, 8)):
        team = Team(work, client_app(lambda *_: work), workers=1, threads=1, memory=held, batch=batch)
        team.train(start, range(40), CONFIG, keep=True)
        superpositions.append(team.superpose(np.arange(40), gains))
        team.close()
    # float64 sums of 40 terms below one, some of them twice as large and subtracted again
    torch.testing.assert_close(superpositions[1], superpositions[0], rtol=0, atol=1e-11)


def test_a_device_that_raises_in_a_batch_is_named_alone() -> None:
    work = fleet.workplace(5)
    work.data.device(2).targets[0] = 99
    with no_warnings():
        found = run(work, UPLINKS["random-linear"], 5)
    assert [failure["device"] for record in found[1] for failure in record["failures"]] == [2, 2]
    assert_same_run(found, run(work, UPLINKS["random-linear"], 1))


class Layers(nn.Module):
    """A model with a layer that cannot be batched."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Linear(64, 8), layer, nn.Linear(8, 10)).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.layers(inputs.flatten(1))
        return outputs


def trained(layer: nn.Module, batch: int) -> tuple[torch.Tensor, DevicesInBatches]:
    trainer = Trainer(Layers(copy.deepcopy(layer)))
    work = Workplace(trainer, fleet.digits(7, rows=12), Training(0.1, batch_size=7), seed=0)
    in_batches = DevicesInBatches(work, batch)
    received = work.trainer.state.clone()
    states = [one.state.clone() for one in in_batches.train(received, range(7), CONFIG) if one.state is not None]
    return torch.stack(states), in_batches


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.BatchNorm1d(8), r"CannotBatch: model: its buffer 'layers\.1\.running_mean'"),
        (nn.Dropout(0.5), "RuntimeError: .*random"),
    ],
    ids=["running statistics", "dropout"],
)
def test_what_cannot_be_batched_is_trained_one_by_one_to_the_same_bits_and_says_why(
    layer: nn.Module, reason: str
) -> None:
    alone, _ = trained(layer, 1)
    with pytest.warns(UserWarning, match=rf"engine\.batched_devices: .* one after the other .*{reason}") as said:
        found, in_batches = trained(layer, 3)
    assert torch.equal(found, alone)
    assert len(found) == 7
    assert len(said) == 1  # and no second batch is tried
    assert in_batches.batch == 1


def test_a_batchs_time_is_shared_equally() -> None:
    work = fleet.workplace(6, rows=8)
    received = torch.from_numpy(fleet.flat(fleet.initial(work)))
    seconds = [one.seconds for one in DevicesInBatches(work, 3).train(received, range(6), CONFIG)]
    assert seconds[:3] == [seconds[0]] * 3
    assert seconds[3:] == [seconds[3]] * 3
    assert min(seconds) > 0


def test_devices_are_batched_by_default_where_there_is_a_gpu() -> None:
    trainer = fleet.workplace().trainer
    assert devices_of_a_batch(None, trainer, 10**8) == 1
    trainer.device = torch.device("cuda")  # only its name is asked for
    a_device = COPIES * trainer.size * 8
    assert [devices_of_a_batch(None, trainer, memory) for memory in (1, 3 * a_device, 10**9)] == [1, 3, MOST]
    assert [devices_of_a_batch(asked, trainer, 1) for asked in (1, 500)] == [1, 500]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"engine.batched_devices": 0}, r"engine\.batched_devices = 0"),
        ({"engine.batched_devices": 4, "engine.kind": "flower"}, r"batched_devices = 4.*accepted: kind = \"local\""),
    ],
)
def test_a_number_of_devices_that_cannot_be_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ScenarioError, match=complaint):
        Scenario.load(small(changes))


def records(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def test_a_scenario_that_asks_for_batches_makes_the_same_record(tmp_path: Path) -> None:
    training = {"learning_rate": 0.2, "batch_size": 16, "device": "cpu", "dtype": "float64"}
    scenario = small({"data.devices": 6, "data.partition": "dirichlet", "data.alpha": 1.0}) | {"training": training}
    for name, changes in (("alone", {}), ("batches", {"engine.batched_devices": 4})):
        fedmac.run(merge(scenario, nest(changes)), out=tmp_path / name)
    alone, batches = (records(tmp_path / name) for name in ("alone", "batches"))
    assert [line["round"] for line in batches] == [0, 1, 2, 3]
    for mine, theirs in zip(batches, alone, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            _assert_same_value(mine[key], value, key)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_scenario_on_a_gpu_ends_where_it_ends_on_the_cpu(tmp_path: Path) -> None:
    training = {"learning_rate": 0.2, "batch_size": 16, "dtype": "float64"}
    scenario = small({"data.devices": 6}) | {"training": training}
    for device in ("cpu", "cuda"):
        fedmac.run(merge(scenario, nest({"training.device": device})), out=tmp_path / device)
    here, there = (records(tmp_path / device) for device in ("cpu", "cuda"))
    for mine, theirs in zip(there, here, strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            _assert_same_value(mine[key], value, key)
