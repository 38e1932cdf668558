"""Flower's strategies over the air: unchanged where the mean is enough, refused where it is not."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Result,
    Strategy,
)

from channel import (
    AnalogUplink,
    Channel,
    ChannelInversion,
    IdealUplink,
    MinimumMSE,
    RandomLinearCode,
    Rayleigh,
    Uncoded,
    Uplink,
)
from clients.training import Training
from strategies import STRATEGIES, OverTheAir
from strategies.over_the_air import NEEDS_INDIVIDUAL_UPDATES
from tests import fleet

QUIET: Any = {"fraction_evaluate": 0.0}

MEAN_BASED: dict[str, Callable[[], Strategy]] = {
    "fedavg": lambda: FedAvg(**QUIET),
    "fedavgm": lambda: FedAvgM(server_momentum=0.9, **QUIET),
    "fedadam": lambda: FedAdam(eta=0.01, **QUIET),
    "fedyogi": lambda: FedYogi(eta=0.01, **QUIET),
    "fedadagrad": lambda: FedAdagrad(eta=0.01, **QUIET),
    "fedprox": lambda: FedProx(proximal_mu=0.5, **QUIET),
}


def rayleigh(ratio: float = 0.5) -> AnalogUplink:
    """The link of the project's title."""
    return AnalogUplink(RandomLinearCode(ratio=ratio), MinimumMSE(), Channel(Rayleigh(), noise_power=0.01))


def test_every_mean_based_strategy_that_a_scenario_can_name_is_tried_here() -> None:
    """Those whose rounds are training; second-order ones make exchanges of their own, and systems send no updates."""
    usual = {name for name, s in STRATEGIES.items() if not (s.individual or s.second_order or s.on_clock)}
    assert set(MEAN_BASED) == usual


@pytest.mark.parametrize("grid_of", [fleet.local_grid, fleet.message_grid])
@pytest.mark.parametrize("name", MEAN_BASED)
def test_a_strategy_over_an_ideal_uplink_is_plain_flower(name: str, grid_of: Callable[[Any], Grid]) -> None:
    work = fleet.workplace()
    plain = fleet.run(MEAN_BASED[name](), fleet.local_grid(work), work)
    aired = fleet.run(OverTheAir(MEAN_BASED[name](), IdealUplink()), grid_of(work), work)
    moved = np.abs(fleet.flat(plain.arrays) - fleet.flat(fleet.initial(work))).max()
    assert moved > 0.01
    # Both are the same float64 sums in another order: 1e-16 an entry, which the adaptive strategies divide by sqrt(v)
    # and tau = 1e-3 and carry over three rounds.
    assert np.abs(fleet.flat(plain.arrays) - fleet.flat(aired.arrays)).max() < 1e-11


def test_float32_fedavg_over_an_ideal_uplink_is_plain_flower_to_single_precision() -> None:
    work = fleet.workplace(5, dtype=torch.float32, rows=None)
    plain = fleet.run(FedAvg(**QUIET), fleet.local_grid(work), work, rounds=4)
    aired = fleet.run(OverTheAir(FedAvg(**QUIET), IdealUplink()), fleet.local_grid(work), work, rounds=4)
    assert fleet.flat(aired.arrays).dtype == np.float32
    # Entries of order 1, rounded to 1.2e-7 in each of 5 devices and 4 rounds.
    np.testing.assert_allclose(fleet.flat(aired.arrays), fleet.flat(plain.arrays), rtol=0, atol=3e-6)


def test_metrics_of_training_and_evaluation_are_those_of_plain_flower() -> None:
    work = fleet.workplace()
    plain = fleet.run(FedAvg(), fleet.local_grid(work), work)
    aired = fleet.run(OverTheAir(FedAvg(), IdealUplink()), fleet.local_grid(work), work)
    for a, b in (
        (plain.train_metrics_clientapp, aired.train_metrics_clientapp),
        (plain.evaluate_metrics_clientapp, aired.evaluate_metrics_clientapp),
    ):
        assert list(a) == list(b) == [1, 2, 3]
        for number in a:
            assert dict(a[number]) == pytest.approx(dict(b[number]), rel=1e-9)


def test_fedprox_keeps_devices_near_the_model_they_received() -> None:
    norms = {}
    for mu in (0.001, 1.0, 10.0):
        records: list[dict[str, Any]] = []
        work = fleet.workplace(training=Training(learning_rate=0.1, local_epochs=4, batch_size=8))
        strategy = OverTheAir(FedProx(proximal_mu=mu, **QUIET), IdealUplink(), on_exchange=records.append)
        fleet.run(strategy, fleet.local_grid(work), work, rounds=1)
        norms[mu] = np.asarray(records[0]["update_norms"])
    assert (norms[1.0] < norms[0.001]).all()
    assert (norms[10.0] < norms[1.0] / 2).all()


INDIVIDUAL: dict[str, Callable[[], Strategy]] = {
    "Krum": Krum,
    "MultiKrum": MultiKrum,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Bulyan": Bulyan,
    "QFedAvg": lambda: QFedAvg(client_learning_rate=0.1),
    "DifferentialPrivacyServerSideFixedClipping": lambda: DifferentialPrivacyServerSideFixedClipping(
        FedAvg(), noise_multiplier=1.0, clipping_norm=1.0, num_sampled_clients=4
    ),
    "DifferentialPrivacyServerSideAdaptiveClipping": lambda: DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(), noise_multiplier=1.0, num_sampled_clients=4, clipped_count_stddev=3.0
    ),
}


@pytest.mark.parametrize("name", INDIVIDUAL)
@pytest.mark.parametrize("uplink", [IdealUplink(), rayleigh()])
def test_a_strategy_that_needs_individual_updates_is_refused_by_name(name: str, uplink: Uplink) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*digital link"):
        OverTheAir(INDIVIDUAL[name](), uplink)


def test_scenario_names_say_the_same_about_individual_updates_as_the_refusal() -> None:
    for strategy in STRATEGIES.values():
        assert strategy.individual == issubclass(strategy.load(), NEEDS_INDIVIDUAL_UPDATES)


def test_an_uplink_that_delivers_individual_updates_takes_any_strategy() -> None:
    class Digital(IdealUplink):
        individual = True

    assert isinstance(OverTheAir(Krum(), Digital()).strategy, Krum)


def test_something_else_than_a_strategy_is_refused() -> None:
    with pytest.raises(TypeError, match=r"flwr\.serverapp\.strategy\.Strategy, got str"):
        OverTheAir("fedavg", IdealUplink())  # type: ignore[arg-type]


def devices_of_rounds(grid: Grid, work: Any, seed: int) -> list[list[int]]:
    records: list[dict[str, Any]] = []
    strategy = FedAvg(fraction_train=0.5, min_train_nodes=1, **QUIET)
    fleet.run(OverTheAir(strategy, IdealUplink(), seed=seed, on_exchange=records.append), grid, work, rounds=6)
    return [record["devices"] for record in records]


def test_the_seed_alone_samples_the_devices_on_every_grid() -> None:
    work = fleet.workplace(6, rows=12)
    sampled = devices_of_rounds(fleet.local_grid(work), work, seed=3)
    assert all(len(devices) == 3 for devices in sampled)
    assert len({tuple(devices) for devices in sampled}) > 1
    assert sampled == devices_of_rounds(fleet.message_grid(work), work, seed=3)
    random.seed(17)
    assert sampled == devices_of_rounds(fleet.local_grid(work), work, seed=3)
    assert sampled != devices_of_rounds(fleet.local_grid(work), work, seed=4)


def test_sampling_leaves_the_global_random_state_alone() -> None:
    work = fleet.workplace(4, rows=12)
    state = random.getstate()
    devices_of_rounds(fleet.local_grid(work), work, seed=3)
    assert random.getstate() == state


def test_a_seed_repeats_a_run_bit_by_bit_and_another_does_not() -> None:
    def final(seed: int) -> np.ndarray[Any, Any]:
        work = fleet.workplace()
        result = fleet.run(OverTheAir(FedAvg(**QUIET), rayleigh(), seed=seed), fleet.local_grid(work), work)
        return fleet.flat(result.arrays)

    assert np.array_equal(final(1), final(1))
    assert not np.allclose(final(1), final(2))


def test_a_strategy_object_can_run_again() -> None:
    work = fleet.workplace()
    strategy = OverTheAir(FedAvg(**QUIET), rayleigh())
    first = fleet.run(strategy, fleet.local_grid(work), work)
    second = fleet.run(strategy, fleet.local_grid(work), work)
    assert np.array_equal(fleet.flat(first.arrays), fleet.flat(second.arrays))


def test_quiet_inversion_without_code_is_the_ideal_uplink() -> None:
    work = fleet.workplace()
    ideal = fleet.run(OverTheAir(FedAvg(**QUIET), IdealUplink()), fleet.local_grid(work), work)
    quiet = AnalogUplink(Uncoded(), ChannelInversion(), Channel(Rayleigh(), noise_power=1e-24))
    heard = fleet.run(OverTheAir(FedAvg(**QUIET), quiet), fleet.local_grid(work), work)
    # Noise of standard deviation 1e-12 times a receive scale well below 1000.
    np.testing.assert_allclose(fleet.flat(heard.arrays), fleet.flat(ideal.arrays), rtol=0, atol=1e-9)


class OwnLoop(FedAvg):
    """A strategy with a round of its own: trains, then makes a second exchange."""

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        result = Result()
        result.arrays = initial_arrays
        for number in range(1, num_rounds + 1):
            for _ in range(2):
                messages = self.configure_train(number, result.arrays, ConfigRecord(), grid)
                arrays, _ = self.aggregate_train(number, grid.send_and_receive(messages))
                assert arrays is not None
                result.arrays = arrays
        return result


def test_a_strategy_with_its_own_loop_may_make_several_exchanges_a_round() -> None:
    records: list[dict[str, Any]] = []
    work = fleet.workplace()
    over_the_air = OverTheAir(OwnLoop(**QUIET), rayleigh(), on_exchange=records.append)
    fleet.run(over_the_air, fleet.local_grid(work), work, rounds=2)
    assert [(r["exchange"], r["round"]) for r in records] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert over_the_air.air is not None
    assert [number for number, _ in over_the_air.air.ledger.exchanges] == [1, 1, 2, 2]
    assert records[0]["gains"] != records[1]["gains"]


class Counting(FedAvg):
    """Weighs every device the same, by a metric of its own."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["note"] = "from a subclass"
        return super().configure_train(server_round, arrays, config, grid)


@pytest.mark.parametrize("grid_of", [fleet.local_grid, fleet.message_grid])
def test_weights_follow_the_metric_the_strategy_names(grid_of: Callable[[Any], Grid]) -> None:
    records: list[dict[str, Any]] = []
    work = fleet.workplace()
    strategy = OverTheAir(Counting(weighted_by_key="train_loss", **QUIET), IdealUplink(), on_exchange=records.append)
    aired = fleet.run(strategy, grid_of(work), work, rounds=1)
    plain = fleet.run(Counting(weighted_by_key="train_loss", **QUIET), fleet.local_grid(work), work, rounds=1)
    np.testing.assert_allclose(fleet.flat(aired.arrays), fleet.flat(plain.arrays), rtol=0, atol=1e-12)
    assert not np.allclose(records[0]["weights"], [len(part) / 162 for part in work.data.parts], atol=1e-3)
