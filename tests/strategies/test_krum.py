"""Krum and its relatives where updates are small beside the model, as at the end of training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from channel.randomness import generator
from strategies.krum import Bulyan, Krum, MultiKrum
from tests import fleet
from tests.packet_exchange import QUIET

DEVICES, ATTACKERS, SIZE = 11, 2, 4000
OURS: dict[str, type[Strategy]] = {"krum": Krum, "multikrum": MultiKrum, "bulyan": Bulyan}
FLOWERS: dict[str, type[Strategy]] = {
    "krum": flower.Krum, "multikrum": flower.MultiKrum, "bulyan": flower.Bulyan,
}  # fmt: skip


def unit(trial: int, *index: int) -> NDArray[np.float64]:
    drawn = generator(0, "krum", trial, *index).standard_normal(SIZE)
    return np.asarray(drawn / np.linalg.norm(drawn))


def replies(size: float, trial: int, dtype: Any = np.float32, counter: bool = False) -> list[Message]:
    """Models of norm 1 and updates of about `size`; the first two devices turn theirs round."""
    fleet.identify()
    made = []
    whole = {"count": Array(np.array(7))} if counter else {}
    for device in range(DEVICES):
        update = unit(trial, 1) + 0.5 * unit(trial, 2, device)
        model = unit(trial, 0) + size * (-update if device < ATTACKERS else update)
        content = RecordDict(
            {
                "arrays": ArrayRecord({"w": Array(model.astype(dtype))} | whole),
                "metrics": MetricRecord({"num-examples": 1, "train_loss": 0.0}),
            }
        )
        made.append(Message(RecordDict(), 2 + device, "train"))
        made[-1].metadata.__dict__["_message_id"] = f"{trial}-{device}"
        made[-1] = Message(content, reply_to=made[-1])
    return made


def follows_attackers(strategy: Strategy, size: float, trial: int, asked: Sequence[Message] = ()) -> bool:
    arrays, _ = strategy.aggregate_train(1, asked or replies(size, trial))
    assert arrays is not None
    return float((arrays["w"].numpy() - unit(trial, 0)) @ unit(trial, 1)) < 0


@pytest.mark.parametrize("name", ["krum", "multikrum"])
@pytest.mark.parametrize("size", [1e-2, 1e-6])
def test_attackers_are_not_followed_however_small_updates_are(name: str, size: float) -> None:
    strategy = OURS[name](num_malicious_nodes=ATTACKERS, **QUIET)  # type: ignore[call-arg]
    assert not any(follows_attackers(strategy, size, trial) for trial in range(4))


def test_in_single_precision_rounding_would_choose() -> None:
    """What this is for: if Flower's own no longer fails here, ours is not needed any more."""
    strategy = flower.Krum(num_malicious_nodes=ATTACKERS, **QUIET)
    assert any(follows_attackers(strategy, 1e-6, trial) for trial in range(20))


@pytest.mark.parametrize("name", ["krum", "multikrum"])
def test_where_rounding_does_not_matter_it_is_flowers(name: str) -> None:
    ours, theirs = (kind(num_malicious_nodes=ATTACKERS, **QUIET) for kind in (OURS[name], FLOWERS[name]))  # type: ignore[call-arg]
    for trial in range(2):
        one, other = (s.aggregate_train(1, replies(1e-2, trial, np.float64)) for s in (ours, theirs))
        assert one[0] is not None
        assert other[0] is not None
        assert np.array_equal(one[0]["w"].numpy(), other[0]["w"].numpy())
        assert dict(one[1] or {}) == dict(other[1] or {})


@pytest.mark.parametrize("name", OURS)
def test_arrays_come_back_in_their_own_types(name: str) -> None:
    strategy = OURS[name](num_malicious_nodes=ATTACKERS, **QUIET)  # type: ignore[call-arg]
    arrays, _ = strategy.aggregate_train(1, replies(1e-2, 0, counter=True))
    assert arrays is not None
    assert arrays["w"].numpy().dtype == np.float32
    assert arrays["count"].numpy() == 7


def test_without_replies_there_is_no_model() -> None:
    assert Krum(**QUIET).aggregate_train(1, []) == (None, None)
