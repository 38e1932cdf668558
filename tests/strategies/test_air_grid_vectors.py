"""Vectors over the air: each in a block of channel uses of its own, merged into one reply with their means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

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
from channel.order import BLOCKS_KEY, RECEPTION_KEY
from clients.transmit import transmit
from fedmac.engines.local import FIRST_NODE, LocalGrid
from strategies import AirGrid
from strategies.mean_exchange import MeanExchange
from tests import fleet

Vectors = Mapping[str, NDArray[Any]]

SIZE = 400
DEVICES = 4


def vectors_of(device: int) -> dict[str, NDArray[np.float64]]:
    """A vector of norm one and one of a million, for each device."""
    draws = np.random.default_rng(device)
    small, large = draws.normal(size=(2, SIZE)) + 1.0
    return {"small": small / np.linalg.norm(small), "large": 1e6 * large / np.linalg.norm(large)}


def mean_of(name: str, devices: Sequence[int] = range(DEVICES), weights: Sequence[float] | None = None) -> Any:
    return np.average([vectors_of(device)[name] for device in devices], axis=0, weights=weights)


def analog(noise_power: float, code: Any = None, **given: Any) -> AnalogUplink:
    """Rayleigh fading, and no limit on what inversion needs: the SNR of each block is the same."""
    return AnalogUplink(code or Uncoded(), ChannelInversion(), Channel(Rayleigh(), noise_power=noise_power), **given)


class Exchange:
    """One exchange of both vectors, and everything that can be seen of it."""

    def __init__(
        self,
        uplink: Uplink,
        *,
        silent: Sequence[int] = (),
        weights: Sequence[float] = (1.0,) * DEVICES,
        answer: Sequence[str] = ("small", "large"),
        same: bool = False,
    ) -> None:
        app = ClientApp(mods=[transmit])

        @app.train("send")
        def send(message: Message, context: Context) -> Message:
            device = int(context.node_config["partition-id"])
            if device in silent:
                raise RuntimeError("no signal")
            vectors = vectors_of(device)
            arrays = {name: Array(vectors["small" if same else name]) for name in answer}
            metrics = MetricRecord({"weight": weights[device], "loss": float(device)})
            return Message(RecordDict({"vectors": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

        records: list[dict[str, Any]] = []
        grid = LocalGrid(fleet.workplace(DEVICES, rows=2), app)
        self.air = AirGrid(grid, uplink, seed=3, weighted_by_key="weight", on_exchange=records.append)
        self.nodes = self.air.get_node_ids()
        content = RecordDict({"arrays": ArrayRecord(), "config": ConfigRecord({"server-round": 1})})
        content[BLOCKS_KEY] = ConfigRecord({"small": SIZE, "large": SIZE})
        messages = [Message(content, node, "train.send") for node in self.nodes]
        self.replies = list(self.air.send_and_receive(messages))
        (self.record,) = records
        json.dumps(self.record, allow_nan=False)

    @property
    def reply(self) -> Message:
        """The one merged reply."""
        (reply,) = self.replies
        return reply

    @property
    def means(self) -> Vectors:
        """What the server received."""
        return {name: array.numpy() for name, array in self.reply.content.array_records["vectors"].items()}

    def relative_error(self, name: str) -> float:
        return float(np.linalg.norm(self.means[name] - mean_of(name)) / np.linalg.norm(mean_of(name)))


LIMIT: dict[str, Any] = {"energy_per_round": 400.0}


def test_vectors_of_very_different_size_are_received_alike() -> None:
    exchange = Exchange(analog(1.0, **LIMIT))
    small, large = exchange.relative_error("small"), exchange.relative_error("large")
    # The noise of 400 uses is known to 1 / sqrt(800); the means' norms differ a little from one another.
    assert 0.7 < small / large < 1.4
    assert small > 0.1


@pytest.mark.parametrize("control", [ChannelInversion(), MinimumMSE()], ids=["inversion", "minimum mse"])
def test_without_noise_the_means_are_exact(control: Any) -> None:
    uplink = AnalogUplink(Uncoded(), control, Channel(Rayleigh(), noise_power=1e-28), power_limit=1.0)
    exchange = Exchange(uplink)
    for name in ("small", "large"):
        assert exchange.relative_error(name) < 1e-12


def test_the_error_falls_with_the_noise() -> None:
    """Its standard deviation is that of the noise, by the same scale."""
    loud, quiet = (Exchange(analog(noise, **LIMIT)) for noise in (1.0, 1e-4))
    for name in ("small", "large"):
        assert loud.relative_error(name) / quiet.relative_error(name) == pytest.approx(100, rel=1e-6)


def test_each_block_has_its_own_noise_and_all_have_the_same_fading() -> None:
    exchange = Exchange(analog(1.0, **LIMIT), same=True)
    errors = [exchange.means[name] - mean_of("small") for name in ("small", "large")]
    # Independent: a correlation of 400 pairs has the standard deviation 1/20.
    assert abs(np.corrcoef(errors)[0, 1]) < 0.2
    small, large = (exchange.record["blocks"][name] for name in ("small", "large"))
    assert small["gains"] == large["gains"]


def test_means_are_weighted_by_the_metric_that_the_grid_is_told() -> None:
    weights = [1.0, 2.0, 3.0, 4.0]
    exchange = Exchange(IdealUplink(), weights=weights)
    for name in ("small", "large"):
        np.testing.assert_allclose(exchange.means[name], mean_of(name, weights=weights), rtol=1e-9)
    assert dict(exchange.reply.content.metric_records["metrics"]) == {"weight": 1.0, "loss": pytest.approx(2.0)}


def test_the_order_in_which_a_device_answers_does_not_matter() -> None:
    uplink = analog(1e-4, RandomLinearCode(ratio=0.5), **LIMIT)
    one, other = Exchange(uplink), Exchange(uplink, answer=("large", "small"))
    for name in ("small", "large"):
        assert np.array_equal(one.means[name], other.means[name])
        # Half of the coordinates' energy is not sent: an error of the vector's own size, not of the other's.
        assert one.relative_error(name) < 3


@pytest.mark.parametrize("uplink", [IdealUplink(), analog(1.0, **LIMIT)], ids=["ideal", "analog"])
def test_the_ledger_adds_up_what_the_blocks_cost(uplink: Uplink) -> None:
    exchange = Exchange(uplink)
    totals = exchange.air.ledger.totals()
    assert totals["channel_uses"] == 2 * SIZE == exchange.record["channel_uses"]
    assert sum(exchange.record["energies"]) == pytest.approx(np.sum(exchange.air.ledger.energy))
    blocks = exchange.record["blocks"]
    assert list(blocks) == sorted(["small", "large"])


def test_the_energy_limit_holds_for_each_block() -> None:
    """An exchange of two vectors is granted what two exchanges of one are."""
    exchange = Exchange(analog(1.0, **LIMIT))
    assert max(exchange.record["energies"]) == pytest.approx(2 * LIMIT["energy_per_round"])


def test_the_reply_names_the_nodes_it_is_the_mean_of() -> None:
    exchange = Exchange(IdealUplink(), silent=[1])
    assert exchange.nodes == [FIRST_NODE + device for device in range(DEVICES)]
    reception: Mapping[str, Any] = exchange.reply.content.config_records[RECEPTION_KEY]
    assert reception["nodes"] == [FIRST_NODE, FIRST_NODE + 2, FIRST_NODE + 3]
    assert exchange.record["devices"] == [0, 2, 3]
    assert exchange.record["failures"] == [{"device": 1, "reason": "RuntimeError: no signal", "kind": "error"}]
    for name in ("small", "large"):
        np.testing.assert_allclose(exchange.means[name], mean_of(name, [0, 2, 3]), rtol=1e-9)


def test_if_nobody_sends_the_replies_say_why_and_nothing_is_charged() -> None:
    exchange = Exchange(IdealUplink(), silent=range(DEVICES))
    assert [reply.error.reason for reply in exchange.replies] == ["RuntimeError: no signal"] * DEVICES
    assert not exchange.record["heard"]
    assert exchange.record["channel_uses"] == 0


def test_error_feedback_is_refused() -> None:
    code = RandomLinearCode(ratio=0.5, decoder="projection", error_feedback=True)
    with pytest.raises(ValueError, match=r"error feedback.*accepted: a code without error feedback"):
        Exchange(AnalogUplink(code, MinimumMSE(), Channel(noise_power=1.0), **LIMIT))


def test_a_mean_exchange_reads_what_the_air_hands_over() -> None:
    app = ClientApp(mods=[transmit])

    @app.train("send")
    def send(message: Message, context: Context) -> Message:
        vectors = vectors_of(int(context.node_config["partition-id"]))
        arrays = ArrayRecord({name: Array(vector) for name, vector in vectors.items()})
        return Message(
            RecordDict({"vectors": arrays, "metrics": MetricRecord({"weight": 1.0, "pair": [1.0, 2.0]})}),
            reply_to=message,
        )

    plain = LocalGrid(fleet.workplace(DEVICES, rows=2), app)
    for grid in (plain, AirGrid(plain, IdealUplink(), weighted_by_key="weight")):
        exchange = MeanExchange(grid, SIZE, ConfigRecord({"server-round": 1}), timeout=1.0)
        wanted = {"small": 1, "large": 1}
        means = exchange.ask("send", grid.get_node_ids(), wanted=wanted, scalars={"pair": 2})
        assert means.nodes == frozenset(plain.get_node_ids())
        for name in wanted:
            np.testing.assert_allclose(means.vectors[name], mean_of(name), rtol=1e-9)
        np.testing.assert_allclose(means.scalars["pair"], [1.0, 2.0])
        assert (exchange.traffic.vectors_up, exchange.traffic.scalars_up) == (2, 2)
