"""Times federated averaging as a bare PyTorch loop, and defines the workload that the references share.

What is timed: whole rounds of federated averaging of an MLP 784-128-10 (ReLU, 101,770 parameters) with
full participation: every device starts from the global model, takes one epoch of SGD (learning rate 0.05,
batches of 10 in the order of its data, mean cross-entropy), and the server averages the models with equal
weights. There is no radio, no evaluation, no metric and no framework: one ``nn.Module``, and one
``torch.optim.SGD`` per device and round. So this is the price of the learning itself, to read the engines'
figures against; it is no rival.

How: data are made once, before the clock starts (normal float32 features, uniform labels, the same for
every engine); one warm-up round is left out; ``time.perf_counter`` is read at the end of each round, and
``round_seconds`` lists the rounds after the warm-up, ``seconds_per_round`` is their mean and
``fastest_round_seconds`` their minimum.
``model_norm`` is the Euclidean norm of the final parameters: it agrees between engines that did the same
work.

Run from the repository: ``.venv/bin/python benchmarks/bare_loop.py --devices 100 --samples 50 --rounds 10``.
It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 784
HIDDEN = 128
CLASSES = 10
BATCH_SIZE = 10
LEARNING_RATE = 0.05
SEED = 2


@dataclass(frozen=True)
class Workload:
    """How much is to be done: the numbers of devices, samples per device, timed rounds and torch threads."""

    devices: int
    samples: int
    rounds: int
    threads: int


def parse_workload(description: str, arguments: Sequence[str] | None = None) -> Workload:
    """Read ``--devices``, ``--samples``, ``--rounds`` and ``--threads`` from the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--devices", type=_positive, default=100, help="devices, all in every round (100)")
    parser.add_argument("--samples", type=_positive, default=50, help="samples per device (50)")
    parser.add_argument("--rounds", type=_positive, default=10, help="timed rounds after one warm-up (10)")
    parser.add_argument("--threads", type=_positive, default=1, help="torch threads (1)")
    return Workload(**vars(parser.parse_args(arguments)))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not accepted: give a whole number of at least 1")
    return value


def make_model() -> nn.Sequential:
    """Build the MLP 784-128-10 with torch's default initialisation under a fixed seed."""
    torch.manual_seed(SEED)
    return nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))


def make_data(devices: int, samples: int) -> list[tuple[Tensor, Tensor]]:
    """Draw features of shape (samples, 784), N(0, 1), and labels of shape (samples,) for each device."""
    generator = torch.Generator().manual_seed(SEED)
    features = torch.randn(devices, samples, FEATURES, generator=generator)
    labels = torch.randint(CLASSES, (devices, samples), generator=generator)
    return list(zip(features, labels, strict=True))


def report(engine: str, workload: Workload, model: nn.Module, round_ends: Sequence[float]) -> str:
    """Summarise a run as one line of JSON.

    Parameters
    ----------
    engine
        Name of what was timed.
    workload
        What it was asked to do.
    model
        The global model after the last round.
    round_ends
        Times in s at which the warm-up round and then each timed round ended.
    """
    seconds = [end - start for start, end in pairwise(round_ends)]
    if len(seconds) != workload.rounds:
        raise ValueError(f"round_ends has {len(seconds)} timed rounds; accepted: {workload.rounds}")
    parameters = nn.utils.parameters_to_vector(model.parameters()).detach()
    return json.dumps(
        {
            "engine": engine,
            "devices": workload.devices,
            "samples": workload.samples,
            "rounds": workload.rounds,
            "threads": workload.threads,
            "parameters": parameters.numel(),
            "seconds_per_round": sum(seconds) / len(seconds),
            "fastest_round_seconds": min(seconds),
            "round_seconds": seconds,
            "model_norm": parameters.norm().item(),
            "torch": torch.__version__,
        }
    )


def train_round(model: nn.Module, data: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Do one round of federated averaging in place: w <- mean over devices k of SGD(w; data of k)."""
    parameters = list(model.parameters())
    start = [parameter.detach().clone() for parameter in parameters]
    total = [torch.zeros_like(parameter) for parameter in start]
    for features, labels in data:
        train_device(model, features, labels)
        with torch.no_grad():
            for parameter, initial, accumulated in zip(parameters, start, total, strict=True):
                accumulated.add_(parameter)
                parameter.copy_(initial)
    with torch.no_grad():
        for parameter, accumulated in zip(parameters, total, strict=True):
            parameter.copy_(accumulated.div_(len(data)))


def train_device(model: nn.Module, features: Tensor, labels: Tensor) -> None:
    """Take one epoch of SGD in place, in the order of the data: one device's work of one round."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for batch, targets in zip(features.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(model(batch), targets).backward()
        optimizer.step()


def main() -> None:
    """Time the loop and print the line of JSON."""
    workload = parse_workload("Time federated averaging as a bare PyTorch loop.")
    torch.set_num_threads(workload.threads)
    data = make_data(workload.devices, workload.samples)
    model = make_model()
    round_ends = []
    for _ in range(workload.rounds + 1):
        train_round(model, data)
        round_ends.append(time.perf_counter())
    print(report("bare", workload, model, round_ends))


if __name__ == "__main__":
    main()
