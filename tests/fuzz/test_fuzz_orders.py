"""Whatever an order says, a device reads it or says what is wrong with it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from channel.order import ORDER_KEY, OrderError, PacketOrder, TransmitOrder
from clients.transmit import transmit
from tests import fleet
from tests.fuzz.budget import CASES, no_hang, of_cases

torch.set_num_threads(1)

ORDERS = [
    TransmitOrder("random-linear", {"ratio": 0.5}, 7).to_config(),
    TransmitOrder("sparse-amp", {"uses": 5}, 7).to_config(),
    TransmitOrder("majority-vote", {"step": 0.1}, 7).to_config(),
    PacketOrder("dithered", {"levels": 3}, 7, "entropy", 1.0, 0, {1: 900}, {1: 5}).to_config() | {"device": 1},
    PacketOrder("eden", {"bits": 2}, 7).to_config() | {"device": 1, "budget": 300, "lost-since": -1},
    PacketOrder("factor", {"levels": 3}, 7).to_config() | {"device": 1},
]
KEYS = sorted({key for order in ORDERS for key in order} | {"other"})
NAMES = ["ratio", "uses", "levels", "bucket", "bits", "step", "sparsity", "fraction", "decoder", "rotations", "other"]
NUMBERS = st.one_of(st.integers(-3, 70), st.floats(), st.sampled_from([10**30, 2**63, 1e308, 5e-324]))
PARAMETERS = st.dictionaries(
    st.sampled_from(NAMES[:-2]), st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=5), st.lists(NUMBERS))
).map(json.dumps)
VALUES = st.one_of(
    NUMBERS, st.booleans(), st.text(max_size=8), st.binary(max_size=8), st.lists(st.text(max_size=3), max_size=2),
    st.sampled_from(["uncoded", "random-mask", "top-k", "nested", "entropy", "fixed", "{}", "[]", "null", "[" * 5000]),
    PARAMETERS,
)  # fmt: skip
CHANGES = st.lists(st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), VALUES)), max_size=3)


def changed(order: dict[str, Any], changes: list[tuple[str, Any]]) -> dict[str, Any]:
    made = {**order, **dict(changes)}
    return {key: value for key, value in made.items() if value is not None}


@given(order=st.sampled_from(ORDERS), changes=CHANGES)
@CASES
def test_an_order_is_read_or_refused_with_a_reason(order: dict[str, Any], changes: list[tuple[str, Any]]) -> None:
    config = changed(order, changes)
    with no_hang(), suppress(OrderError):
        TransmitOrder.from_config(config).build_code()
    with no_hang(), suppress(OrderError):
        read = PacketOrder.from_config(config)
        if read.factor_codec is None:
            read.codec_of(1, 24)


@given(order=st.sampled_from(ORDERS), changes=CHANGES)
@of_cases(0.5)
def test_a_device_that_cannot_follow_an_order_says_so_in_a_value_error(
    order: dict[str, Any], changes: list[tuple[str, Any]]
) -> None:
    """Flower sends the error in place of a reply; a device that dies of it could not."""
    model = fleet.record({"w": np.zeros(24)})
    config = ConfigRecord(changed(order, changes))

    def app(message: Message, context: Any) -> Message:
        trained = fleet.record({"w": np.cos(np.arange(24))})
        return Message(RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 3})}), reply_to=message)

    fleet.identify()
    message = Message(RecordDict({"arrays": model, ORDER_KEY: config}), 2, "train")
    with no_hang(), suppress(ValueError):
        reply = transmit(message, fleet.context(1), app)
        said = reply.content.config_records["fedmac.transmission"]
        assert np.isfinite(float(str(said["norm"])))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"code": 3}, "order: code is 3; accepted: a text"),
        ({"code": "uncoded", "parameters": "[]", "seed": 1}, "order: parameters are []; accepted: a JSON object"),
        ({"code": "uncoded", "parameters": "{", "seed": 1}, "order: parameters are {: "),
        ({"code": "uncoded", "parameters": "{}", "seed": -1}, "order: seed is -1; accepted: a whole number >= 0"),
        ({"code": "uncoded", "parameters": "{}", "seed": True}, "order: seed is True; accepted: a whole number"),
    ],
)
def test_what_is_wrong_with_an_order_is_named(config: dict[str, Any], says: str) -> None:
    with pytest.raises(OrderError) as refused:
        TransmitOrder.from_config(config)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (TransmitOrder("morse"), "transmit order: unknown code 'morse'; known codes: uncoded"),
        (TransmitOrder("uncoded", {"ratio": 1}), "transmit order: code uncoded: "),
        (TransmitOrder("random-linear", {"ratio": "half"}), "transmit order: code random-linear: "),
    ],
)
def test_a_code_that_cannot_be_made_is_named(order: TransmitOrder, says: str) -> None:
    with pytest.raises(OrderError) as refused:
        order.build_code()
    assert says in str(refused.value)
