"""A path over the communication cost: plans from chatty to silent, their Pareto front, and the pick of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from strategies.repurpose.accounts import Accounts, account
from strategies.repurpose.calibration import Calibration
from strategies.repurpose.method import USUAL, Method
from strategies.repurpose.plan import Plan
from strategies.repurpose.restructure import split
from strategies.repurpose.workers import Links, Worker

DECADES = 4.0
"""Of the path without 0, up to the cost at which nothing is worth sending."""


@dataclass(frozen=True)
class Point:
    """A plan of the path.

    Attributes
    ----------
    communication_cost : float
    plan : Plan
    accounts : Accounts
    accuracy : float
        As judged.
    latency : float
        Estimate, s.
    """

    communication_cost: float
    plan: Plan
    accounts: Accounts
    accuracy: float
    latency: float


class OutOfReach(ValueError):
    """No plan of the path is accurate enough, or sends little enough."""


def silent_cost(calibration: Calibration) -> float:
    """A cost at which no activation is worth sending by the diagonal approximation: all that a unit carries."""
    network = calibration.network
    most = [
        float(loss.sum(0).max()) / network.elements(step.sources[0])
        for step in network.layers
        if (loss := calibration.losses.get(step.name)) is not None
    ]
    if not most or not max(most) > 0:
        raise ValueError("model: no layer takes what another gives; accepted: at least two layers with weights")
    return max(most)


def path(
    calibration: Calibration,
    workers: int | Sequence[Worker],
    judge: Callable[[Plan], float],
    *,
    costs: Sequence[float] | None = None,
    points: int = 9,
    links: Links | None = None,
    note: Callable[[Point], None] | None = None,
    method: Method = USUAL,
) -> list[Point]:
    """Plans along the communication cost, in its order.

    Parameters
    ----------
    calibration : Calibration
    workers : int or sequence of Worker
    judge : callable
        From a plan to its accuracy.
    costs : sequence of float, optional
        lambda_x of each; by default 0, at which all is sent and the function stays, and `points` more, evenly spaced
        in their logarithm up to :func:`silent_cost`.
    points : int
        >= 2.
    links : Links, optional
    note : callable, optional
        Told each point as it is found.
    method : Method
    """
    if points < 2:
        raise ValueError(f"points = {points!r}; accepted: a whole number >= 2")
    if costs is None:
        costs = [0.0, *(silent_cost(calibration) * np.logspace(-DECADES, 0.0, points))]
    found = []
    for cost in sorted(costs):
        found.append(point_at(calibration, workers, judge, float(cost), links, method))
        if note is not None:
            note(found[-1])
    return found


def point_at(
    calibration: Calibration,
    workers: int | Sequence[Worker],
    judge: Callable[[Plan], float],
    cost: float,
    links: Links | None,
    method: Method = USUAL,
) -> Point:
    """The point of one communication cost."""
    team = [Worker()] * workers if isinstance(workers, int) else list(workers)
    links = links or Links.equal(len(team))
    plan = split(calibration, team, cost, links=links, method=method)
    accounts = account(plan)
    return Point(cost, plan, accounts, judge(plan), accounts.latency(team, links))


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in sends, accuracy and latency at once, by falling sends."""

    def beaten(point: Point) -> bool:
        return any(_dominates(other, point) for other in points)

    return sorted((p for p in points if not beaten(p)), key=lambda p: (-p.accounts.sends, p.accuracy))


def pick(
    points: Sequence[Point], accuracy: float, *, max_drop: float | None = None, max_sends: int | None = None
) -> Point:
    """The point with the fewest sends whose accuracy drops little enough; or the most accurate with few sends.

    Parameters
    ----------
    points : sequence of Point
    accuracy : float
        Of the model itself, as judged.
    max_drop : float, optional
        Largest difference to it, e.g. 0.005.
    max_sends : int, optional
        Activations for one input.

    Raises
    ------
    OutOfReach
        If there is none; the message says what the nearest is.
    """
    if (max_drop is None) == (max_sends is None):
        raise ValueError(f"max_drop = {max_drop!r}, max_sends = {max_sends!r}; accepted: one of them")
    if max_drop is not None:
        enough = [p for p in points if p.accuracy >= accuracy - max_drop - 1e-12]
        if not enough:
            least = accuracy - max(p.accuracy for p in points)
            raise OutOfReach(
                f"max_drop = {max_drop:g}: the smallest drop of the path is {least:g}; accepted: at least that"
            )
        return min(enough, key=lambda p: (p.accounts.sends, -p.accuracy))
    few = [p for p in points if p.accounts.sends <= (max_sends or 0)]
    if not few:
        raise OutOfReach(
            f"max_sends = {max_sends}: the fewest of the path are {min(p.accounts.sends for p in points)}; accepted: "
            "at least that"
        )
    return max(few, key=lambda p: (p.accuracy, -p.accounts.sends))


def search(
    calibration: Calibration,
    workers: int | Sequence[Worker],
    judge: Callable[[Plan], float],
    *,
    max_drop: float | None = None,
    max_sends: int | None = None,
    points: int = 9,
    refinements: int = 3,
    links: Links | None = None,
    note: Callable[[Point], None] | None = None,
    method: Method = USUAL,
) -> tuple[list[Point], Point]:
    """A path, refined around what is to be picked: all points found in the order of their costs, and the pick.

    Between the pick and its neighbour with fewer sends (`max_drop`) or more (`max_sends`) the cost is bisected in its
    logarithm; next to 0 it is a tenth of the other.

    Raises
    ------
    OutOfReach
        As :func:`pick`.
    """
    accuracy = judge_model(calibration, judge)
    found = path(calibration, workers, judge, points=points, links=links, note=note, method=method)
    for _ in range(refinements):
        best = pick(found, accuracy, max_drop=max_drop, max_sends=max_sends)
        place = found.index(best)
        other = place + (1 if max_drop is not None else -1)
        if not 0 <= other < len(found) or found[other].accounts.sends == best.accounts.sends:
            break
        cost = _between(found[place].communication_cost, found[other].communication_cost)
        found.insert(max(place, other), point_at(calibration, workers, judge, cost, links, method))
        if note is not None:
            note(found[max(place, other)])
    return found, pick(found, accuracy, max_drop=max_drop, max_sends=max_sends)


def _between(one: float, other: float) -> float:
    return math.sqrt(one * other) or max(one, other) / 10


def judge_model(calibration: Calibration, judge: Callable[[Plan], float]) -> float:
    """Accuracy of the model itself, as a plan of one worker."""
    return judge(split(calibration, 1, 0.0))


def accuracy_on(inputs: Tensor, targets: Tensor) -> Callable[[Plan], float]:
    """A judge: the share of inputs whose largest output is their target, shapes (N, ...) and (N,)."""

    def judge(plan: Plan) -> float:
        with torch.no_grad():
            return float((plan.run(inputs).argmax(1) == targets).float().mean())

    return judge


def _dominates(one: Point, other: Point) -> bool:
    a = (one.accounts.sends, -one.accuracy, one.latency)
    b = (other.accounts.sends, -other.accuracy, other.latency)
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b
