"""DINGO over the air: exact without noise, never led astray by it, within its energy, and refused where it fails."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel import (
    AnalogUplink,
    Channel,
    ChannelInversion,
    FullPower,
    IdealUplink,
    MinimumMSE,
    PowerControl,
    RandomLinearCode,
    Rayleigh,
    TruncatedInversion,
    Uncoded,
    Uplink,
)
from channel.frame import Frame
from channel.randomness import key
from clients.app import Workplace, client_app
from clients.data import FederatedData, load
from clients.dingo_over_the_air import solve_to_noise
from clients.models import build
from clients.parameters import model_arrays
from clients.training import Trainer, Training
from fedmac.engines.local import FIRST_NODE
from fedmac.learn import learn
from fedmac.learning_task import LearningTask
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from strategies import OverTheAir
from strategies.dingo import Dingo
from strategies.dingo_over_the_air import Safeguards
from tests import fleet
from tests.fleet import Tamper

SCALARS = 1 + 2 + 17
"""A device's answer to a certificate: its weight, slope and curvature, and f at w and at 16 steps."""


def workplace(devices: int = 4, rows: int | None = None, seed: int = 0) -> Workplace:
    """Softmax regression on digits, in equal random parts."""
    data = load("digits", devices=devices, partition="iid", seed=seed, dtype=torch.float64)
    if rows is not None:
        parts = [part[:rows] for part in data.parts]
        data = FederatedData(data.train, data.validation, data.test, parts, data.num_classes, data.input_shape)
    model = build("softmax", data.input_shape, data.num_classes, bias=False, init="zeros", dtype=torch.float64)
    return Workplace(Trainer(model), data.grouped(), Training(0.1, l2=1e-3), seed=seed)


@dataclass
class Outcome:
    """A run, and all that can be seen of it."""

    w: NDArray[Any]
    figures: list[dict[str, Any]]
    exchanges: list[dict[str, Any]]
    strategy: OverTheAir

    def all(self, key: str) -> list[Any]:
        return [figures[key] for figures in self.figures]


def run(
    uplink: Uplink,
    iterations: int,
    work: Workplace | None = None,
    *,
    grid: Grid | None = None,
    seed: int = 0,
    **given: Any,
) -> Outcome:
    """Run DINGO over `uplink` from the zero model."""
    work = work or workplace()
    figures: list[dict[str, Any]] = []
    exchanges: list[dict[str, Any]] = []
    strategy = OverTheAir(Dingo(on_iteration=figures.append, **given), uplink, seed=seed, on_exchange=exchanges.append)
    start = ArrayRecord({name: Array(a) for name, a in model_arrays(work.trainer.model).items()})
    result = strategy.start(grid or fleet.local_grid(work), start, num_rounds=iterations)
    json.dumps([figures, exchanges], allow_nan=False)
    return Outcome(fleet.flat(result.arrays), figures, exchanges, strategy)


def air(control: PowerControl | None = None, snr_db: float = 0.0, **given: Any) -> AnalogUplink:
    """Rayleigh fading at an SNR of each channel use and unit gain."""
    channel = Channel(Rayleigh(), noise_power=10 ** (-snr_db / 10))
    return AnalogUplink(Uncoded(), control or ChannelInversion(), channel, **given)


# Without noise.


def test_without_noise_the_iterates_are_those_of_an_ideal_link() -> None:
    # Few steps of a solve: Lanczos vectors that have lost their orthogonality magnify any difference.
    ideal = run(IdealUplink(), 5, over_the_air="safe", inner_iterations=5)
    quiet = run(air(snr_db=200.0), 5, inner_iterations=5)
    assert ideal.all("step_size") == quiet.all("step_size")
    # The noise's amplitude is 1e-10 of the signal's; the iterates differ by what the solves magnify it to.
    np.testing.assert_allclose(quiet.w, ideal.w, rtol=0, atol=1e-6 * np.abs(ideal.w).max())
    assert ideal.figures[-1]["noise"] == 0.0
    assert ideal.figures[-1]["eta"] == 0.0


def test_on_a_plain_grid_the_iterates_are_those_of_an_ideal_link() -> None:
    work, figures = workplace(), list[dict[str, Any]]()
    start = ArrayRecord({name: Array(a) for name, a in model_arrays(work.trainer.model).items()})
    strategy = Dingo(over_the_air="safe", inner_iterations=5, on_iteration=figures.append)
    plain = strategy.start(fleet.local_grid(work), start, num_rounds=4)
    ideal = run(IdealUplink(), 4, over_the_air="safe", inner_iterations=5)
    assert ideal.all("step_size") == [f["step_size"] for f in figures]
    np.testing.assert_allclose(fleet.flat(plain.arrays), ideal.w, rtol=0, atol=1e-10)


def test_workers_do_not_matter() -> None:
    one, two = (
        run(air(), 3, work := workplace(devices=4), grid=fleet.local_grid(work, workers=workers)) for workers in (1, 2)
    )
    np.testing.assert_array_equal(one.w, two.w)


def test_it_is_what_an_uplink_with_noise_gets_and_an_ideal_one_does_not() -> None:
    assert "mu" in run(air(), 1).figures[0]
    assert "case" in run(air(), 1, over_the_air="as-published").figures[0]
    assert "case" in run(IdealUplink(), 1).figures[0]


# In noise.


@pytest.mark.parametrize("control", [TruncatedInversion(0.3), MinimumMSE("closed-form")], ids=["truncated", "mmse"])
@pytest.mark.parametrize("snr_db", [0.0, -15.0])
def test_the_objective_never_rises(control: PowerControl, snr_db: float) -> None:
    for seed in range(2):
        outcome = run(air(control, snr_db), 10, workplace(devices=10, rows=40), seed=seed)
        objectives = np.array([f for f in outcome.all("objective") if f is not None])
        # Along a line the objective is summed in another order than at its end.
        assert (np.diff(objectives) <= 1e-12).all()
        assert objectives[-1] < objectives[0]


def test_fifty_iterations_at_0_db_stay_finite_and_descend_on_twenty_seeds() -> None:
    work, controls = workplace(devices=2, rows=20), (TruncatedInversion(1.0), MinimumMSE("closed-form"))
    for seed in range(20):
        outcome = run(air(controls[seed % 2]), 50, work, seed=seed, inner_iterations=10, line_search_steps=8)
        assert np.isfinite(outcome.w).all()
        objectives = [f for f in outcome.all("objective") if f is not None]
        assert objectives[-1] < objectives[0]


def test_a_network_that_is_not_convex_descends_too() -> None:
    work = fleet.workplace()
    figures: list[dict[str, Any]] = []
    strategy = OverTheAir(Dingo(on_iteration=figures.append), air(snr_db=10.0))
    strategy.start(fleet.local_grid(work), fleet.initial(work), num_rounds=8)
    objectives = [f["objective"] for f in figures]
    assert (np.diff(objectives) <= 1e-12).all()
    assert objectives[-1] < 0.9 * objectives[0]


def test_an_exchange_in_which_nobody_is_heard_leaves_the_model_as_it_is() -> None:
    deaf = run(air(TruncatedInversion(50.0)), 2)  # gains of which one in e^50 is enough
    assert not deaf.w.any()
    assert deaf.all("step_size") == [0.0, 0.0]
    assert deaf.all("objective") == [None, None]
    some = run(air(TruncatedInversion(1.5)), 12, workplace(devices=2))
    silent = [f["gradient_norm"] is None or f["slope"] is None for f in some.figures]
    assert 0 < sum(silent) < 12
    assert all(f["step_size"] == 0.0 for f, nobody in zip(some.figures, silent, strict=True) if nobody)


def test_what_the_receiver_says_of_the_noise_is_what_it_is() -> None:
    X = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 500)))
    for code, control in ((Uncoded(), ChannelInversion()), (RandomLinearCode(ratio=0.5), ChannelInversion())):
        uplink = AnalogUplink(code, control, Channel(noise_power=0.5))
        cohort = Vectors(X)
        receptions = [uplink.receive(cohort, exchange, 0) for exchange in range(1, 41)]
        measured = np.mean([float((r.update - X.mean(0)).square().mean()) for r in receptions if r.update is not None])
        # 20,000 squares of relative deviation sqrt(2); the coded level is itself reckoned from what is received.
        assert np.mean([r.noise_variance for r in receptions]) == pytest.approx(measured, rel=0.05)
    first = AnalogUplink(Uncoded(), MinimumMSE("closed-form"), Channel(Rayleigh())).receive(cohort, 1, 0)
    assert first.noise_variance == pytest.approx(first.record["signal_mse_predicted"], rel=1e-12)


class Vectors:
    """Plain updates at hand, of equal weight."""

    def __init__(self, X: torch.Tensor) -> None:
        self.X, (count, self.size) = X, X.shape
        self.devices, self.weights, self.total = np.arange(count), np.full(count, 1 / count), count
        self.norms = X.norm(dim=1).numpy()

    def updates(self, gains: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(gains) @ self.X

    signals = updates

    def symbols(self, code: Any, seed: int) -> torch.Tensor:
        return self.X


# The devices' part.


@given(level=st.floats(1e-6, 1.0), damping=st.floats(0.0, 2.0))
def test_the_solve_stops_at_the_level_of_the_noise(level: float, damping: float) -> None:
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    H = torch.from_numpy(Q @ np.diag(np.geomspace(1e-2, 3.0, 12)) @ Q.T)
    g = torch.from_numpy(rng.normal(size=12))
    products: list[int] = []

    def hessian(v: torch.Tensor) -> torch.Tensor:
        products.append(1)
        return H @ v

    config = {"damping": damping, "noise-level": level, "inner-tolerance": 1e-5, "inner-iterations": 60}
    c = solve_to_noise(hessian, g, config)
    residual = float((H @ c + damping * c - g).norm() / g.norm())
    assert residual <= max(level, 1e-5) * (1 + 1e-6)
    assert c.norm() > 0, "even where all is noise there is a direction"
    fewer = len(products)
    solve_to_noise(hessian, g, config | {"noise-level": level / 10})
    assert len(products) - fewer >= fewer, "less noise takes no fewer steps"


def test_more_noise_stops_the_solves_earlier() -> None:
    etas = [run(air(snr_db=snr_db), 1).figures[0]["eta"] for snr_db in (40.0, 20.0, 0.0)]
    assert 0 < etas[0] < etas[1] < etas[2] <= 1
    # The noise's standard deviation is ten times as large for 20 dB less.
    assert etas[1] == pytest.approx(10 * etas[0], rel=0.1)


class Listening(fleet.MessageGrid):
    """Notes how far devices are told to solve."""

    def __init__(self, work: Workplace) -> None:
        super().__init__(fleet.local_grid(work))
        self.levels: list[float] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        messages = list(messages)
        if messages[0].metadata.message_type == "train.damped_newton":
            self.levels.append(float(messages[0].content.config_records["config"]["noise-level"]))  # type: ignore[arg-type]
        return super().send_and_receive(messages, timeout=timeout)


@pytest.mark.parametrize("discrepancy", [0.0, 0.5, 3.0])
def test_solves_stop_at_a_share_of_the_noise(discrepancy: float) -> None:
    grid = Listening(workplace())
    outcome = run(air(snr_db=10.0), 3, grid=grid, discrepancy=discrepancy)
    assert grid.levels == [min(1.0, discrepancy * eta) for eta in outcome.all("eta")]


def test_the_scalars_are_those_of_the_mean_objective() -> None:
    work = workplace(devices=3)
    outcome = run(air(snr_db=10.0), 2, work)
    values = [work.objective(device) for device in range(3)]
    at = np.mean([objective.value(torch.from_numpy(outcome.w)) for objective in values])
    third = run(air(snr_db=10.0), 3, work)
    assert third.figures[2]["objective"] == pytest.approx(at, rel=1e-12)


def test_what_devices_keep_lies_in_their_context() -> None:
    replies = [_iteration(rebuilt) for rebuilt in (False, True)]
    for kept, anew in zip(*replies, strict=True):
        for name in kept:
            np.testing.assert_array_equal(kept[name], anew[name])


def _iteration(rebuilt: bool) -> list[dict[str, Any]]:
    """A device's answers to the messages of an iteration and a half, by one process or by one for each message."""
    fleet.identify()
    work, context = workplace(devices=4), fleet.context()
    d = 640
    g, p = np.random.default_rng(0).normal(size=(2, d)) / 30
    solver = {"damping": 0.01, "noise-level": 0.1, "inner-tolerance": 1e-4, "inner-iterations": 20}
    script: Sequence[tuple[str, dict[str, NDArray[Any]], dict[str, Any], str | None]] = (
        ("train.own_gradient", {"model": np.zeros(d)}, {}, "gradient"),
        ("train.damped_newton", {"gradient": g}, solver, "newton"),
        ("query.certificate", {"direction": p}, {"steps": [0.0, 1.0, 0.5]}, None),
        ("train.own_gradient", {}, {"step-size": 0.5}, "gradient"),
        ("train.damped_newton", {"gradient": g}, solver, "newton"),
        ("query.certificate", {}, {"steps": [0.0, 1.0]}, None),
        ("train.own_gradient", {}, {"step-size": 0.25}, "gradient"),
    )
    answers = []
    app = client_app(lambda *_: work)
    for kind, vectors, config, wanted in script:
        content = RecordDict({"arrays": fleet.record(vectors), "config": ConfigRecord(config)})
        if wanted:
            content["fedmac.blocks"] = ConfigRecord({wanted: d})
        if rebuilt:
            work = workplace(devices=4)
            app = client_app(lambda *_, work=work: work)
            state = RecordDict({name: ArrayRecord(dict(r)) for name, r in context.state.array_records.items()})
            context = Context(1, context.node_id, dict(context.node_config), state, {})
        reply = app(Message(content, FIRST_NODE, kind), context)
        records = reply.content.array_records
        answers.append(
            {name: array.numpy() for record in records.values() for name, array in record.items()}
            | {name: np.asarray(v) for name, v in reply.content.metric_records["metrics"].items()}
        )
    return answers


# Devices that vanish.


def losing(times: Sequence[int]) -> Tamper:
    """Lose some of a device's transmissions, counted from 1."""
    count = 0

    def tamper(reply: Message) -> Message | None:
        nonlocal count
        count += 1
        return None if count in times else reply

    return tamper


def test_a_device_that_vanishes_within_an_iteration_restarts_it_with_the_others() -> None:
    work = workplace(devices=4)
    outcome = run(air(snr_db=20.0), 3, work, grid=fleet.message_grid(work, {2: losing([4])}))
    sent = [e for e in outcome.exchanges if "devices" in e]
    assert [(e["round"], next(iter(e["blocks"])), e["participants"]) for e in sent] == [
        (1, "gradient", 4),
        (1, "newton", 4),
        (2, "gradient", 4),
        (2, "newton", 3),
        (2, "gradient", 3),
        (2, "newton", 3),
        (3, "gradient", 4),
        (3, "newton", 4),
    ]
    assert all(step > 0 for step in outcome.all("step_size"))


def test_a_device_that_comes_back_goes_on_from_the_model_of_all() -> None:
    work = workplace(devices=4)
    uplink = AnalogUplink(Uncoded(), ChannelInversion(), Channel(noise_power=1e-16))
    outcome = run(uplink, 3, work, grid=fleet.message_grid(work, {1: losing([3])}))
    mean = np.mean([work.objective(device).value(torch.from_numpy(outcome.w)) for device in range(4)])
    last = outcome.exchanges[-1]
    assert outcome.exchanges[-2]["participants"] == 4
    again = run(uplink, 1, work)  # any iteration lowers f: so must the third, if all four stand at the same point
    assert mean < outcome.figures[2]["objective"] < again.figures[0]["objective"]
    assert last["failures"] == []


# What it costs.


def grant_of(uplink: Uplink) -> float:
    return uplink.grant(640).energy


@pytest.mark.parametrize("uplink", [air(FullPower(), 10.0), IdealUplink(power_limit=2.0)], ids=["air", "ideal"])
def test_the_shares_of_the_two_vectors_add_up_to_the_energy_of_two_exchanges(uplink: Uplink) -> None:
    outcome = run(uplink, 4, over_the_air="safe")
    assert outcome.strategy.air is not None
    ledger = outcome.strategy.air.ledger
    np.testing.assert_allclose(ledger.energy, 4 * 2 * grant_of(uplink), rtol=1e-12)
    shares = [e["energies"][0] / grant_of(uplink) for e in outcome.exchanges if "energies" in e]
    # Before anything is heard nobody knows the SNR.
    assert shares == pytest.approx([1, 1, 1.6, 0.4, 1.6, 0.4, 1.6, 0.4])
    assert ledger.uses == 4 * 2 * 640


def test_at_low_snr_both_vectors_get_the_same() -> None:
    outcome = run(air(FullPower(), -20.0), 3)
    limits = [block["power_limit"] for e in outcome.exchanges if "blocks" in e for block in e["blocks"].values()]
    assert limits == [1.0] * 6


def test_scalars_cost_bits_and_no_energy() -> None:
    outcome = run(air(snr_db=10.0), 3)
    assert outcome.strategy.air is not None
    ledger = outcome.strategy.air.ledger
    asked = 3 + sum(outcome.all("fallback"))
    assert ledger.bits == 4 * (3 * 2 * 64 + asked * 32 * SCALARS)
    scalars = [e for e in outcome.exchanges if "control_bits" in e]
    assert [e["control_bits"] for e in scalars] == [4 * 32 * SCALARS] * asked
    costs = [cost for _, cost in ledger.exchanges if cost.uses == 0]
    assert len(costs) == asked
    assert all(not cost.energy.any() and cost.compute_time > 0 for cost in costs)


@pytest.mark.parametrize("share", [0.0, -1.0, float("nan"), float("inf")])
def test_a_share_of_energy_is_a_finite_number_above_zero(share: float) -> None:
    for uplink in (IdealUplink(), air()):
        with pytest.raises(ValueError, match=r"energy_share = .*accepted: a finite number > 0"):
            uplink.receive(Vectors(torch.ones(2, 8, dtype=torch.float64)), 1, 0, energy_share=share)


def test_two_vectors_an_iteration_go_up_and_two_down_once_the_model_is_known() -> None:
    outcome = run(air(snr_db=20.0), 4)
    assert np.diff(outcome.all("vectors_up")).tolist() == [2, 2, 2]
    assert np.diff(outcome.all("vectors_down")).tolist() == [2, 2, 2]
    assert np.diff(outcome.all("communication_rounds")).tolist() == [6, 6, 6]


# Rules of the server.


@given(damping=st.floats(1e-4, 1.0), k=st.integers(0, 15))
def test_damping_grows_after_short_steps_and_shrinks_after_whole_ones(damping: float, k: int) -> None:
    rules = Safeguards()
    after = rules.next_damping(damping, 0.5**k)
    assert after == {0: max(1e-4, damping / 2), 1: damping, 2: damping}.get(k, min(1.0, 4 * damping))
    assert rules.next_damping(damping, 0.0) == min(1.0, 4 * damping)


def test_the_damping_on_record_follows_the_rule() -> None:
    outcome = run(air(snr_db=-10.0), 12)
    rules = Safeguards()
    assert outcome.figures[0]["mu"] == 1e-2
    for now, after in zip(outcome.figures, outcome.figures[1:], strict=False):
        assert after["mu"] == rules.next_damping(now["mu"], 0.0 if now["fallback"] else now["step_size"])


def network(devices: int = 4) -> Workplace:
    """A network whose Hessians have negative eigenvalues near its initial point: plain Newton goes astray."""
    data = load("digits", devices=devices, partition="iid", dtype=torch.float64)
    model = build("mlp", data.input_shape, data.num_classes, hidden=(8,), activation="tanh", dtype=torch.float64)
    return Workplace(Trainer(model), data.grouped(), Training(0.1, l2=1e-3), seed=0)


def test_from_a_saddle_the_gradient_leads_until_newton_directions_come_back() -> None:
    outcome = run(air(snr_db=20.0), 45, network())
    fallbacks, objectives = outcome.all("fallback"), outcome.all("objective")
    assert any(fallbacks[:10]), "near the saddle the Newton directions do not hold"
    assert not any(fallbacks[-5:]), "and in the end they do again"
    assert max(outcome.all("mu")) <= 1.0
    assert objectives == sorted(objectives, reverse=True)
    # The published iterations lower the gradient's norm, which is least at the saddle: f = log 10, all classes alike.
    published = run(IdealUplink(), 20, network(), inner_iterations=20)
    assert published.figures[-1]["objective"] == pytest.approx(np.log(10), abs=0.02)
    assert objectives[-1] < 1.0


def test_a_direction_that_does_not_hold_gives_way_to_the_gradient() -> None:
    outcome = run(IdealUplink(), 3, over_the_air="safe", theta=1e6)
    assert outcome.all("fallback") == [True] * 3
    assert outcome.all("mu") == [0.01, 0.04, 0.16]
    assert all(step > 0 for step in outcome.all("step_size"))
    # Without noise the slope along -g is -||g||^2.
    np.testing.assert_allclose(outcome.all("slope"), -np.square(outcome.all("gradient_norm")), rtol=1e-9)


# In a random subspace.


def test_an_iteration_in_a_subspace_is_newtons_in_its_coordinates() -> None:
    work, q = workplace(devices=3), 32
    solver: dict[str, Any] = {"damping": 0.3, "inner_tolerance": 1e-12, "inner_iterations": 100}
    outcome = run(IdealUplink(), 1, work, subspace=q / 640, **solver)
    frame = Frame(640, q, key(0, "subspace", 0))
    objectives = [work.objective(device) for device in range(3)]
    start = torch.zeros(640, dtype=torch.float64)
    A = np.stack([frame.lift(row) for row in np.eye(q)])
    g = np.mean([A @ o.value_and_gradient(start)[1].numpy() for o in objectives], axis=0)
    c = []
    for objective in objectives:
        product = objective.hessian(start)
        H = np.stack([product(torch.from_numpy(row)).numpy() for row in A]) @ A.T
        c.append(np.linalg.solve(H + 0.3 * np.eye(q), g))
    step = outcome.figures[0]["step_size"]
    assert step > 0
    np.testing.assert_allclose(outcome.w, -step * A.T @ np.mean(c, axis=0), rtol=1e-8, atol=1e-12)


def test_a_subspace_takes_its_share_of_the_uses_and_loses_nothing_to_compression() -> None:
    outcome = run(air(ChannelInversion(), 40.0), 6, subspace=RandomLinearCode(ratio=0.25))
    assert [e["channel_uses"] for e in outcome.exchanges if "blocks" in e] == [160 * n for n in range(1, 13)]
    assert outcome.figures[-1]["vectors_up"] == 12 * 0.25
    assert outcome.figures[-1]["vectors_down"] == 1 + 12 * 0.25
    assert (np.diff(outcome.all("objective")) <= 1e-12).all()
    assert outcome.all("objective")[-1] < 0.5 * outcome.all("objective")[0]
    assert max(outcome.all("eta")) < 0.5  # against sqrt(1 - r) = 0.87 where each exchange is coded


# What is refused.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"over_the_air": "saef"}, "over_the_air = 'saef': accepted: auto, safe, as-published, no"),
        ({"damping": 0.0}, "damping = 0.0: accepted: a finite number > 0"),
        ({"least_damping": -1.0}, "least_damping = -1.0: accepted: a finite number > 0"),
        ({"gradient_energy": 2.0}, "gradient_energy = 2.0: accepted: a number > 0 and < 2"),
        ({"equal_below_db": float("nan")}, "equal_below_db = nan: accepted: a finite number of dB"),
        ({"subspace": 0.0}, "subspace = 0.0: accepted: a number > 0 and <= 1"),
        ({"subspace": 0.5, "over_the_air": "no"}, "subspace = 0.5: over_the_air = 'no' knows none; accepted: 1"),
        ({"subspace": RandomLinearCode(uses=9)}, "accepted: a code with a ratio"),
        ({"inner_iterations": 0}, "inner_iterations = 0: accepted: an integer >= 1"),
    ],
)
def test_parameters_out_of_range_are_refused(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Dingo(**given)


CODED = AnalogUplink(RandomLinearCode(ratio=0.25), ChannelInversion(), Channel(noise_power=0.1))


def test_coding_each_exchange_is_refused_unless_forced() -> None:
    with pytest.raises(ValueError, match=r"uplink.code = 'random-linear': .*bounds its SNR by 1 / \(1/r - 1\)"):
        run(CODED, 1)
    forced = run(CODED, 6, coded_exchanges=True)
    assert (np.diff(forced.all("objective")) <= 1e-12).all()


def test_a_coded_exchange_gets_no_better_with_energy() -> None:
    uplinks = [AnalogUplink(CODED.code, ChannelInversion(), Channel(noise_power=n)) for n in (1e-2, 1e-8)]
    etas = [run(uplink, 1, coded_exchanges=True).figures[0]["eta"] for uplink in uplinks]
    # ||g^||^2 is 1/r ||g||^2 in expectation and the error (1/r - 1) ||g||^2: eta^2 = 1 - r.
    assert etas[1] == pytest.approx(np.sqrt(0.75), rel=0.05)
    assert etas[0] == pytest.approx(etas[1], rel=0.05)


def test_ideal_iterations_are_refused_in_noise() -> None:
    with pytest.raises(ValueError, match="over_the_air = 'no': AnalogUplink has noise; accepted: auto, safe"):
        run(air(), 1, over_the_air="no")


def scenario(**tables: Mapping[str, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": "dingo",
        "rounds": 2,
        "data": {"source": "digits", "devices": 4},
        "model": {"bias": False, "init": "zeros"},
        "training": {"l2": 1e-3, "dtype": "float64"},
        "strategy": {"name": "dingo"},
        "power_control": {"name": "channel-inversion"},
        "channel": {"snr_db": 10.0, "fading": "rayleigh"},
    }
    return content | {name: {**content.get(name, {}), **table} for name, table in tables.items()}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"uplink": {"code": "random-linear", "ratio": 0.5}}, r'uplink.code = .*whatever the energy.*"uncoded"'),
        ({"strategy": {"over_the_air": "no"}}, 'strategy.over_the_air = \'no\': .*"auto", "safe" or "as-published"'),
        ({"strategy": {"coded_exchanges": "yes"}}, "strategy.coded_exchanges = 'yes'"),
        ({"strategy": {"over_the_air": 1}}, "strategy.over_the_air = 1"),
    ],
)
def test_a_scenario_that_cannot_work_is_refused(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        Scenario.load(scenario(**tables))


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"uplink": {"kind": "ideal"}},
        {"strategy": {"over_the_air": "as-published"}, "uplink": {"code": "random-linear", "ratio": 0.5}},
        {"strategy": {"coded_exchanges": True}, "uplink": {"code": "random-linear", "ratio": 0.5}},
    ],
)
def test_a_scenario_that_works_is_accepted(tables: dict[str, Any]) -> None:
    Scenario.load(scenario(**tables))


def test_a_run_records_what_the_iterations_tell() -> None:
    from fedmac.build_devices import build_workplace

    variant = Scenario.load(scenario()).resolve()[0]
    work = build_workplace(variant.scenario, 0)
    rounds: list[dict[str, Any]] = []
    learn(LearningTask(variant, 0, work, rounds.append), fleet.local_grid(work))
    json.dumps(rounds, allow_nan=False)
    last = rounds[-1]
    assert {"iteration", "objective", "gradient_norm", "noise", "eta", "mu", "step_size", "fallback"} <= set(last)
    assert set(last["blocks"]) == {"gradient", "newton"}
    assert last["participants"] == 4
    assert last["control_bits"] == 4 * 32 * SCALARS * (1 + last["fallback"])
    assert last["bits_per_device_mean"] > 2 * last["round"] * 64
    assert last["channel_uses"] == 2 * 2 * 640
    assert last["test_accuracy"] > rounds[0]["test_accuracy"]
