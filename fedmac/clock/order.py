"""Messages on their way through a device, and what is kept of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message, RecordDict

from channel.records import records_in
from strategies.device_states import plain_record, record_of


@dataclass(slots=True)
class Order:
    """A message on its way through a device.

    Attributes
    ----------
    number : int
        In the order of sending.
    message : Message
        As it was sent.
    device, step : int
        Whose it is, and which of the device's messages.
    bits, reply_bits : float
        Of the message and of its reply; NaN of a reply that has to be computed to tell.
    watts, busy : float
        What the work draws (W), and how long it takes (s); less where the device goes meanwhile.
    reached, start, ready : float
        When the message is at the device, when work on it begins, and when its reply can be sent (s).
    answered : bool
        Whether its reply will arrive.
    reply : Message or None
        Once it is computed.
    """

    number: int
    message: Message
    device: int
    step: int
    bits: float
    reply_bits: float
    watts: float = 0.0
    busy: float = 0.0
    reached: float = math.inf
    start: float = math.inf
    ready: float = math.inf
    answered: bool = False
    reply: Message | None = None


def id_of(number: int) -> str:
    """The id of the message of an order."""
    return f"clock-{number}"


def number_of(message_id: str) -> int:
    """The order that a message's id stands for."""
    return int(message_id.removeprefix("clock-"))


def kept_orders(orders: Iterable[Order]) -> dict[str, Any]:
    """Orders as plain values, without their replies; models that several carry are kept once."""
    records: dict[int, tuple[int, ArrayRecord]] = {}
    kept = [_kept(order, records) for order in orders]
    return {"records": [plain_record(RecordDict({"": record})) for _, record in records.values()], "orders": kept}


def _kept(order: Order, records: dict[int, tuple[int, ArrayRecord]]) -> dict[str, Any]:
    message = order.message
    carried = dict(records_in(message.content, ArrayRecord))
    arrays = {name: records.setdefault(id(r), (len(records), r))[0] for name, r in carried.items()}
    figures = [order.number, order.device, order.step, order.bits, order.reply_bits]
    return {
        "figures": [*figures, order.watts, order.busy, order.reached, order.start, order.ready, order.answered],
        "type": message.metadata.message_type,
        "group": message.metadata.group_id,
        "arrays": arrays,
        "rest": plain_record(RecordDict({name: r for name, r in message.content.items() if name not in arrays})),
    }


def orders_from(
    kept: Mapping[str, Any], create_message: Callable[[RecordDict, str, int, str], Message], nodes: Sequence[int]
) -> list[Order]:
    """The orders of :func:`kept_orders`; `create_message` is a grid's, `nodes` are those of the devices."""
    records = [next(iter(records_in(record_of(plain), ArrayRecord).values())) for plain in kept["records"]]
    orders = []
    for one in kept["orders"]:
        number, device, *figures = one["figures"]
        arrays = {name: records[place] for name, place in one["arrays"].items()}
        content = RecordDict({**arrays, **record_of(one["rest"])})
        message = create_message(content, one["type"], nodes[device], one["group"])
        message.metadata.__dict__["_message_id"] = id_of(number)
        orders.append(Order(number, message, device, *figures))
    return orders
