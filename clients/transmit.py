"""The transmit mod: turns a trained model into channel symbols, as the server's order says."""

from __future__ import annotations

import time

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from channel.codecs import ErrorFeedback
from channel.codecs.factor_layers import FactoredLayer, encode_layers
from channel.codes import Code
from channel.codes.symbol_scale import symbol_scale
from channel.layout import Layout
from channel.order import (
    ANEW,
    BLOCKS_KEY,
    DEVICE,
    DEVICE_QUERY,
    FACTORS_KEY,
    ORDER_KEY,
    PACKET_KEY,
    SEED,
    SYMBOLS_KEY,
    TRANSMISSION_KEY,
    PacketOrder,
    TransmitOrder,
)
from channel.records import records_in
from clients.factored_update import factored_layers
from clients.residual import forget, keep_residual, keep_sent, residual_in


def transmit(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    r"""Flower mod: reply with coded symbols of the update instead of the trained model.

    With x = trained - received model, flattened, the reply carries :math:`\sqrt n A x / \|x\|` (unit power a channel
    use), the norm :math:`\|x\|`, the seconds that the app took, the order's seed, and the app's own metrics; the model
    itself is never sent. Where the code sends a part of an update, x is that part. Messages without a transmit order (a
    server that does not use FedMAC, or an evaluation) pass through unchanged. Where the server asks for vectors (a
    message with the record ``BLOCKS_KEY``) the reply's arrays are sent as they are, each on its own, instead of an
    update.

    Where the order is for packets (a digital link) the reply carries the update's packet instead, see
    :mod:`channel.codecs`. If it is for a codec of factors, the app is asked for them (a config record ``FACTORS_KEY``)
    and gives them beside the model.

    Use it as ``ClientApp(mods=[transmit])``. Error feedback (a code with ``error_feedback=True``, or an order for
    packets with a weight of it) adds to x what earlier rounds left out, and what packets that were lost stood for; both
    live in ``context.state`` (:mod:`clients.residual`), and are dropped when a run begins.
    """
    if DEVICE_QUERY in records_in(message.content, ConfigRecord):
        return _say_device(message, context)
    if ORDER_KEY not in records_in(message.content, ConfigRecord):
        return call_next(message, context)
    config = records_in(message.content, ConfigRecord)[ORDER_KEY]
    order = PacketOrder.from_config(config) if "codec" in config else TransmitOrder.from_config(config)
    if config.get(ANEW):
        forget(context.state)
    # Messages of one round may share their content: the app gets a record without the order, the original stays whole.
    message.content = RecordDict({name: r for name, r in message.content.items() if name != ORDER_KEY})
    of_factors = isinstance(order, PacketOrder) and order.factor_codec is not None
    if of_factors:
        message.content[FACTORS_KEY] = ConfigRecord()
    vectors = BLOCKS_KEY in records_in(message.content, ConfigRecord)
    received = {} if vectors else _only_arrays(message.content, "message")
    start = time.perf_counter()
    reply = call_next(message, context)
    seconds = time.perf_counter() - start
    if reply.has_error():
        return reply
    factors = reply.content.pop(FACTORS_KEY, None) if of_factors else None
    trained = _only_arrays(reply.content, "reply")
    metrics = next(iter(records_in(reply.content, MetricRecord).values()), MetricRecord())
    if vectors and isinstance(order, TransmitOrder):
        reply.content = _coded_vectors(trained, order, metrics, context, seconds)
        return reply
    layout = Layout.of_arrays(received)
    update = torch.from_numpy(layout.flatten(trained) - layout.flatten(received))
    if isinstance(order, PacketOrder):
        layers = _layers(layout, factors, order.codec) if of_factors else None
        reply.content = _packet(update, layers, order, int(str(config[DEVICE])), metrics, context, seconds)
    else:
        reply.content = _coded(update, order, metrics, context, seconds)
    return reply


def _coded(
    update: torch.Tensor, order: TransmitOrder, metrics: MetricRecord, context: Context, seconds: float
) -> RecordDict:
    code = order.build_code()
    if code.error_feedback:
        residual = residual_in(context.state)
        if residual is not None:
            update = update + residual.to(update.dtype)
        keep_residual(context.state, code.residual(update, order.seed))
    symbols, norm = _symbols(update, code, order.seed)
    device = context.node_config.get("partition-id", -1)
    return RecordDict(
        {
            SYMBOLS_KEY: ArrayRecord({SYMBOLS_KEY: Array(symbols.numpy())}),
            "metrics": metrics,
            TRANSMISSION_KEY: ConfigRecord(
                {"device": int(device), "norm": norm, "size": update.numel(), "seconds": seconds, SEED: order.seed}
            ),
        }
    )


def _packet(
    update: torch.Tensor,
    layers: list[FactoredLayer] | None,
    order: PacketOrder,
    device: int,
    metrics: MetricRecord,
    context: Context,
    seconds: float,
) -> RecordDict:
    """The update as the bytes that a digital link carries, by the codec and seed of the server's number of the device.

    The node's own number would not do: nodes may have none, or two the same.
    """
    seed = order.seed_of(device)
    norm = float(torch.linalg.vector_norm(update, dtype=torch.float64))
    if layers is not None and order.factor_codec is not None:
        packet = encode_layers(order.factor_codec, layers, seed=seed, packing=order.packing)
    elif order.error_feedback is None:
        packet = order.codec_of(device, update.numel()).encode(update, seed=seed, packing=order.packing)
    else:
        feedback = ErrorFeedback(order.codec_of(device, update.numel()), order.error_feedback)
        held = residual_in(context.state, order.lost_since.get(device))
        packet, decoded, left = feedback.encode_and_decode(update, held, seed=seed, packing=order.packing)
        keep_residual(context.state, left)
        keep_sent(context.state, decoded, order.seed)
    payload = np.frombuffer(packet.payload, dtype=np.uint8)
    return RecordDict(
        {
            PACKET_KEY: ArrayRecord({PACKET_KEY: Array(payload)}),
            "metrics": metrics,
            TRANSMISSION_KEY: ConfigRecord({"device": device, "norm": norm, "seconds": seconds, SEED: order.seed}),
        }
    )


def _layers(layout: Layout, factors: object, codec: str) -> list[FactoredLayer]:
    """The update by the factors that the app gives beside it."""
    if not isinstance(factors, ArrayRecord):
        raise ValueError(
            f"transmit: codec {codec!r} sends the factors of dense layers' gradients, but the app's reply has no "
            f"ArrayRecord {FACTORS_KEY!r}; use the ClientApp of clients.app, or another codec"
        )
    return factored_layers(layout, {name: array.numpy() for name, array in factors.items()})


def _coded_vectors(
    vectors: dict[str, np.ndarray], order: TransmitOrder, metrics: MetricRecord, context: Context, seconds: float
) -> RecordDict:
    """Each vector coded on its own, with its own norm: vectors of very different size must not share one scale.

    Their blocks are numbered in the order of their names, the one order that both ends know.
    """
    said: dict[str, int | float] = {"device": int(context.node_config.get("partition-id", -1)), "seconds": seconds}
    said[SEED] = order.seed
    coded: dict[str, Array] = {}
    for block, (name, vector) in enumerate(sorted(vectors.items())):
        own = order.of_block(block)
        symbols, norm = _symbols(torch.from_numpy(vector.reshape(-1)), own.build_code(), own.seed)
        coded[name] = Array(symbols.numpy())
        said |= {f"{name}.norm": norm, f"{name}.size": vector.size}
    return RecordDict({SYMBOLS_KEY: ArrayRecord(coded), "metrics": metrics, TRANSMISSION_KEY: ConfigRecord(dict(said))})


def _symbols(update: torch.Tensor, code: Code, seed: int) -> tuple[torch.Tensor, float]:
    """Unit-power symbols of a vector, and the norm of what of it is sent."""
    norm = float(torch.linalg.vector_norm(code.sent(update), dtype=torch.float64))
    symbols = code.encode(update, seed)
    if norm > 0:
        symbols = symbols * (symbol_scale(code, update.numel()) / norm)
    return symbols, norm


def _only_arrays(content: RecordDict, where: str) -> dict[str, np.ndarray]:
    records = records_in(content, ArrayRecord)
    if len(records) != 1:
        raise ValueError(f"transmit: the {where} must carry exactly one ArrayRecord (the model), found {list(records)}")
    record = next(iter(records.values()))
    return {name: array.numpy() for name, array in record.items()}


def _say_device(message: Message, context: Context) -> Message:
    device = context.node_config.get("partition-id", -1)
    content = RecordDict({TRANSMISSION_KEY: ConfigRecord({"device": int(device)})})
    return Message(content, reply_to=message)
