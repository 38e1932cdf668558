"""Times the simulated clock: many devices with a null model, and real training against the plain local engine.

``null``: 10,000 devices whose steps take about a second each, with jitter, over 10 Gbit/s links that share a server of
100 Gbit/s, answer messages without a model until a million events are worked through. What is timed is the engine: no
strategy, each reply is answered with the next message. ``system``: the same with the asynchronous server around a
model of one number. ``training``: the MLP of ``bare_loop.py`` on 100 devices of 50 samples, one epoch a message: on the
local engine in place, as it trains for strategies that need only a mean, by its messages, and behind the clock, in
turns.

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
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.bare_loop import BATCH_SIZE, LEARNING_RATE, make_data, make_model
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
from strategies.systems.asynchronous import Asynchronous
from tests.answering_grid import AnsweringGrid


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


def system(devices: int, events: int) -> dict[str, float]:
    """With the asynchronous server."""
    grid = clock_around(AnsweringGrid(devices, sent_back), devices, 1.0)
    rounds = max(1, events // (2 * devices))  # an arrival is two events
    start, wall = time.process_time(), time.perf_counter()
    Asynchronous().start(grid, ArrayRecord({"x": Array(np.zeros(1))}), num_rounds=rounds, timeout=1e9)
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
    """Real training in place, by messages, and behind the clock, in turns; the median of what the clock adds."""
    torch.set_num_threads(1)
    work = Workplace(Trainer(make_model()), _data(devices, samples), Training(LEARNING_RATE, batch_size=BATCH_SIZE), 0)
    model = ArrayRecord({name: Array(array) for name, array in model_arrays(work.trainer.model).items()})
    plain = LocalGrid(work, client_app(lambda _context, _config: work))
    clocked = clock_around(plain, devices, 1.0)
    seconds: dict[str, list[float]] = {"in_place": [], "by_messages": [], "clocked": []}
    for turn in range(repeats + 1):
        for name, grid in (("in_place", plain), ("by_messages", plain), ("clocked", clocked)):
            content = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": turn})})
            start = time.process_time()
            messages = [grid.create_message(content, "train", FIRST_NODE + d, "") for d in range(devices)]
            replies: list[Message] = []
            if name == "in_place":
                plain.train_cohort(messages, "num-examples", False)
            elif name == "by_messages":
                replies = list(plain.send_and_receive(messages))
            else:
                clocked.push_messages(messages)
                replies = [reply for _ in range(devices) if (reply := clocked.next_reply()) is not None]
            assert name == "in_place" or len(replies) == devices
            assert all(isinstance(reply.content["metrics"], MetricRecord) for reply in replies)
            if turn:  # the first is a warm-up
                seconds[name].append(time.process_time() - start)
    ratios = [b / a for a, b in zip(seconds["in_place"], seconds["clocked"], strict=True)]
    return {
        "devices": devices,
        "samples": samples,
        "in_place_cpu_s": statistics.median(seconds["in_place"]),
        "by_messages_cpu_s": statistics.median(seconds["by_messages"]),
        "clocked_cpu_s": statistics.median(seconds["clocked"]),
        "clocked_over_in_place": statistics.median(ratios),
        "clocked_over_in_place_least": min(ratios),
        "clocked_over_in_place_most": max(ratios),
    }


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
    parser.add_argument("--samples", type=int, default=50, help="of training: samples of a device (50)")
    given = parser.parse_args()
    if given.what == "training":
        figures = training(given.devices or 100, given.samples)
    else:
        figures = {"null": null, "system": system}[given.what](given.devices or 10_000, given.events)
    print(json.dumps({"benchmark": given.what, **figures}))


if __name__ == "__main__":
    main()
