"""DINGO's choices, on problems that force them, and what it does when devices fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel import IdealUplink
from channel.order import SYMBOLS_KEY, TRANSMISSION_KEY
from clients.training import Training
from strategies import OverTheAir
from strategies.dingo import Dingo, NobodyAnswers
from tests import fleet
from tests.strategies.quadratics import (
    Quadratic,
    TamperedGrid,
    Vector,
    grid_of,
    random_quadratics,
    textbook,
    zeros,
)

Figures = list[dict[str, Any]]

EXACT: Any = {"inner_tolerance": 1e-14, "inner_iterations": 100}
"""Solves that end where rounding ends them, for six dimensions."""


def run(
    grid: Grid, iterations: int = 4, *, air: bool = False, start: ArrayRecord | None = None, **parameters: Any
) -> tuple[Vector, Figures]:
    """The last iterate, and the figures of each iteration."""
    figures: Figures = []
    strategy = Dingo(on_iteration=figures.append, **parameters)
    chosen = OverTheAir(strategy, IdealUplink()) if air else strategy
    result = chosen.start(grid, zeros() if start is None else start, num_rounds=iterations)
    return fleet.flat(result.arrays), figures


def by_the_book(
    problems: list[Quadratic], sets: list[set[int]], w: Vector | None = None, **parameters: Any
) -> tuple[Vector, list[Any]]:
    """The last iterate of the textbook's DINGO, each iteration by its own set of devices."""
    w, steps = np.zeros(problems[0].size) if w is None else w, []
    for devices in sets:
        steps.append(textbook(problems, w, devices=devices, **parameters))
        w = steps[-1].w
    return w, steps


# The three cases and the line search.


def nearly_flat() -> list[Quadratic]:
    """A direction of slight negative curvature, whose inverse points far uphill; damping takes it away."""
    one, other = np.diag([1.0, -1e-4]), np.diag([1.0, 2.0])
    return [Quadratic(one, np.array([-1.0, -1.0])), Quadratic(other, np.array([-1.0, -1.0]))]


def partly_steep() -> tuple[list[Quadratic], float]:
    """Three devices, and a theta between the slopes of their own directions and above that of the mean."""
    problems = random_quadratics(3, seed=4)
    g = np.mean([-q.b for q in problems], axis=0)
    curved = np.mean([q.a for q in problems], axis=0) @ g
    slopes = [float(np.linalg.solve(q.a, g) @ curved) for q in problems]
    return problems, float(np.mean(slopes) + max(slopes)) / 2 / float(g @ g)


STEEP, STEEP_THETA = partly_steep()

CASES: dict[str, tuple[list[Quadratic], dict[str, Any], int]] = {
    "the mean of the inverses goes downhill": (random_quadratics(3), {}, 1),
    "only the damped inverses do": (nearly_flat(), {"phi": 0.1}, 2),
    "every device turns its own": (random_quadratics(3), {"theta": 100.0}, 3),
    "some devices need not": (STEEP, {"theta": STEEP_THETA}, 3),
}


@pytest.mark.parametrize("air", [False, True], ids=["plain grid", "over an ideal uplink"])
@pytest.mark.parametrize("exchange", ["lean", "official"])
@pytest.mark.parametrize("name", CASES)
def test_each_case_is_taken_where_the_textbook_takes_it_and_goes_where_it_goes(
    name: str, exchange: str, air: bool
) -> None:
    problems, parameters, case = CASES[name]
    start = zeros(problems[0].size)
    expected, steps = by_the_book(problems, [{*range(len(problems))}] * 3, **parameters)
    assert steps[0].case == case
    w, figures = run(grid_of(problems), 3, air=air, start=start, exchange=exchange, **EXACT, **parameters)
    for row, step in zip(figures, steps, strict=True):
        assert (row["case"], row["step_size"], row["step_passed"]) == (step.case, step.step_size, step.passed)
        assert row["slope"] == pytest.approx(step.slope, rel=1e-6)
        theta = parameters.get("theta", 1e-4)
        assert row["slope"] <= -theta * row["gradient_norm"] ** 2 * (1 - 1e-9)
    # Solves to rounding, of condition up to (20 / phi)^2 in case 3.
    np.testing.assert_allclose(w, expected, rtol=0, atol=1e-6 * max(1.0, float(np.abs(expected).max())))


def test_the_constructions_are_what_they_say() -> None:
    g = np.array([1.0, 1.0])
    h = np.mean([q.a for q in nearly_flat()], axis=0)
    inverses = np.mean([np.linalg.inv(q.a) @ g for q in nearly_flat()], axis=0)
    assert inverses @ h @ g < 0
    g = np.mean([-q.b for q in STEEP], axis=0)
    curved = np.mean([q.a for q in STEEP], axis=0) @ g
    steep = [float(np.linalg.solve(q.a, g) @ curved) >= STEEP_THETA * float(g @ g) for q in STEEP]
    assert {*steep} == {True, False}


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    devices=st.integers(1, 5),
    theta=st.sampled_from([1e-4, 0.5, 3.0, 100.0]),
    rho=st.sampled_from([1e-4, 0.5, 0.99]),
    iterations=st.sampled_from([1, 3, 50]),
)
def test_whatever_the_case_the_slope_meets_its_bound_and_the_step_is_the_largest_that_passes(
    seed: int, devices: int, theta: float, rho: float, iterations: int
) -> None:
    """However rough the solves are: on a quadratic the gradient along the line is a matter of two products."""
    problems = random_quadratics(devices, seed=seed)
    h, b = np.mean([q.a for q in problems], axis=0), np.mean([q.b for q in problems], axis=0)
    w, figures = run(grid_of(problems), 1, theta=theta, rho=rho, inner_iterations=iterations)
    (row,) = figures
    g, p = -b, w / row["step_size"]
    assert row["slope"] == pytest.approx(float(p @ h @ g), rel=1e-9)
    assert row["slope"] <= -theta * float(g @ g) * (1 - 1e-9)

    def excess(size: float) -> float:
        """Above 0 where the step fails, in parts of ||g||^2."""
        there = g + size * (h @ p)
        return float(there @ there - g @ g - 2 * size * rho * row["slope"]) / float(g @ g)

    assert row["step_passed"]
    assert excess(row["step_size"]) < 1e-9
    assert row["step_size"] == 1 or excess(2 * row["step_size"]) > -1e-9


def test_one_device_makes_a_newton_step_to_the_minimum() -> None:
    (problem,) = random_quadratics(1)
    w, figures = run(grid_of([problem]), 10, **EXACT)
    np.testing.assert_allclose(w, np.linalg.solve(problem.a, problem.b), rtol=0, atol=1e-10)
    assert [row["step_size"] for row in figures] == [1.0]


def test_a_search_without_a_passing_step_takes_the_smallest_and_says_so() -> None:
    # The step that just passes is 2 (1 - rho) |<p, Hg>| / ||Hp||^2: too small for the search if rho is near 1.
    problems = random_quadratics(3)
    parameters: dict[str, Any] = {"rho": 1 - 1e-9, "line_search_steps": 3}
    w, figures = run(grid_of(problems), 10, failed_searches=2, **EXACT, **parameters)
    assert [(row["step_size"], row["step_passed"]) for row in figures] == [(0.25, False)] * 2
    expected, _ = by_the_book(problems, [{0, 1, 2}] * 2, **parameters)
    np.testing.assert_allclose(w, expected, rtol=1e-9)


def test_a_search_that_finds_a_step_again_starts_the_count_of_failures_anew() -> None:
    class Bumpy(Quadratic):
        """Whose trial steps of the second and fourth iteration look bad."""

        searches = 0

        def along(self, *arguments: Any, **keywords: Any) -> Any:
            values, gradients = super().along(*arguments, **keywords)
            type(self).searches += 1
            assert gradients is not None
            return values, gradients * (1e3 if self.searches in (2, 4) else 1)

    problem = random_quadratics(1)[0]
    _, figures = run(
        grid_of([Bumpy(problem.a, problem.b)]), 5, line_search_steps=1, failed_searches=2, inner_iterations=1,
        theta=1e-6,
    )  # fmt: skip
    assert [row["step_passed"] for row in figures] == [True, False, True, False, True]


def test_it_ends_where_the_gradient_is_small_enough() -> None:
    problems = random_quadratics(3)
    _, all_of_them = run(grid_of(problems), 12, gradient_tolerance=0.0, **EXACT)
    norms = [row["gradient_norm"] for row in all_of_them]
    tolerance = norms[6] * 1.0001
    _, figures = run(grid_of(problems), 12, gradient_tolerance=tolerance, **EXACT)
    assert [row["gradient_norm"] for row in figures] == norms[: next(k for k, n in enumerate(norms) if n <= tolerance)]


# Exchanges.


def digits_run(grid_of: Callable[[Any], Grid] = fleet.local_grid, air: bool = False, **parameters: Any) -> Any:
    """Three iterations on a small network's digits, whose Hessians are indefinite; few enough inner ones that Krylov
    spaces do not magnify rounding."""
    work = fleet.workplace(4, Training(0.0, l2=0.05))
    return run(grid_of(work), 3, air=air, start=fleet.initial(work), inner_iterations=4, **parameters)


def test_lean_exchanges_give_the_same_iterates_with_fewer_vectors() -> None:
    # Gradients of a block of trial steps are one matrix product: other blocks, other rounding.
    for theta in (1e-4, 0.3, 10.0):
        (lean, few), (official, many) = (digits_run(exchange=e, theta=theta) for e in ("lean", "official"))
        np.testing.assert_allclose(lean, official, rtol=0, atol=1e-7)
        for a, b in zip(few, many, strict=True):
            assert (a["case"], a["step_size"]) == (b["case"], b["step_size"])
            assert a["vectors_up"] < b["vectors_up"]
            assert a["scalars_up"] < b["scalars_up"]
            assert a["vectors_down"] == b["vectors_down"]


def test_on_quadratics_lean_and_official_iterates_are_the_same_bits() -> None:
    for problems, parameters, _ in CASES.values():
        start = zeros(problems[0].size)
        lean, _ = run(grid_of(problems), start=start, exchange="lean", **parameters)
        official, _ = run(grid_of(problems), start=start, exchange="official", **parameters)
        assert np.array_equal(lean, official)


def test_the_books_count_what_goes_over_a_devices_links() -> None:
    """Official: 1 gradient; then 3 vectors and 50 gradients with 50 values an iteration. Down: model, gradient, p."""
    _, figures = run(grid_of(random_quadratics(3)), 2, exchange="official")
    assert [row["vectors_up"] for row in figures] == [54, 107]
    assert [row["vectors_down"] for row in figures] == [3, 5]
    assert [row["scalars_up"] for row in figures] == [51, 101]
    assert [row["communication_rounds"] for row in figures] == [0, 5]


def test_the_books_of_lean_exchanges_count_only_the_blocks_that_were_sent() -> None:
    """1 gradient, Hg and H^+ g, and blocks of 1, 2, 4, ... trial steps up to the one with the step taken."""
    _, (row,) = run(grid_of(random_quadratics(3)), 1)
    exponent = round(-np.log2(row["step_size"]))
    blocks = next(blocks for blocks in range(1, 7) if exponent < 2**blocks - 1)
    assert row["vectors_up"] == 3 + 2**blocks - 1
    assert row["scalars_up"] == 1 + 2**blocks - 1


def test_every_grid_gives_the_same_iterates() -> None:
    expected, _ = digits_run()
    for grid, air in ((fleet.message_grid, False), (fleet.local_grid, True), (fleet.message_grid, True)):
        w, _ = digits_run(grid, air)
        # The same means of four, added in another order; three iterations magnify it by the solves' condition.
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-8)


def test_the_number_of_workers_does_not_matter() -> None:
    (alone, figures), *others = (digits_run(lambda work, n=n: fleet.local_grid(work, workers=n)) for n in (1, 2, 3))
    for w, their_figures in others:
        assert np.array_equal(w, alone)
        assert their_figures == figures


def test_single_precision_ends_near_double() -> None:
    problems = random_quadratics(3)
    double, _ = run(grid_of(problems), 6)
    single, figures = run(grid_of(problems), 6, start=zeros(dtype=np.float32))
    assert single.dtype == np.float32
    assert all(row["slope"] < 0 for row in figures)
    # Rounding to 6e-8, magnified by the inverse of the smallest eigenvalue in each of six iterations.
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-3)


def test_a_run_tells_the_server_side_evaluation_every_iterate() -> None:
    seen: dict[int, Vector] = {}

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
        seen[round] = fleet.flat(arrays)
        return MetricRecord({"distance": float(np.linalg.norm(seen[round]))})

    result: Result = Dingo().start(grid_of(random_quadratics(2)), zeros(), num_rounds=3, evaluate_fn=evaluate)
    assert list(seen) == [0, 1, 2, 3] == list(result.evaluate_metrics_serverapp)
    assert np.array_equal(seen[0], np.zeros(6))
    assert np.array_equal(seen[3], fleet.flat(result.arrays))


# Devices that fail.


# Symbols are of unit power and are added up in another order: 1e-16, by the condition of 20 and some iterations.
ROUNDING = 1e-11

on_both_links = pytest.mark.parametrize("air", [False, True], ids=["plain grid", "over an ideal uplink"])


@on_both_links
def test_a_device_that_never_answers_is_left_out(air: bool) -> None:
    problems = random_quadratics(3)
    grid = TamperedGrid(grid_of(problems), lambda device, _action, _round, reply: None if device == 1 else reply)
    w, figures = run(grid, air=air, **EXACT)
    alone, without = run(grid_of([problems[0], problems[2]]), air=air, **EXACT)
    np.testing.assert_allclose(w, alone, rtol=0, atol=ROUNDING)
    assert [row["case"] for row in figures] == [row["case"] for row in without]


@on_both_links
@pytest.mark.parametrize("action", ["gradient", "directions", "damped", "correction", "trial"])
def test_a_device_that_vanishes_restarts_the_iteration_and_is_taken_in_again_when_it_is_back(
    action: str, air: bool
) -> None:
    problems = random_quadratics(3)
    parameters: dict[str, Any] = {"theta": 100.0}
    gone = 1 if action == "gradient" else 2  # the gradient is asked for by itself in the first iteration only

    def lose(device: int, what: str, round: int, reply: Message) -> Message | None:
        return None if (device, what, round) == (1, action, gone) else reply

    grid = TamperedGrid(grid_of(problems), lose)
    w, figures = run(grid, 4, air=air, **EXACT, **parameters)
    sets = [{0, 2} if round == gone else {0, 1, 2} for round in (1, 2, 3, 4)]
    expected, steps = by_the_book(problems, sets, **parameters)
    assert [row["step_size"] for row in figures] == [step.step_size for step in steps]
    np.testing.assert_allclose(w, expected, rtol=1e-6)
    # Back again, it gets the whole model with the others before anything is asked of it.
    back = [asked for asked in grid.asked if asked[0] == gone + 1]
    assert back[0] == (gone + 1, "gradient", [0, 1, 2])
    assert all(devices == [0, 1, 2] for _, _, devices in back)
    if action != "gradient":
        again = [asked for asked in grid.asked if asked[0] == gone and asked[2] == [0, 2]]
        assert again[0] == (gone, "gradient", [0, 2])
    assert next(what for round, what, _ in grid.asked if round == gone + 2) == "directions"


def test_devices_may_vanish_one_after_the_other() -> None:
    problems = random_quadratics(4)

    def lose(device: int, what: str, round: int, reply: Message) -> Message | None:
        return None if (round == 2 and (device, what) in ((3, "directions"), (0, "trial"))) else reply

    grid = TamperedGrid(grid_of(problems), lose)
    w, _ = run(grid, 3, **EXACT)
    # Device 3 is gone at the first attempt already, device 0 at the second.
    expected, _ = by_the_book(problems, [{0, 1, 2, 3}, {1, 2}, {0, 1, 2, 3}])
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_a_device_that_forgets_everything_is_missing_once_and_then_sent_the_model() -> None:
    problems = random_quadratics(3)
    grid = grid_of(problems)

    def forget(device: int, what: str, round: int, reply: Message) -> Message:
        if (device, what, round) == (2, "directions", 2):
            grid.team.here.contexts.pop(2)
        return reply

    tampered = TamperedGrid(grid, forget)
    w, _ = run(tampered, 3, **EXACT)
    expected, _ = by_the_book(problems, [{0, 1, 2}, {0, 1}, {0, 1, 2}])
    np.testing.assert_allclose(w, expected, rtol=1e-6)


def test_processes_started_anew_for_each_message_give_the_same_bits() -> None:
    problems = random_quadratics(3)
    grid = grid_of(problems)

    def restart(device: int, _what: str, _round: int, reply: Message) -> Message:
        contexts = grid.team.here.contexts
        contexts[device] = context_from_proto(context_to_proto(contexts[device]))
        return reply

    for theta in (1e-4, 100.0):
        w, _ = run(TamperedGrid(grid, restart), theta=theta)
        expected, _ = run(grid_of(problems), theta=theta)
        assert np.array_equal(w, expected)


def vectors_of(reply: Message) -> ArrayRecord:
    return reply.content.array_records["vectors"]


def entry(value: float) -> Callable[[Message], None]:
    """Put a value into the first vector."""

    def change(reply: Message) -> None:
        record = vectors_of(reply)
        name = next(iter(record))
        vector = record[name].numpy().copy()
        vector.flat[0] = value
        record[name] = Array(vector)

    return change


def with_first(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Callable[[Message], None]:
    def changed(reply: Message) -> None:
        record = vectors_of(reply)
        name = next(iter(record))
        record[name] = Array(np.ascontiguousarray(change(record[name].numpy())))

    return changed


def without_first(reply: Message) -> None:
    vectors_of(reply).pop(next(iter(vectors_of(reply))))


def unreadable(reply: Message) -> None:
    record = vectors_of(reply)
    name = next(iter(record))
    record[name] = Array(dtype="float64", shape=(6,), stype="numpy.ndarray", data=b"nonsense")


def metric(name: str, value: Any) -> Callable[[Message], None]:
    """Set a metric where the device says it, or take it away (None)."""

    def change(reply: Message) -> None:
        metrics = reply.content.metric_records["metrics"]
        if name in metrics:
            metrics.pop(name)
            if value is not None:
                metrics[name] = value

    return change


def fewer(reply: Message) -> None:
    metrics = reply.content.metric_records["metrics"]
    if "objectives" in metrics:
        metrics["objectives"] = [*metrics["objectives"], 1.0]  # type: ignore[misc]


CORRUPTIONS: dict[str, Callable[[Message], None]] = {
    "a NaN": entry(float("nan")),
    "an infinity": entry(float("inf")),
    "too short": with_first(lambda vector: vector.reshape(-1)[:-1]),
    "too long": with_first(lambda vector: np.append(vector, 0.0)),
    "complex": with_first(lambda vector: vector.astype(complex)),
    "text": with_first(lambda vector: vector.astype(str)),
    "unreadable": unreadable,
    "a vector too few": without_first,
    "a vector too many": lambda reply: vectors_of(reply).__setitem__("more", Array(np.zeros(6))),
    "no vectors": lambda reply: reply.content.__delitem__("vectors"),
    "no metrics": lambda reply: reply.content.__delitem__("metrics"),
    "no weight": metric("weight", None),
    "a negative weight": metric("weight", -1.0),
    "an infinite weight": metric("weight", float("inf")),
    "a weight that is none": metric("weight", [1.0]),
    "no value": metric("objective", None),
    "a value that is none": metric("objective", float("nan")),
    "several values for one": metric("objective", [1.0, 2.0]),
    "no values": metric("objectives", None),
    "values that are none": metric("objectives", [float("nan")]),
    "more values than steps": fewer,
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupt_reply_counts_as_none(name: str) -> None:
    problems = random_quadratics(3)

    def corrupt(device: int, _what: str, _round: int, reply: Message) -> Message:
        if device == 1:
            CORRUPTIONS[name](reply)
        return reply

    w, _ = run(TamperedGrid(grid_of(problems), corrupt), 3, **EXACT)
    alone, _ = run(grid_of([problems[0], problems[2]]), 3, **EXACT)
    np.testing.assert_allclose(w, alone, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("air", [False, True], ids=["plain grid", "over an ideal uplink"])
@pytest.mark.parametrize("devices", [{1}, {0, 1, 2}])
def test_a_number_in_a_list_of_its_own_is_that_number(devices: set[int], air: bool) -> None:
    problems = random_quadratics(3)

    def wrapped(device: int, _what: str, _round: int, reply: Message) -> Message:
        metrics = reply.content.metric_records["metrics"]
        if device in devices and "objective" in metrics:
            metrics["objective"] = [metrics["objective"]]  # type: ignore[list-item]
        return reply

    w, figures = run(TamperedGrid(grid_of(problems), wrapped), 3, air=air, **EXACT)
    plain, expected = run(grid_of(problems), 3, air=air, **EXACT)
    assert np.array_equal(w, plain)
    assert [row["objective"] for row in figures] == [row["objective"] for row in expected]


def symbols(value: float) -> Callable[[Message], None]:
    def change(reply: Message) -> None:
        record = reply.content.array_records[SYMBOLS_KEY]
        name = next(iter(record))
        record[name] = Array(np.full_like(record[name].numpy(), value))

    return change


def said(key: str, value: Any) -> Callable[[Message], None]:
    """What the device says about its first vector."""

    def change(reply: Message) -> None:
        transmission = reply.content.config_records[TRANSMISSION_KEY]
        name = next(iter(reply.content.array_records[SYMBOLS_KEY]))
        transmission[f"{name}.{key}"] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        symbols(float("nan")), said("norm", float("nan")), said("norm", -1.0), said("norm", 1e300), said("size", 5),
        lambda reply: reply.content.__delitem__(SYMBOLS_KEY),
        *(CORRUPTIONS[name] for name in CORRUPTIONS if "value" in name or "weight" in name or name == "no metrics"),
    ],
)  # fmt: skip
def test_a_corrupt_transmission_counts_as_none(change: Callable[[Message], None]) -> None:
    problems = random_quadratics(3)

    def corrupt(device: int, _what: str, _round: int, reply: Message) -> Message:
        if device == 1:
            change(reply)
        return reply

    w, _ = run(TamperedGrid(grid_of(problems), corrupt), 3, air=True, **EXACT)
    alone, _ = run(grid_of([problems[0], problems[2]]), 3, air=True, **EXACT)
    np.testing.assert_allclose(w, alone, rtol=0, atol=ROUNDING)


class Overflowing(Quadratic):
    """Whose value and gradient are no numbers a full step away, as a deep network's may be."""

    def along(self, w: torch.Tensor, p: torch.Tensor, steps: Any, *, gradients: bool) -> Any:
        values, slopes = super().along(w, p, steps, gradients=gradients)
        assert slopes is not None
        for k, step in enumerate(steps):
            if step > 0.3:
                values[k] = float("nan")
                slopes[k] = float("inf")
        return values, slopes


@on_both_links
def test_a_trial_step_that_overflows_does_not_pass_and_costs_no_device_its_place(air: bool) -> None:
    (problem,) = random_quadratics(1)
    problems = [Overflowing(problem.a, problem.b), problem]
    w, figures = run(grid_of(problems), 1, air=air, **EXACT)
    assert [row["step_size"] for row in figures] == [0.25]
    np.testing.assert_allclose(w, np.linalg.solve(problem.a, problem.b) / 4, rtol=0, atol=1e-9)


def test_after_a_search_that_overflows_to_the_end_the_iterate_is_looked_at_anew() -> None:
    (problem,) = random_quadratics(1)
    grid = TamperedGrid(grid_of([Overflowing(problem.a, problem.b)]), lambda *given: given[-1])
    _, figures = run(grid, 2, line_search_steps=1, **EXACT)
    assert [row["step_passed"] for row in figures] == [False]
    # The step led to the minimum, only the search could not see it: nothing is left to gain in the next iteration.
    assert [asked for asked in grid.asked if asked[0] == 2] == [(2, "gradient", [0])]


@on_both_links
@pytest.mark.parametrize("action", ["gradient", "directions", "trial"])
def test_if_nobody_answers_any_more_the_run_ends_and_says_why(action: str, air: bool) -> None:
    def refuse(_device: int, what: str, _round: int, reply: Message) -> Message | None:
        return fleet.error_reply(reply, "the battery is empty") if what == action else reply

    grid = TamperedGrid(grid_of(random_quadratics(3)), refuse)
    with pytest.raises(NobodyAnswers, match=rf"DINGO: none of 3 devices answered.*{action}.*the battery is empty"):
        run(grid, air=air)


@on_both_links
def test_devices_that_say_nothing_at_all_end_the_run_as_well(air: bool) -> None:
    grid = TamperedGrid(grid_of(random_quadratics(3)), lambda *_: None)
    with pytest.raises(NobodyAnswers, match=r"DINGO: none of 3 devices answered.*no reply"):
        run(grid, air=air)


def test_a_model_that_the_devices_cannot_take_in_is_their_answer() -> None:
    """Running statistics, say, are in the model's state, but nothing that a gradient has an entry for."""
    with pytest.raises(NobodyAnswers, match=r"none of 2 devices answered.*'gradient'.*5.*6"):
        run(grid_of(random_quadratics(2, size=5)), start=zeros(6))


# Parameters.


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"theta": 0.0}, "theta = 0.0: accepted: a finite number > 0"),
        ({"theta": float("nan")}, "theta = nan: accepted: a finite number > 0"),
        ({"phi": -1e-6}, "phi = -1e-06: accepted: a finite number > 0"),
        ({"phi": float("inf")}, "phi = inf: accepted: a finite number > 0"),
        ({"rho": 1.0}, "rho = 1.0: accepted: a number > 0 and < 1"),
        ({"rho": 0.0}, "rho = 0.0: accepted: a finite number > 0"),
        ({"gradient_tolerance": -1.0}, "gradient_tolerance = -1.0: accepted: a finite number >= 0"),
        ({"inner_tolerance": 0.0}, "inner_tolerance = 0.0: accepted: a finite number > 0"),
        ({"inner_iterations": 0}, "inner_iterations = 0: accepted: an integer >= 1"),
        ({"inner_iterations": 2.5}, "inner_iterations = 2.5: accepted: an integer >= 1"),
        ({"inner_iterations": float("nan")}, "inner_iterations = nan: accepted: an integer >= 1"),
        ({"inner_iterations": float("inf")}, "inner_iterations = inf: accepted: an integer >= 1"),
        ({"line_search_steps": 0}, "line_search_steps = 0: accepted: an integer >= 1"),
        ({"failed_searches": -1}, "failed_searches = -1: accepted: an integer >= 1"),
        ({"exchange": "oficial"}, "exchange = 'oficial': accepted: lean, official"),
    ],
)
def test_a_parameter_out_of_range_is_refused_with_what_is_accepted(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Dingo(**parameters)


def test_a_run_can_be_made_again() -> None:
    strategy, grid = Dingo(), grid_of(random_quadratics(2))
    first, second = (fleet.flat(strategy.start(grid, zeros(), num_rounds=2).arrays) for _ in range(2))
    assert np.array_equal(first, second)
