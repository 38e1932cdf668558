"""Restructured models: the table of figures to be level with, a CNN against baselines, and how long planning takes.

usage: python benchmarks/repurpose.py [--only table,group,descent,cnn,speed] [--seeds 5]

table: 784-256-128-10 on all rows of mnist-5k, four workers, layer hidden2 alone, accuracy on its own rows.
group: the fewest sends of the group penalty that are as good as the edge-wise penalty at each of its costs, and how
accurate it is with as many sends as the figures to be level with.
descent: the edge-wise penalty on such models trained by plain gradient descent, as the figures' model probably was.
cnn: two convolutions and two dense layers, trained on 4,000 rows; all layers split for 2, 4 and 8 workers.
speed: planning 784-1024-1024-10 for 8 workers; processor time of one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from repurpose_models import accuracy, digits, reference_mlp, reference_mlp_by_descent, trained
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from strategies.repurpose import Method, accuracy_on, calibrate, direct, naive, repurpose, search, sparse, split
from strategies.repurpose.accounts import account
from strategies.repurpose.calibration import Calibration
from strategies.repurpose.plan import Plan
from strategies.repurpose.workers import Links, Worker

COSTS = (0.0005, 0.002, 0.008, 0.03)
FIGURES = {
    (0.0005, False): (557, 0.9862), (0.0005, True): (541, 0.9872),
    (0.002, False): (316, 0.9840), (0.002, True): (239, 0.9842),
    (0.008, False): (45, 0.9810), (0.008, True): (23, 0.9830),
    (0.03, False): (0, 0.9798), (0.03, True): (0, 0.9826),
}  # fmt: skip
"""Sends and refitted accuracy to be level with, by communication cost and whether owners are assigned."""
LAYER = "hidden2"
TARGET_SECONDS = 20.0


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0, 1, ...")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    inputs, targets = digits()
    with threadpool_limits(1):
        for name in arguments.only.split(","):
            if name not in PARTS:
                parser.error(f"--only: {name!r}; accepted: {', '.join(PARTS)}")
            PARTS[name](inputs, targets, arguments.seeds)


def table(inputs: Tensor, targets: Tensor, seeds: int) -> None:
    """The table of figures to be level with, means over seeds."""
    judge, found, whole = accuracy_on(inputs, targets), {}, []
    for seed in range(seeds):
        model = reference_mlp(inputs, targets, seed)
        whole.append(accuracy(model, inputs, targets))
        calibration = calibrate(model, inputs)
        for cost in COSTS:
            for penalty in ("edge", "group"):
                for arranged in (False, True):
                    row = found.setdefault((cost, penalty, arranged), [])
                    row.append(_split_one(calibration, cost, penalty, arranged, judge))
    print(f"\nmodel: {statistics.mean(whole):.4f} (seeds 0 to {seeds - 1}); sends of at most 768\n")
    print("| cost | penalty | owners | sends | pruned | refitted | half squared error | to be level with |")
    print("|---:|---|---|---:|---:|---:|---:|---|")
    for (cost, penalty, arranged), rows in found.items():
        sends, refitted, pruned, error = np.array(rows).T
        level = "{} sends, {:.4f}".format(*FIGURES[cost, arranged])
        cut = f"{pruned.mean():.4f}" if penalty == "edge" else "-"
        owners = "assigned" if arranged else "contiguous"
        print(
            f"| {cost} | {penalty} | {owners} | {sends.mean():.0f} ± {_spread(sends):.0f} | {cut} "
            f"| {refitted.mean():.4f} ± {_spread(refitted):.4f} | {error.mean():.3g} | {level} |",
            flush=True,
        )


def group(inputs: Tensor, targets: Tensor, seeds: int) -> None:
    """The group penalty along its path: beside the edge-wise penalty, and with as many sends as the figures have."""
    judge = accuracy_on(inputs, targets)
    rows: dict[float, list[tuple[float, float, float]]] = {cost: [] for cost in COSTS}
    level: dict[int, list[tuple[float, float]]] = {FIGURES[cost, True][0]: [] for cost in COSTS}
    for seed in range(seeds):
        calibration = calibrate(reference_mlp(inputs, targets, seed), inputs)
        costs = np.geomspace(2e-4, 0.5, 16)
        path = [_split_one(calibration, float(cost), "group", True, judge, pruned=False) for cost in costs]
        for cost in COSTS:
            sends, reached, _, error = _split_one(calibration, cost, "edge", True, judge, pruned=False)
            accurate = min(p[0] for p in path if p[1] >= reached)
            rows[cost].append((sends, accurate, min(p[0] for p in path if p[3] <= error)))
        for most, found in level.items():
            found.append(max((p[:2] for p in path if p[0] <= most), key=lambda p: p[1]))
    print("\n| edge-wise cost | its sends | group, no less accurate | group, no greater squared error |")
    print("|---:|---:|---:|---:|")
    for cost, three in rows.items():
        print("| {} | {:.0f} | {:.0f} | {:.0f} |".format(cost, *np.mean(three, axis=0)))
    print("\n| sends to be level with | accuracy | group: sends | accuracy |\n|---:|---:|---:|---:|")
    for (most, pairs), cost in zip(level.items(), COSTS, strict=True):
        sends, reached = np.array(pairs).T
        told = f"{reached.mean():.4f} ± {_spread(reached):.4f}"
        print(f"| {most} | {FIGURES[cost, True][1]:.4f} | {sends.mean():.0f} | {told} |", flush=True)


def descent(inputs: Tensor, targets: Tensor, seeds: int) -> None:
    """The edge-wise penalty on models trained by gradient descent, by covariance and by the plain second moment."""
    judge, whole = accuracy_on(inputs, targets), []
    found: dict[tuple[float, bool], list[tuple[float, ...]]] = {}
    plain: dict[float, list[int]] = {cost: [] for cost in COSTS}
    for seed in range(seeds):
        model = reference_mlp_by_descent(inputs, targets, seed)
        whole.append(accuracy(model, inputs, targets))
        calibration = calibrate(model, inputs)
        for cost in COSTS:
            plain[cost].append(_sends_by_second_moment(calibration, cost))
            for arranged in (False, True):
                row = _split_one(calibration, cost, "edge", arranged, judge)
                found.setdefault((cost, arranged), []).append(row)
    print(f"\nmodel: {statistics.mean(whole):.4f} (seeds 0 to {seeds - 1}); sends of at most 768\n")
    print("| cost | owners | sends | pruned | refitted | by second moment: sends | to be level with |")
    print("|---:|---|---:|---:|---:|---:|---|")
    for (cost, arranged), rows in found.items():
        sends, refitted, pruned, _ = np.array(rows).T
        level = "{} sends, {:.4f}".format(*FIGURES[cost, arranged])
        counted = "" if arranged else f"{statistics.mean(plain[cost]):.0f} ± {_spread(plain[cost]):.0f}"
        print(
            f"| {cost} | {'assigned' if arranged else 'contiguous'} | {sends.mean():.0f} ± {_spread(sends):.0f} "
            f"| {pruned.mean():.4f} | {refitted.mean():.4f} ± {_spread(refitted):.4f} | {counted} | {level} |",
            flush=True,
        )


def _sends_by_second_moment(calibration: Calibration, cost: float) -> int:
    """What four contiguous workers would send if an edge's worth were w² E[x²] / 2, the mean of x included."""
    network = calibration.network
    step = next(step for step in network.layers if step.name == LAYER)
    x = network.run(calibration.inputs, step.sources[0]).double()
    keep = 0.5 * network.matrix(step)[:, :, 0].square() * x.square().mean(0) > cost
    rows, units = (torch.arange(n) * 4 // n for n in keep.shape)
    return sum(int(keep[rows == q][:, units != q].any(0).sum()) for q in range(4))


def cnn(inputs: Tensor, targets: Tensor, seeds: int) -> None:
    """A CNN for 2, 4 and 8 workers beside the baselines: means; picked on training rows, told on test rows."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(1))
    train, test = order[:4000], order[4000:]
    found: dict[tuple[int, str], list[tuple[float, ...]]] = {}
    for seed in range(seeds):
        model = trained("cnn", inputs[train], targets[train], seed, 6)
        calibration = calibrate(model, inputs[train[:1000]])
        for workers in (2, 4, 8):
            judge = accuracy_on(inputs[train[:2000]], targets[train[:2000]])
            _, best = search(calibration, workers, judge, max_drop=0.005, points=7, refinements=2)
            kept = {name: int(layer.kept.sum()) for name, layer in best.plan.layers.items()}
            plans = {
                "repurposed": best.plan,
                "naive": naive(calibration, workers),
                "direct": direct(calibration, workers),
                "sparse": sparse(calibration, workers, kept),
            }
            told = accuracy_on(inputs[test], targets[test])
            for name, plan in plans.items():
                found.setdefault((workers, name), []).append((judge(plan), told(plan), *_costs(plan, workers)))
    print(f"\nmeans over seeds 0 to {seeds - 1}\n")
    print("| workers | plan | training | test | sends | kB | multiply-adds max | mean | ms |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    for (workers, name), rows in found.items():
        judged, reached, sends, kilobytes, most, mean, milliseconds = np.array(rows).T
        print(
            f"| {workers} | {name} | {judged.mean():.4f} | {reached.mean():.3f} ± {_spread(reached):.3f} "
            f"| {sends.mean():.0f} ± {_spread(sends):.0f} | {kilobytes.mean():.1f} | {most.mean():,.0f} "
            f"| {mean.mean():,.0f} | {milliseconds.mean():.1f} |"
        )
    lost = [a[1] - b[1] for n in (2, 4, 8) for a, b in zip(found[n, "naive"], found[n, "repurposed"], strict=True)]
    print(f"\nlost on test rows: {statistics.mean(lost):.4f} ({min(lost):.4f} to {max(lost):.4f})")


def speed(inputs: Tensor, targets: Tensor, seeds: int) -> None:
    """Planning time of 784-1024-1024-10 for 8 workers, calibration included."""
    model: nn.Module = trained("mlp", inputs, targets, 0, 1, hidden=[1024, 1024])
    found = []
    for cost in (0.001, 0.03):
        begin, wall = time.process_time(), time.perf_counter()
        plan = repurpose(model, inputs, 8, cost)
        found.append(time.process_time() - begin)
        print(
            f"\nplanning 784-1024-1024-10 for 8 workers at cost {cost}: {found[-1]:.1f} s of one core "
            f"({time.perf_counter() - wall:.1f} s by the clock), {account(plan).sends} sends, "
            f"accuracy {accuracy_on(inputs, targets)(plan):.4f} of {accuracy(model, inputs, targets):.4f}",
            flush=True,
        )
    print(f"target: under {TARGET_SECONDS:g} s: {'met' if max(found) < TARGET_SECONDS else 'missed'}")


def _split_one(
    calibration: Calibration,
    cost: float,
    penalty: str,
    arranged: bool,
    judge: Callable[[Plan], float],
    *,
    pruned: bool = True,
) -> tuple[float, float, float, float]:
    """Sends, accuracy refitted, accuracy pruned only, and half the squared error."""
    plan = split(calibration, 4, {LAYER: cost}, method=Method(penalty, arranged=arranged))
    cut = float("nan")
    if pruned and penalty == "edge":
        cut = judge(split(calibration, 4, {LAYER: cost}, method=Method(penalty, refitted=False, arranged=arranged)))
    layer = plan.layers[LAYER]
    return float(layer.sends.sum()), judge(plan), cut, layer.error


def _costs(plan: Plan, workers: int) -> tuple[float, ...]:
    """Sends, kB, multiply-adds of the worker with most and in the mean, and ms."""
    counts = account(plan)
    latency = counts.latency([Worker()] * workers, Links.equal(workers))
    work = counts.multiply_adds
    return counts.sends, counts.bytes / 1e3, float(work.max()), float(work.mean()), 1e3 * latency


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


PARTS: dict[str, Callable[[Tensor, Tensor, int], None]] = {
    "table": table, "group": group, "descent": descent, "cnn": cnn, "speed": speed,
}  # fmt: skip

if __name__ == "__main__":
    main()
