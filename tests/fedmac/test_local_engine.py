"""The local engine: the number of workers is nobody's business, and nothing is left behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from threading import Timer
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray
from torch import nn

import fedmac
from channel import AnalogUplink, Channel, IdealUplink, MinimumMSE, RandomLinearCode, Rayleigh, Uncoded, Uplink
from clients.app import Workplace, client_app
from clients.parameters import model_arrays
from clients.training import Trainer, Training
from fedmac.engines.local import FIRST_NODE, LocalGrid
from fedmac.engines.workers import Team, WorkerDied
from fedmac.record import MEASURED
from strategies import AirGrid, OverTheAir
from tests import fleet
from tests.fedmac.small_scenario import small

RAYLEIGH = Channel(Rayleigh(), noise_power=0.01)
UPLINKS: dict[str, Uplink] = {
    "ideal": IdealUplink(),
    "random-linear": AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE(), RAYLEIGH, trace=True),
    "error feedback": AnalogUplink(
        RandomLinearCode(ratio=0.5, decoder="projection", error_feedback=True), MinimumMSE("closed-form"), RAYLEIGH
    ),
}

Run = tuple[NDArray[Any], list[dict[str, Any]]]


def run(work: Workplace, uplink: Uplink, workers: int, rounds: int = 2) -> Run:
    records: list[dict[str, Any]] = []
    strategy = OverTheAir(FedAvg(fraction_evaluate=0.0), uplink, on_exchange=records.append)
    with fleet.local_grid(work, workers=workers) as grid:
        model = fleet.flat(fleet.run(strategy, grid, work, rounds).arrays)
    return model, [{key: value for key, value in record.items() if key not in MEASURED} for record in records]


@pytest.mark.parametrize("name", UPLINKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_results_are_the_same_bits_for_every_number_of_workers(name: str, dtype: torch.dtype) -> None:
    """19 devices: more than the engine has lanes, so that some share one."""
    work = fleet.workplace(19, dtype=dtype, rows=8)
    (alone, records), *others = [run(work, UPLINKS[name], workers) for workers in (1, 2, 3)]
    for model, their_records in others:
        assert np.array_equal(model, alone)
        assert their_records == records


def test_more_workers_than_devices_are_no_harm() -> None:
    work = fleet.workplace(2)
    assert np.array_equal(run(work, UPLINKS["ideal"], 3)[0], run(work, UPLINKS["ideal"], 1)[0])


def test_a_device_that_raises_in_a_worker_is_named_as_in_this_process() -> None:
    work = fleet.workplace(5)
    work.data.device(2).targets[0] = 99
    alone, beside = run(work, UPLINKS["random-linear"], 1), run(work, UPLINKS["random-linear"], 2)
    assert [failure["device"] for record in beside[1] for failure in record["failures"]] == [2, 2]
    assert beside[1] == alone[1]
    assert np.array_equal(beside[0], alone[0])


def test_devices_that_take_part_may_change_from_round_to_round() -> None:
    work = fleet.workplace(5)
    with fleet.local_grid(work, workers=2) as grid:
        air = AirGrid(grid, UPLINKS["random-linear"])
        start, nodes = fleet.initial(work), air.get_node_ids()
        for devices in ([3], [0, 1, 2, 3, 4], [4, 0]):
            asked = [nodes[device] for device in devices]
            (together,) = air.send_and_receive(fleet.train_messages(start, asked))
            other = AirGrid(fleet.local_grid(work), UPLINKS["random-linear"])
            other.get_node_ids()
            other.exchanges = air.exchanges - 1
            (alone,) = other.send_and_receive(fleet.train_messages(start, asked))
            a, b = (fleet.flat(reply.content.array_records["arrays"]) for reply in (together, alone))
            assert np.array_equal(a, b)


def test_the_streamed_mean_is_the_kept_updates_mean() -> None:
    """Ideal: updates are added as they come; uncoded without noise: they are kept. Rounding apart, the same sum."""
    work = fleet.workplace(6)
    streamed, _ = run(work, IdealUplink(), 1)
    kept, _ = run(work, AnalogUplink(Uncoded(), MinimumMSE(), Channel(noise_power=0.0)), 1)
    np.testing.assert_allclose(kept, streamed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fits", [0, 1])
@pytest.mark.parametrize("workers", [1, 2])
def test_devices_beyond_the_memory_are_trained_again_to_the_same_updates(fits: int, workers: int) -> None:
    """40 devices in 16 lanes that hold `fits` updates each; sums of 3 updates in another order, so float64 rounding."""
    work = fleet.workplace(40, rows=6)
    start = torch.from_numpy(fleet.flat(fleet.initial(work)))
    gains = np.random.default_rng(0).random((3, 40))
    superpositions = []
    for memory in (10**9, 16 * fits * start.numel() * 8):
        team = Team(work, client_app(lambda *_: work), workers=workers, threads=1, memory=memory)
        team.train(start, range(40), {"server-round": 1}, keep=True)
        superpositions.append(team.superpose(np.arange(40), gains))
        team.close()
    torch.testing.assert_close(superpositions[1], superpositions[0], rtol=0, atol=1e-14)


def test_aligned_devices_need_not_be_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains proportional to the examples but for two devices, in lanes of three: just these two are trained twice."""
    work = fleet.workplace(48, rows=6)
    start = torch.from_numpy(fleet.flat(fleet.initial(work)))
    trained: list[int] = []

    def train(received: torch.Tensor, device: int, config: Any) -> Any:
        trained.append(device)
        return Workplace.train(work, received, device, config)

    monkeypatch.setattr(work, "train", train, raising=True)
    examples = np.array([len(work.data.device(device)) for device in range(48)], dtype=float)
    gains = np.stack([0.37 * examples, examples / examples.sum()])
    gains[0, [4, 11]] *= 0.5
    team = Team(work, client_app(lambda *_: work), workers=1, threads=1, memory=0)
    team.train(start, range(48), {"server-round": 1}, keep=True)
    superposed = team.superpose(np.arange(48), gains)
    assert sorted(trained) == sorted([*range(48), 4, 11])
    plenty = Team(work, client_app(lambda *_: work), workers=1, threads=1, memory=10**9)
    plenty.train(start, range(48), {"server-round": 1}, keep=True)
    # Sums of 48 terms of order one, in another order.
    torch.testing.assert_close(superposed, plenty.superpose(np.arange(48), gains), rtol=1e-12, atol=1e-12)


class Drops(nn.Module):
    """A model whose layers draw at random and count."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 8), nn.BatchNorm1d(8, momentum=None), nn.Dropout(0.5), nn.Linear(8, 10)
        ).double()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(inputs)
        return scores


def test_layers_that_draw_or_count_do_not_know_the_workers_either() -> None:
    updates = []
    for workers in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = Drops()
            work = Workplace(Trainer(model), fleet.digits(6, rows=12), Training(0.1, batch_size=7), seed=0)
            torch.manual_seed(workers)
            before = torch.get_rng_state()
            team = Team(work, ClientApp(), workers=workers, threads=1, memory=10**9)
            team.train(work.trainer.state.clone(), range(6), {"server-round": 1}, keep=True)
            updates.append(team.superpose(np.arange(6), np.eye(6)))
            team.close()
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*updates)
    assert float(updates[0].norm()) > 0


def test_workers_end_with_the_grid() -> None:
    with fleet.local_grid(fleet.workplace(), workers=2) as grid:
        processes = list(grid.team.processes)
        assert all(process.is_alive() for process in processes)
    assert len(processes) == 2
    assert not any(process.is_alive() for process in processes)
    grid.close()


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param(True, id="while training"),
        pytest.param(False, id="between rounds"),
    ],
)
def test_a_worker_that_dies_is_an_error_that_says_what_to_try(busy: bool) -> None:
    work = fleet.workplace()
    with fleet.local_grid(work, workers=2) as grid:
        pid = grid.team.processes[1].pid
        assert pid is not None
        if busy:
            # Stopped, it takes its work and does not answer; the timer ends it there.
            os.kill(pid, signal.SIGSTOP)
            Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        else:
            os.kill(pid, signal.SIGKILL)
            grid.team.processes[1].join()
        air = AirGrid(grid, IdealUplink())
        with pytest.raises(WorkerDied, match=r"worker 1 .* exit code -9.*engine\.workers=1"):
            air.send_and_receive(fleet.train_messages(fleet.initial(work), air.get_node_ids()))


@pytest.mark.parametrize("entries", [1, 10**6], ids=["it does not answer", "it does not even read"])
def test_a_worker_that_falls_silent_is_an_error_that_names_its_devices(entries: int) -> None:
    """Devices 1 and 3 are with worker 1. A pipe holds far less than 8 MB: to write that, somebody has to read."""
    work = fleet.workplace()
    with LocalGrid(work, client_app(lambda *_: work), workers=2, patience=0.2) as grid:
        pid = grid.team.processes[1].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        rescue = Timer(5.0, os.kill, (pid, signal.SIGKILL))  # a wait without an end fails this test, and ends
        rescue.start()
        messages = fleet.train_messages(fleet.record({"x": np.zeros(entries)}), grid.get_node_ids())
        said = r"worker 1 .*\(devices 1, 3\) was silent for 0\.2 s; --resume .* larger engine\.round_timeout_s"
        with pytest.raises(WorkerDied, match=said):
            grid.push_messages(messages)
        rescue.cancel()


def test_a_worker_that_falls_silent_after_a_round_is_named_too() -> None:
    """When what devices keep is collected, for a checkpoint."""
    work = fleet.workplace()
    with LocalGrid(work, client_app(lambda *_: work), workers=2, patience=0.2) as grid:
        pid = grid.team.processes[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        rescue = Timer(5.0, os.kill, (pid, signal.SIGKILL))
        rescue.start()
        with pytest.raises(WorkerDied, match=r"worker 0 .*\(devices 0, 2\) was silent"):
            grid.device_states()
        rescue.cancel()


def test_a_run_gives_its_workers_the_scenarios_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the clock is simulated the limit is in its seconds, and workers get that of a scenario that says none."""
    given: list[float | None] = []

    def noting(self: LocalGrid, *arguments: Any, patience: float | None = None, **options: Any) -> None:
        given.append(patience)
        begin(self, *arguments, patience=patience, **options)

    begin = LocalGrid.__init__
    monkeypatch.setattr(LocalGrid, "__init__", noting)
    fedmac.run(small({"engine.round_timeout_s": 50.0}), out=tmp_path / "real", report=False)
    clocked = {"strategy": {"name": "asynchronous"}, "uplink": {"kind": "ideal"}, "power_control": {}, "channel": {}}
    fedmac.run(small(clocked | {"engine.round_timeout_s": 50.0}), out=tmp_path / "simulated", report=False)
    assert given == [50.0, 3600.0]


class Counted(nn.Module):
    """A network with integer buffers (BatchNorm counts its batches) and floating-point ones."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x.flatten(1))
        return out


def test_running_statistics_travel_and_integer_buffers_keep_the_servers_value() -> None:
    arrays = model_arrays(Counted()) | {"layers.1.num_batches_tracked": np.array(41)}
    work = Workplace(Trainer(Counted()), fleet.digits(dtype=torch.float32), fleet.ONE_EPOCH, seed=0)
    models = []
    for grid in (fleet.local_grid(work), fleet.message_grid(work)):
        air = AirGrid(grid, IdealUplink())
        (reply,) = air.send_and_receive(fleet.train_messages(fleet.record(arrays), air.get_node_ids()))
        models.append({k: a.numpy() for k, a in reply.content.array_records["arrays"].items()})
    for model in models:
        assert model["layers.1.num_batches_tracked"] == 41
        assert model["layers.1.num_batches_tracked"].dtype == np.int64
        assert np.abs(model["layers.1.running_mean"]).max() > 0.01
    for name in arrays:
        np.testing.assert_allclose(models[0][name], models[1][name], rtol=0, atol=1e-6, err_msg=name)


def test_replies_are_handed_over_once() -> None:
    work = fleet.workplace()
    grid = fleet.local_grid(work)
    ids = grid.push_messages(fleet.train_messages(fleet.initial(work), grid.get_node_ids(), "evaluate"))
    assert len(set(ids)) == 4
    assert [reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids)] == ids
    assert grid.pull_messages(ids) == []


def test_an_app_that_raises_is_an_error_reply_as_under_flower() -> None:
    grid = fleet.local_grid(fleet.workplace())
    fleet.identify()
    (reply,) = grid.send_and_receive([Message(RecordDict(), FIRST_NODE, "evaluate")])
    assert reply.has_error()
    assert "StopIteration" in str(reply.error.reason)


def test_the_model_is_trained_not_just_passed_around() -> None:
    """The whole way over a fading channel ends far better than guessing one digit of ten."""
    work = fleet.workplace(4, Training(learning_rate=0.5, local_epochs=2, batch_size=16), rows=150)
    model, records = run(work, UPLINKS["random-linear"], 1, rounds=12)
    accuracy = work.trainer.evaluate(torch.from_numpy(model), work.data.test).accuracy
    assert accuracy > 0.5
    assert records[-1]["metrics"]["train_loss"] < records[0]["metrics"]["train_loss"]
