"""Times the simulated clock: many devices with a null model, and real training against the plain local engine.

``null``: 10,000 devices whose steps take about a second each, with jitter, over 10 Gbit/s links that share a server of
100 Gbit/s, answer messages without a model until a million events are worked through. What is timed is the engine: no
strategy, each reply is answered with the next message. ``system``: the same with a server around a model of one number
(``--system``, the asynchronous one by default). ``training``: the MLP of ``bare_loop.py`` on 100 devices of 50
samples, one epoch a message, in turns: on the local engine in place, as it trains for strategies that need only a mean,
by its messages, and behind the clock; then whole runs of five rounds, of FedAvg on the local engine and of the
synchronous and the asynchronous server on the clock.

Times are CPU seconds of this process (``time.process_time``), so that other work on the machine does not count, with
wall seconds beside them.

Run from the repository: ``.venv/bin/python benchmarks/clock.py null`` (or ``system``, ``training``). It prints one
line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bare_loop import BATCH_SIZE, LEARNING_RATE, make_data, make_model
from channel.uplinks import IdealUplink
from clients.app import Workplace, client_app
from clients.data import FederatedData, Split
from clients.device_profiles import ComputeProfile
from clients.parameters import model_arrays
from clients.training import Trainer, Training
from fedmac.clock.clocked_grid import ClockedGrid
from fedmac.clock.fleet import Fleet
from fedmac.clock.links import Link
from fedmac.clock.network import Network
from fedmac.engines.local import FIRST_NODE, LocalGrid
from fedmac.logs import quiet_flower
from strategies.over_the_air import OverTheAir
from strategies.systems.asynchronous import Asynchronous
from strategies.systems.fedbuff import FedBuff
from strategies.systems.server_system import ServerSystem
from strategies.systems.stale_synchronous import StaleSynchronous
from strategies.systems.synchronous import Synchronous
from tests.answering_grid import AnsweringGrid

ROUNDS = 5
"""Of a whole run."""

SYSTEMS: dict[str, Callable[..., ServerSystem]] = {
    "synchronous": Synchronous,
    "asynchronous": Asynchronous,
    "stale-synchronous": StaleSynchronous,
    "fedbuff": FedBuff,
}


def sent_back(message: Message) -> Message:
    """What a null model's device answers: what it gets."""
    return Message(message.content, reply_to=message)


def clock_around(grid: Grid, devices: int, flops: float) -> ClockedGrid:
    """Devices of about a second a step, over 10 Gbit/s, to a server of 100 Gbit/s."""
    profile = ComputeProfile("null", flops, busy_watts=1.0)
    links = [Link(10e9, 10e9, 50e-6)] * devices
    fleet = Fleet([profile], devices, 0, jitter=0.3, straggler_probability=0.01, straggler_slowdown=10.0)
    return ClockedGrid(grid, fleet, Network(links, 100e9), lambda _device: flops)


def null(devices: int, events: int) -> dict[str, float]:
    """The engine alone."""
    grid = clock_around(AnsweringGrid(devices, sent_back), devices, 1.0)
    content = RecordDict({"config": ConfigRecord({"server-round": 1})})
    start, wall = time.process_time(), time.perf_counter()
    grid.push_messages([grid.create_message(content, "train", FIRST_NODE + d, "") for d in range(devices)])
    while grid.events < events:
        reply = grid.next_reply()
        assert reply is not None
        grid.push_messages([grid.create_message(content, "train", reply.metadata.src_node_id, "")])
    return _spent(grid, start, wall)


def system(devices: int, events: int, name: str) -> dict[str, float]:
    """With a server."""
    grid = clock_around(AnsweringGrid(devices, sent_back), devices, 1.0)
    rounds = max(1, events // (2 * devices))  # an arrival is two events
    start, wall = time.process_time(), time.perf_counter()
    SYSTEMS[name](devices=devices).start(grid, ArrayRecord({"x": Array(np.zeros(1))}), num_rounds=rounds, timeout=1e9)
    return _spent(grid, start, wall)


def _spent(grid: ClockedGrid, start: float, wall: float) -> dict[str, float]:
    seconds = time.process_time() - start
    return {
        "events": grid.events,
        "simulated_s": grid.now,
        "cpu_s": seconds,
        "wall_s": time.perf_counter() - wall,
        "events_per_cpu_s": grid.events / seconds,
    }


def training(devices: int, samples: int, repeats: int = 7) -> dict[str, float]:
    """Real training by each way, in turns: CPU seconds, and how much longer on the clock; medians over the turns."""
    torch.set_num_threads(1)
    work = Workplace(Trainer(make_model()), _data(devices, samples), Training(LEARNING_RATE, batch_size=BATCH_SIZE), 0)
    model = ArrayRecord({name: Array(array) for name, array in model_arrays(work.trainer.model).items()})
    grid = LocalGrid(work, client_app(lambda _context, _config: work))
    clocked = clock_around(grid, devices, 1.0)
    ways: dict[str, Callable[[list[Message]], object]] = {
        "in_place": lambda messages: grid.train_cohort(messages, "num-examples", False),
        "by_messages": lambda messages: list(grid.send_and_receive(messages)),
        "clocked": lambda messages: _one_by_one(clocked, messages),
        "averaging": lambda _: _averaging(devices).start(grid, model, num_rounds=ROUNDS),
        "synchronous": lambda _: _start(Synchronous(devices=devices), grid, model),
        "asynchronous": lambda _: _start(Asynchronous(devices=devices), grid, model),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, go in ways.items():
            content = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": turn})})
            start = time.process_time()
            with quiet_flower():
                go([grid.create_message(content, "train", FIRST_NODE + d, "") for d in range(devices)])
            if turn:  # the first is a warm-up
                seconds[way].append(time.process_time() - start)
    figures: dict[str, float] = {"devices": devices, "samples": samples}
    figures |= {f"{way}_cpu_s": statistics.median(spent) for way, spent in seconds.items()}
    for way, plain in (("clocked", "in_place"), ("synchronous", "averaging"), ("asynchronous", "averaging")):
        ratios = [b / a for a, b in zip(seconds[plain], seconds[way], strict=True)]
        name = f"{way}_over_{plain}"
        figures |= {name: statistics.median(ratios), f"{name}_least": min(ratios), f"{name}_most": max(ratios)}
    return figures


def _one_by_one(grid: ClockedGrid, messages: list[Message]) -> None:
    """Take each reply as it comes, as systems do, and keep none."""
    grid.push_messages(messages)
    for _ in messages:
        reply = grid.next_reply()
        assert reply is not None
        assert reply.has_content()


def _averaging(devices: int) -> OverTheAir:
    """FedAvg on perfect links, which the local engine trains in place."""
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=devices, min_available_nodes=devices)
    return OverTheAir(strategy, IdealUplink(), seed=0, devices=devices)


def _start(system: ServerSystem, grid: LocalGrid, model: ArrayRecord) -> None:
    """A run on a clock of its own."""
    system.start(clock_around(grid, grid.devices, 1.0), model, num_rounds=ROUNDS, timeout=1e9)


def _data(devices: int, samples: int) -> FederatedData:
    parts = make_data(devices, samples)
    inputs, labels = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
    rows = [torch.arange(samples) + samples * device for device in range(devices)]
    none = Split(inputs[:0], labels[:0])
    return FederatedData(Split(inputs, labels), none, none, rows, 10, (784,)).grouped()


def main() -> None:
    """Time what the command line names."""
    parser = argparse.ArgumentParser(description="Time the simulated clock.")
    parser.add_argument("what", choices=("null", "system", "training"))
    parser.add_argument("--devices", type=int, help="devices (10,000; training: 100)")
    parser.add_argument("--events", type=int, default=1_000_000, help="events to work through (1,000,000)")
    parser.add_argument("--system", choices=SYSTEMS, default="asynchronous", help="of system: the server's kind")
    parser.add_argument("--samples", type=int, default=50, help="of training: samples of a device (50)")
    given = parser.parse_args()
    if given.what == "training":
        figures = training(given.devices or 100, given.samples)
    elif given.what == "system":
        figures = system(given.devices or 10_000, given.events, given.system)
    else:
        figures = null(given.devices or 10_000, given.events)
    print(json.dumps({"benchmark": given.what, **figures}))


if __name__ == "__main__":
    main()
