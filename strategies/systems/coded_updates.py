"""Workers' updates as packets of a codec, each decoded on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message

from channel.codecs import Codec, NestedDitheredQuantizer
from channel.codecs.packet import Packet, Packing
from channel.order import PACKET_KEY, PacketOrder
from channel.randomness import key
from channel.records import records_in
from strategies.mean_exchange import Vector
from strategies.packets import SentPacket, decode_packets, most_bytes
from strategies.received import check_seed, largest_norm, read_array
from strategies.refusal import BadPayload
from strategies.systems.model_form import ModelForm
from strategies.systems.update import check_content


@dataclass(frozen=True)
class CodedUpdates:
    """How workers send their updates, in place of trained models: each as a packet of a codec.

    A worker's ClientApp uses the mod :func:`clients.transmit`, which encodes the difference of the trained model and
    the one that it was sent. What the server moves by is what it decodes; each packet has a seed of its own, by run,
    worker and step.

    Parameters
    ----------
    codec : Codec
        Makes the packets.
    packing : {"fixed", "entropy"}, default "fixed"
        How packets hold their symbols.
    seed : int, default 0
        Of the run.
    numbers : mapping of int to int, optional
        The device of each node, so that draws go by device; a node that is not there goes by its own number.

    Raises
    ------
    ValueError
        With the nested quantiser, whose packets are decoded with what others say in the same exchange.
    """

    codec: Codec
    packing: Packing = "fixed"
    seed: int = 0
    numbers: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.codec, NestedDitheredQuantizer):
            raise ValueError(
                f"codec = {self.codec.name!r}: decodes packets with what others say in the same exchange; accepted: "
                "another codec"
            )

    def order(self, step: int) -> PacketOrder:
        """What workers must know to send their `step`."""
        return PacketOrder(self.codec.name, self.codec.parameters, key(self.seed, "packets", step), self.packing)

    def record(self, node: int, step: int) -> ConfigRecord:
        """The order for a node's step, as it goes with the message."""
        order = self.order(step)
        return ConfigRecord({**order.to_config(), **order.own(self._number(node))})

    def read(self, reply: Message, form: ModelForm, node: int, step: int) -> Vector:
        """The update that a reply's packet stands for.

        Parameters
        ----------
        reply : Message
            With the packet.
        form : ModelForm
            Of the model.
        node, step : int
            Whose it is, and which of its steps.

        Returns
        -------
        ndarray of shape (d,)
            In the model's type.

        Raises
        ------
        BadPayload
            If the worker failed, or sent no packet of this codec, step and size, or one of an update too large to be
            believed.
        """
        check_content(reply)
        order, device, size = self.order(step), self._number(node), form.layout.size
        check_seed(reply, order.seed)
        arrays = records_in(reply.content, ArrayRecord)
        if PACKET_KEY not in arrays or PACKET_KEY not in arrays[PACKET_KEY]:
            raise BadPayload("the reply carries no packet: does the worker's ClientApp use the mod clients.transmit?")
        most = most_bytes(order, device, form.layout)
        content = read_array(arrays[PACKET_KEY][PACKET_KEY], "the packet's bytes", (), (np.uint8,), most=most)
        packet = SentPacket(device, Packet(content.tobytes()), 1.0, 0.0, {}, None)
        decoded = decode_packets([packet], order, size, largest_norm(form.layout))
        for failure in decoded.failures:
            raise BadPayload(failure.reason, failure.kind)
        update: Vector = decoded.updates[device].numpy().astype(form.layout.dtype)
        return update

    def _number(self, node: int) -> int:
        return self.numbers.get(node, node)
