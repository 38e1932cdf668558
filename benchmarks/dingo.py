"""Seconds an iteration of DINGO takes, and how they grow with rows and parameters.

usage: python benchmarks/dingo.py [--iterations 8] [--workers 2]

Problem A: MNIST-5k, 5 devices of 1,000 rows, softmax without bias (d = 7,840), 50 inner iterations, float64, one
thread a worker. Both message patterns are timed in turn, several times over, and the ratio is that of their medians;
the first iteration, which starts workers and builds the objectives, is left out. Then rows and parameters are halved
twice.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from typing import Any

import torch
from flwr.app import Array, ArrayRecord

from clients.app import Workplace, client_app
from clients.data import load
from clients.models import build
from clients.parameters import model_arrays
from clients.training import Trainer, Training
from fedmac.engines.local import LocalGrid
from fedmac.logs import quiet_flower
from strategies.dingo import Dingo

ROWS = (250, 500, 1000)
HIDDEN = (8, 16, 32)
L2 = 2e-7


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with quiet_flower():
        times: dict[str, list[float]] = {"official": [], "lean": []}
        for _ in range(arguments.repeats):
            for exchange, own in times.items():
                own += seconds(softmax(), arguments, exchange=exchange)
        print("| messages | s an iteration, median | least | against lean |\n|---|---|---|---|")
        lean = statistics.median(times["lean"])
        for exchange, own in times.items():
            median = statistics.median(own)
            print(f"| {exchange} | {median:.3f} | {min(own):.3f} | {median / lean:.2f} |")
        print(
            "\n| what grows | sizes | s an iteration | per row or parameter, against the largest |\n|---|---|---|---|"
        )
        table("rows a device, softmax", ROWS, [softmax(rows) for rows in ROWS], arguments)
        networks = [perceptron(hidden) for hidden in HIDDEN]
        table("parameters, one hidden layer", [work.trainer.size for work in networks], networks, arguments)


def table(what: str, sizes: Any, workplaces: list[Workplace], arguments: argparse.Namespace) -> None:
    """A row of the second table."""
    # Five inner iterations and one trial step always: the work must not depend on how learning goes.
    fixed = {"inner_iterations": 5, "inner_tolerance": 1e-15, "line_search_steps": 1, "failed_searches": 10**6}
    medians = [statistics.median(seconds(work, arguments, **fixed)) for work in workplaces]
    unit = medians[-1] / sizes[-1]
    ratios = ", ".join(f"{median / size / unit:.2f}" for median, size in zip(medians, sizes, strict=True))
    print(f"| {what} | {', '.join(f'{s:,}' for s in sizes)} | {', '.join(f'{m:.3f}' for m in medians)} | {ratios} |")


def seconds(work: Workplace, arguments: argparse.Namespace, **parameters: Any) -> list[float]:
    """Seconds of each iteration but the first."""
    ends: list[float] = []
    start = ArrayRecord({name: Array(array) for name, array in model_arrays(work.trainer.model).items()})
    strategy = Dingo(on_iteration=lambda _: ends.append(time.perf_counter()), **parameters)
    with LocalGrid(work, client_app(lambda *_: work), workers=arguments.workers) as grid:
        strategy.start(grid, start, num_rounds=arguments.iterations)
    return [b - a for a, b in pairwise(ends)]


def softmax(rows: int | None = None) -> Workplace:
    """Problem A, or part of its rows."""
    return workplace("softmax", rows, bias=False)


def perceptron(hidden: int) -> Workplace:
    """One hidden layer, differentiated automatically."""
    return workplace("mlp", 250, hidden=(hidden,))


def workplace(name: str, rows: int | None, **parameters: Any) -> Workplace:
    """Five devices with a model."""
    data = load(
        "mnist-5k", devices=5, partition="contiguous", test_fraction=0.0, samples_per_device=rows, dtype=torch.float64
    ).grouped()
    init = "zeros" if name == "softmax" else "default"
    model = build(name, data.input_shape, data.num_classes, init=init, dtype=torch.float64, **parameters)
    return Workplace(Trainer(model), data, Training(0.0, l2=L2), seed=0)


if __name__ == "__main__":
    main()
