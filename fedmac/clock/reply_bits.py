"""How long the reply to a training message is."""

from __future__ import annotations

import json
import math
from functools import lru_cache

from flwr.app import ArrayRecord, ConfigRecord, Message

from channel.codecs import CODECS, NestedDitheredQuantizer
from channel.layout import Layout
from channel.order import ORDER_KEY, PACKET_KEY
from channel.records import records_in
from strategies.systems.model_form import FlatModel


def bits_of_reply(message: Message, bits: float) -> float:
    """Of a trained model as many as of the model sent, `bits`; of a packet those of its codec.

    NaN where a packet's length depends on more than the codec: with entropy coding, a budget, or a code of its own.
    """
    content = message.content
    if ORDER_KEY not in content or "codec" not in (order := records_in(content, ConfigRecord)[ORDER_KEY]):
        return bits
    if order["packing"] != "fixed" or "budget" in order:
        return math.nan
    (model,) = records_in(content, ArrayRecord).values()
    return _fixed_bits(str(order["codec"]), str(order["parameters"]), _entries(model))


def packet_bits(reply: Message | None) -> float:
    """Bits of the packet in a reply; a device that failed sends none."""
    if reply is None or reply.has_error() or PACKET_KEY not in records_in(reply.content, ArrayRecord):
        return 0.0
    return float(8 * sum(array.numpy().nbytes for array in records_in(reply.content, ArrayRecord)[PACKET_KEY].values()))


@lru_cache(maxsize=64)
def _fixed_bits(codec: str, parameters: str, size: int) -> float:
    if codec not in CODECS or CODECS[codec] is NestedDitheredQuantizer:  # of which some devices use another
        return math.nan
    made = CODECS[codec](**json.loads(parameters))
    return math.nan if any(field.coded for field in made.fields(size)) else float(made.bits(size))


def _entries(model: ArrayRecord) -> int:
    if isinstance(model, FlatModel):
        return len(model.__dict__["flat"])
    return Layout.of_arrays({name: array.numpy() for name, array in model.items()}).size
