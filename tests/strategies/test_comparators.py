"""GIANT, DiSCO, InexactDANE, AIDE and synchronous SGD take the steps of their papers, and count what these cost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from channel.randomness import torch_generator
from channel.uplinks import IdealUplink
from clients.app import Workplace
from clients.data import FederatedData
from clients.models import build
from clients.parameters import model_arrays
from clients.svrg import svrg
from clients.training import Trainer, Training
from strategies.dane import Aide, InexactDane
from strategies.disco import Disco
from strategies.giant import Giant
from strategies.iterative import IterativeStrategy, NobodyAnswers
from strategies.names import STRATEGIES, check_strategy
from strategies.over_the_air import OverTheAir
from strategies.synchronous_sgd import SynchronousSgd
from tests.fleet import MessageGrid, digits, flat, local_grid, workplace

L2 = 0.1  # strongly convex: conjugate gradients and stochastic steps come to their end quickly
Vector = NDArray[np.float64]
MAKE: dict[str, Callable[..., IterativeStrategy]] = {
    "giant": Giant,
    "disco": lambda **more: Disco(inner_iterations=4, inner_tolerance=1e-12, **more),
    "inexact-dane": lambda **more: InexactDane(inner_step_size=0.02, **more),
    "aide": lambda **more: Aide(tau=0.5, inner_step_size=0.02, **more),
    "synchronous-sgd": lambda **more: SynchronousSgd(learning_rate=0.1, **more),
}
every_method = pytest.mark.parametrize("name", MAKE)


def convex(devices: int = 3, rows: int = 12) -> Workplace:
    """Softmax regression without bias on digits: 640 parameters, a few rows a device."""
    data = digits(devices, rows=None)
    parts = [part[: rows + device] for device, part in enumerate(data.parts)]
    data = FederatedData(data.train, data.validation, data.test, parts, data.num_classes, data.input_shape).grouped()
    model = build("softmax", data.input_shape, data.num_classes, init="zeros", dtype=torch.float64, bias=False)
    return Workplace(Trainer(model), data, Training(0.1, full_batch=True, l2=L2), 0)


def non_convex() -> Workplace:
    """A network with a hidden layer, whose Hessian has negative eigenvalues."""
    return workplace(3, Training(0.1, full_batch=True))


class Faulty(MessageGrid):
    """Loses the replies of the last device in the exchanges whose numbers, from 1, are given."""

    def __init__(self, work: Workplace, lost: Iterable[int] = ()) -> None:
        super().__init__(local_grid(work))
        self.lost, self.exchanges = set(lost), 0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        self.exchanges += 1
        replies = list(self.inner.send_and_receive(list(messages)))
        return replies[:-1] if self.exchanges in self.lost else replies


class Without(MessageGrid):
    """As if the last device had never been there."""

    def __init__(self, work: Workplace) -> None:
        super().__init__(local_grid(work))

    def get_node_ids(self) -> Iterable[int]:
        return list(self.inner.get_node_ids())[:-1]


def perform(
    strategy: IterativeStrategy, work: Workplace, iterations: int, *, grid: MessageGrid | None = None, seed: int = 0
) -> tuple[Vector, list[dict[str, Any]]]:
    """The last iterate and the figures of a run from the model's first weights."""
    figures: list[dict[str, Any]] = []
    strategy.on_iteration = figures.append
    arrays = ArrayRecord({name: Array(np.array(a)) for name, a in model_arrays(work.trainer.model).items()})
    result = strategy.start(
        grid or MessageGrid(local_grid(work)), arrays, num_rounds=iterations, train_config=ConfigRecord({"seed": seed})
    )
    return flat(result.arrays), figures


def pooled(work: Workplace) -> tuple[Callable[[Vector], tuple[float, Vector]], Callable[[Vector, Vector], Vector]]:
    """f with its gradient, and Hessian products: means over the devices."""
    objectives = [work.objective(device) for device in range(len(work.data.parts))]

    def f(w: Vector) -> tuple[float, Vector]:
        looks = [objective.value_and_gradient(torch.from_numpy(w)) for objective in objectives]
        return float(np.mean([value for value, _ in looks])), np.mean([g.numpy() for _, g in looks], axis=0)

    def product(w: Vector, v: Vector) -> Vector:
        products = [objective.hessian(torch.from_numpy(w))(torch.from_numpy(v)) for objective in objectives]
        return np.asarray(np.mean([p.numpy() for p in products], axis=0))

    return f, product


def dense_newton(work: Workplace, w: Vector) -> Vector:
    """The Hessian's inverse times the gradient."""
    f, product = pooled(work)
    hessian = np.stack([product(w, e) for e in np.eye(len(w))])
    return np.asarray(np.linalg.solve(hessian, f(w)[1]))


def minimiser(work: Workplace) -> Vector:
    """Of f, by scipy's Newton-CG on the pooled data."""
    f, product = pooled(work)
    found = minimize(f, np.zeros(640), jac=True, hessp=product, method="Newton-CG", options={"xtol": 1e-12})
    return np.asarray(found.x)


# Each method is what its paper says.


def test_giant_on_one_device_is_newton_with_conjugate_gradients() -> None:
    work = convex(1)
    first, (figures,) = perform(Giant(inner_tolerance=1e-12, inner_iterations=300), work, 1)
    # The solve is exact to its tolerance times the condition number, some hundreds.
    np.testing.assert_allclose(first, -figures["step_size"] * dense_newton(work, np.zeros(640)), atol=1e-8)
    last, _ = perform(Giant(), work, 12)
    np.testing.assert_allclose(last, minimiser(work), atol=1e-5)


def test_giant_lowers_the_objective_in_every_iteration_by_what_armijo_asks() -> None:
    _, figures = perform(Giant(rho=0.1), convex(), 6)
    for before, after in itertools.pairwise(figures):
        assert before["slope"] < 0
        assert after["objective"] <= before["objective"] + 0.1 * before["step_size"] * before["slope"]


def test_giant_ends_where_no_step_passes() -> None:
    """With rho near 1 a convex objective falls by less than the slope promises."""
    _, figures = perform(Giant(rho=0.999, line_search_steps=1, failed_searches=2), convex(), 9)
    assert [f["step_passed"] for f in figures] == [False, False]


def test_disco_takes_the_damped_newton_step() -> None:
    work = convex()
    v = dense_newton(work, np.zeros(640))
    delta = np.sqrt(v @ pooled(work)[1](np.zeros(640), v))
    first, (figures,) = perform(Disco(inner_tolerance=1e-12, inner_iterations=300), work, 1)
    assert figures["step_size"] == pytest.approx(1 / (1 + delta), rel=1e-9)
    np.testing.assert_allclose(first, -v / (1 + delta), atol=1e-8)


def test_disco_comes_to_the_minimum() -> None:
    work = convex()
    last, figures = perform(Disco(gradient_tolerance=1e-7), work, 30)
    assert len(figures) < 30
    np.testing.assert_allclose(last, minimiser(work), atol=1e-5)


@pytest.mark.parametrize(("eta", "mu"), [(1.0, 0.0), (0.5, 0.3)])
def test_many_steps_of_svrg_solve_danes_local_problem(eta: float, mu: float) -> None:
    """With a single row there is no variance: the steps are gradient descent, and end where the gradient is 0."""
    objective = convex(1, rows=1).objective(0)
    w, g = torch.full((640,), 0.1, dtype=torch.float64), torch.linspace(-1, 1, 640, dtype=torch.float64)
    change = svrg(objective, w, eta * g, proximity=mu, step_size=0.1, steps=1500, draws=torch_generator(0, "any"))
    at_w, at_u = objective.value_and_gradient(w)[1], objective.value_and_gradient(w + change)[1]
    # Contraction 1 - step * l2 a step: 1,500 steps leave 3e-7 of the way at mu = 0.
    torch.testing.assert_close(at_u - at_w + eta * g + mu * change, torch.zeros_like(w), atol=1e-6, rtol=0)


def test_a_step_of_svrg_is_unbiased() -> None:
    """The mean over the rows of a device of the first step from another point is the full gradient's."""
    objective = convex(1).objective(0)
    w = torch.zeros(640, dtype=torch.float64)
    rows = [objective.on_rows(torch.tensor([row])).value_and_gradient(w)[1] for row in range(objective.rows)]
    torch.testing.assert_close(torch.stack(rows).mean(0), objective.value_and_gradient(w)[1])


def test_inexact_dane_on_one_device_moves_to_the_local_minimum() -> None:
    one_row = convex(1, rows=1)
    moved, _ = perform(InexactDane(inner_step_size=0.1, inner_iterations=1500), one_row, 1)
    np.testing.assert_allclose(moved, minimiser(one_row), atol=1e-5)
    work = convex(1)
    last, _ = perform(InexactDane(inner_step_size=0.05, inner_iterations=200), work, 10)
    np.testing.assert_allclose(last, minimiser(work), atol=1e-3)


def test_aide_without_tau_is_inexact_dane() -> None:
    dane, dane_figures = perform(InexactDane(mu=0.2, inner_step_size=0.02), convex(), 4)
    aide, aide_figures = perform(Aide(mu=0.2, tau=0.0, inner_step_size=0.02), convex(), 4)
    np.testing.assert_array_equal(dane, aide)
    assert dane_figures == aide_figures


def test_aide_pulls_towards_a_point_beyond_the_iterate() -> None:
    work, tau, step = convex(1), 0.5, {"step_size": 0.02, "steps": 50}
    objective, w = work.objective(0), torch.zeros(640, dtype=torch.float64)
    solve = lambda at, slope, round: svrg(  # noqa: E731
        objective, at, slope, proximity=tau, draws=torch_generator(0, "svrg rows", round, 0), **step
    )
    first: Tensor = w + solve(w, objective.value_and_gradient(w)[1], 1)
    # zeta' = .3904 solves zeta'^2 = (1 - zeta') .5^2, and beta = .5 (1 - .5) / (.5^2 + zeta') is as much here.
    beta = (np.sqrt(1.0625) - 0.25) / 2
    y = first + beta * (first - w)
    second = first + solve(first, objective.value_and_gradient(first)[1] + tau * (first - y), 2)
    found, _ = perform(Aide(tau=tau, inner_step_size=0.02), work, 2)
    np.testing.assert_allclose(found, second.numpy(), rtol=1e-12, atol=1e-15)


def test_synchronous_sgd_with_full_batches_is_gradient_descent() -> None:
    work, w = convex(), np.zeros(640)
    for _ in range(5):
        w = w - 0.3 * pooled(work)[0](w)[1]
    found, figures = perform(SynchronousSgd(learning_rate=0.3, batch_fraction=1.0), work, 5)
    np.testing.assert_allclose(found, w, atol=1e-14)
    assert figures[0]["objective"] == pytest.approx(np.log(10))


def test_each_device_draws_its_own_share_of_rows_anew_in_every_round() -> None:
    work = convex(1, rows=20)
    w, objective = torch.zeros(640, dtype=torch.float64), work.objective(0)
    for round in (1, 2):
        rows = torch.randint(20, (5,), generator=torch_generator(7, "batch rows", round, 0))
        w = w - 0.3 * objective.on_rows(rows).value_and_gradient(w)[1]
    found, _ = perform(SynchronousSgd(learning_rate=0.3, batch_fraction=0.25), work, 2, seed=7)
    np.testing.assert_allclose(found, w.numpy(), atol=1e-14)


# What all of them have in common.


@every_method
def test_figures_are_those_of_the_iterate_before_the_step(name: str) -> None:
    work = convex()
    before, _ = perform(MAKE[name](), work, 2)
    _, figures = perform(MAKE[name](), work, 3)
    f, g = pooled(work)[0](before)
    assert [row["iteration"] for row in figures] == [0, 1, 2]
    assert figures[2]["objective"] == pytest.approx(f, rel=1e-12)
    assert figures[2]["gradient_norm"] == pytest.approx(np.linalg.norm(g), rel=1e-9)
    assert figures[2]["step_size"] > 0
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


@pytest.mark.parametrize(
    ("name", "rounds", "up", "down"),
    [
        ("giant", [0, 5, 11, 17], 2, 2),  # down: gradient and direction, and at first the model
        ("disco", [0, 10, 21, 32], 5, 5),  # gradient and 4 products; model and 4 directions
        ("inexact-dane", [0, 3, 7, 11], 2, 2),
        ("aide", [0, 3, 7, 11], 2, 2),
        ("synchronous-sgd", [0, 1, 3, 5], 1, 1),
    ],
)
def test_rounds_are_counted_as_in_the_comparison_of_dingos_authors(
    name: str, rounds: list[int], up: int, down: int
) -> None:
    _, figures = perform(MAKE[name](), convex(), 4)
    assert [row["communication_rounds"] for row in figures] == rounds
    more = 1 if name == "giant" else 0
    assert [row["vectors_up"] for row in figures] == [up * (1 + t) for t in range(4)]
    assert [row["vectors_down"] for row in figures] == [down * (1 + t) + more for t in range(4)]


def test_disco_counts_the_broadcast_that_ends_a_solve_early() -> None:
    _, figures = perform(Disco(inner_tolerance=0.5), convex(), 2)
    assert figures[0]["inner_steps"] < 50
    assert figures[1]["communication_rounds"] == 2 + 2 * figures[0]["inner_steps"] + 1


@every_method
def test_a_device_that_vanishes_on_the_way_is_left_out_of_the_whole_iteration(name: str) -> None:
    lost = 2  # in the second exchange: of SGD the first that counts, of the others amid the iteration
    with_fault, figures = perform(MAKE[name](), convex(), 1, grid=Faulty(convex(), {lost}))
    without, undisturbed = perform(MAKE[name](), convex(), 1, grid=Without(convex()))
    np.testing.assert_array_equal(with_fault, without)
    if name != "synchronous-sgd":  # the figures of which are of all who were there
        assert figures[0]["objective"] == undisturbed[0]["objective"]
        assert figures[0]["vectors_up"] > undisturbed[0]["vectors_up"]


@every_method
def test_a_device_that_was_away_takes_part_again(name: str) -> None:
    grid = Faulty(convex(), {2})
    _, figures = perform(MAKE[name](), convex(), 8, grid=grid)
    assert len(figures) == 8
    assert figures[-1]["objective"] < figures[0]["objective"]


@every_method
def test_nobody_answering_is_an_error(name: str) -> None:
    class Deaf(MessageGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
            return []

    with pytest.raises(NobodyAnswers, match="none of 3 devices answered"):
        perform(MAKE[name](), convex(), 1, grid=Deaf(local_grid(convex())))


@every_method
def test_an_ideal_uplink_changes_nothing(name: str) -> None:
    work = convex()
    plain, _ = perform(MAKE[name](), work, 3)
    arrays = ArrayRecord({n: Array(np.zeros_like(a)) for n, a in model_arrays(work.trainer.model).items()})
    strategy = OverTheAir(MAKE[name](), IdealUplink())
    result = strategy.start(local_grid(work), arrays, num_rounds=3, train_config=ConfigRecord({"seed": 0}))
    # Symbols are scaled to unit power and back, which rounds.
    np.testing.assert_allclose(flat(result.arrays), plain, atol=1e-9)


@pytest.mark.parametrize("name", ["inexact-dane", "aide", "synchronous-sgd"])
def test_the_seed_fixes_what_devices_draw(name: str) -> None:
    once, again, other = (perform(MAKE[name](), convex(), 2, seed=seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, other)


@pytest.mark.parametrize("strategy", [Giant, Disco])
def test_negative_curvature_ends_the_run_with_a_reason(strategy: type[Giant] | type[Disco]) -> None:
    work = non_convex()
    first = np.concatenate([a.ravel() for a in model_arrays(work.trainer.model).values()])
    last, figures = perform(strategy(inner_tolerance=1e-10, inner_iterations=100), work, 5)
    assert "non-positive curvature" in figures[-1]["stopped"]
    assert figures[-1]["step_size"] == 0
    assert not any("stopped" in row for row in figures[:-1])
    if len(figures) == 1:
        np.testing.assert_array_equal(last, first)


def test_giant_goes_downhill_through_negative_curvature_with_truncated_solves() -> None:
    made = Giant(inner_tolerance=1e-10, inner_iterations=100, negative_curvature="truncate")
    _, figures = perform(made, non_convex(), 5)
    assert len(figures) == 5
    assert any(row["failed_solves"] for row in figures)
    assert all(row["step_passed"] and row["slope"] < 0 for row in figures)


def test_disco_goes_on_through_negative_curvature_with_truncated_solves() -> None:
    """Downhill or not: it has no line search."""
    made = Disco(inner_tolerance=1e-10, inner_iterations=100, negative_curvature="truncate")
    _, figures = perform(made, non_convex(), 5)
    assert len(figures) == 5
    assert all(row["objective"] is not None and 0 < row["step_size"] <= 1 for row in figures)


@pytest.mark.parametrize(
    "strategy",
    [
        Aide(tau=1e3, inner_step_size=1.0),
        InexactDane(mu=1e3, inner_step_size=1e6),
        SynchronousSgd(learning_rate=1e200),
    ],
    ids=["AIDE", "InexactDANE", "synchronous SGD"],
)
def test_steps_far_too_large_end_the_run_with_a_reason(strategy: IterativeStrategy) -> None:
    _, figures = perform(strategy, convex(), 20)
    assert figures[-1]["stopped"].startswith("diverged")
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_watching_a_run_costs_nothing() -> None:
    # Synchronous SGD asks for the objective of all rows in each iteration, which is nobody's to send.
    records: list[dict[str, Any]] = []
    work = convex()
    start = ArrayRecord({name: Array(a) for name, a in model_arrays(work.trainer.model).items()})
    strategy = OverTheAir(SynchronousSgd(learning_rate=0.1), IdealUplink(), on_exchange=records.append)
    strategy.start(local_grid(work), start, num_rounds=3)
    assert strategy.air is not None
    assert strategy.air.ledger.bits_mean == 3 * (32 * work.trainer.size + 64)
    assert not any("control_bits" in record for record in records)


# Parameters.


@pytest.mark.parametrize("name", MAKE)
def test_every_value_of_the_tuning_grid_is_accepted(name: str) -> None:
    kind = STRATEGIES[name].load()
    grid: Mapping[str, Iterable[Any]] = kind.TUNING_GRID
    for values in itertools.product(*grid.values()):
        parameters = dict(zip(grid, values, strict=True))
        check_strategy(name, parameters)
        kind(**parameters)


@pytest.mark.parametrize(
    ("kind", "parameter", "value"),
    [
        (Giant, "rho", 1.0),
        (Giant, "line_search_steps", 0),
        (Giant, "negative_curvature", "ignore"),
        (Disco, "inner_tolerance", 0.0),
        (Disco, "inner_iterations", 2.5),
        (InexactDane, "eta", 0.0),
        (InexactDane, "mu", -1.0),
        (Aide, "tau", -1.0),
        (Aide, "zeta", 1.0),
        (SynchronousSgd, "learning_rate", float("inf")),
        (SynchronousSgd, "batch_fraction", 0.0),
    ],
)
def test_a_parameter_out_of_range_is_refused_by_name(kind: Callable[..., object], parameter: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{parameter} = .*accepted: "):
        kind(**{parameter: value})
