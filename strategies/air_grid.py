"""The air between server and devices, as a Flower Grid around any other Grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray
from torch import Tensor

from channel.layout import Layout
from channel.ledger import Ledger
from channel.memory import restore_into, state_of
from channel.order import (
    ANEW,
    BLOCKS_KEY,
    DEVICE_QUERY,
    ORDER_KEY,
    RECEPTION_KEY,
    SCALARS_KEY,
    PacketOrder,
    TransmitOrder,
)
from channel.uplinks import DigitalUplink, Experience, MeanUplink, Reception, Uplink
from strategies.air_messages import (
    energy_share,
    failure_of,
    goes_over_the_air,
    kind_of,
    model_of,
    scalars_of,
    weighted_metrics,
)
from strategies.air_record import (
    Record,
    cost_of_packets,
    cost_of_scalars,
    costs_of,
    exchange_record,
    failures_of,
    not_asked_of,
    packet_record,
    round_of,
)
from strategies.believed_weights import cap_replies, capped_metrics
from strategies.cohort import CohortGrid, Gathered
from strategies.device_states import KeepsDeviceStates, plain_record, record_of
from strategies.gathering import Wanted, gathered_blocks
from strategies.node_wait import NodeWait
from strategies.packets import SentPacket, decode_packets, dense_layers, read_packets, reply_with_update
from strategies.quarantine import Quarantine
from strategies.received import (
    LARGEST_NORM,
    Metrics,
    largest_norm,
    read_metrics,
    read_weight,
    said_of_transmission,
)
from strategies.refusal import LOST, NO_REPLY, BadPayload, Failure
from strategies.replies import matched
from strategies.trust import DECODED, Trust
from strategies.wire import Wire

UNREACHABLE = "unreachable"
"""Why a device is not asked that no order gets to."""

NOT_FINITE = "the model would not be finite: the update received is left out"

QUERY_TIMEOUT = 60.0
"""Seconds to wait for nodes to say which device they are."""


class AirGrid(Grid):
    """A Grid whose training replies pass through an uplink: N devices send, one reply with their mean arrives.

    Messages of type ``train`` and ``train.<action>`` go over the air; everything else (``evaluate``, ``query``) takes
    a reliable control channel, the wrapped grid, unchanged. The scalars that devices answer to a ``query.<action>``
    are charged: 32 bits each, and no energy.

    Parameters
    ----------
    grid : Grid
        The grid that reaches the devices. Their ClientApp uses the mod :func:`clients.transmit`.
    uplink : Uplink
        What happens between devices and server.
    seed : int, default 0
        Seed of everything the air draws: codes, fading, noise.
    weighted_by_key : str, default "num-examples"
        Metric that holds a device's aggregation weight.
    on_exchange : callable, optional
        Called with the record (a JSON-ready dict) of each exchange.
    trust : Trust, optional
        How far devices are believed. Whatever they send, :meth:`send_and_receive` raises nothing: what cannot be used
        is left out of the sum, told by device, and counted by :attr:`quarantine`.

    Attributes
    ----------
    ledger : Ledger
        What the exchanges have cost so far.
    wall_train, wall_uplink : float
        Seconds that this process has waited for devices, and worked on the uplink.
    wire : Wire
        Bytes of arrays that messages to and from devices held, where they are messages.
    quarantine : Quarantine
        Who has sent what nobody can use, and who is not asked for it.
    wait : NodeWait
        How long whoever asks for nodes may wait for them.
    """

    def __init__(
        self,
        grid: Grid,
        uplink: Uplink,
        *,
        seed: int = 0,
        weighted_by_key: str = "num-examples",
        on_exchange: Callable[[Record], None] | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.grid = grid
        self.uplink = uplink
        self.seed = seed
        self.weighted_by_key = weighted_by_key
        self.on_exchange = on_exchange
        self.trust = trust or Trust()
        self.quarantine = Quarantine(self.trust)
        self.ledger = Ledger(1)
        self.exchanges = 0
        self.wall_train = 0.0
        self.wall_uplink = 0.0
        self.wire = Wire()
        self._device_of: dict[int, int] = {}
        self._ordered: set[int] = set()
        self.wait = NodeWait()
        self._experience = Experience()
        self._not_asked: dict[int, str] = {}

    # What the wrapped grid does as well as we could.

    def set_run(self, run: Run) -> None:
        """Set the run of the wrapped grid."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The wrapped grid's run."""
        return self.grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message on the wrapped grid."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The wrapped grid's nodes."""
        return self.grid.get_nodes()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull replies from the wrapped grid."""
        return self.grid.pull_messages(message_ids)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push messages that do not go over the air.

        Raises
        ------
        RuntimeError
            For training messages: what many devices send at once can only be heard by :meth:`send_and_receive`.
        """
        messages = list(messages)
        if any(goes_over_the_air(m) for m in messages):
            raise RuntimeError(
                "AirGrid.push_messages: training messages go over the air, where all devices of an exchange send at "
                "once; use send_and_receive"
            )
        return self.grid.push_messages(messages)

    # What the air adds.

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs between two rounds, with the states of devices that live in this process."""
        devices = self.grid.device_states() if isinstance(self.grid, KeepsDeviceStates) else None
        return {
            "exchanges": self.exchanges,
            "ledger": self.ledger.state(),
            "wall": [self.wall_train, self.wall_uplink],
            "wire": [self.wire.down, self.wire.up],
            "experience": self._experience.state(),
            "quarantine": self.quarantine.state(),
            "uplink": state_of(self.uplink),
            "ordered": sorted(self._ordered),
            "devices": None if devices is None else [[n, plain_record(devices[n])] for n in sorted(devices)],
        }

    def restore(self, state: Mapping[str, Any]) -> bool:
        """Go on from a :meth:`state`; says whether devices do so too, else their next orders are their first."""
        self.exchanges = state["exchanges"]
        self.ledger.restore(state["ledger"])
        self.wall_train, self.wall_uplink = state["wall"]
        self.wire = Wire(*state["wire"])
        self._experience.restore(state["experience"])
        self.quarantine.restore(state["quarantine"])
        restore_into(self.uplink, state["uplink"])
        if state["devices"] is None or not isinstance(self.grid, KeepsDeviceStates):
            return False
        self.grid.restore_device_states({number: record_of(plain) for number, plain in state["devices"]})
        self._ordered = set(state["ordered"])
        return True

    def get_node_ids(self) -> list[int]:
        """Connected nodes in the order of their device numbers.

        Node ids are random in each run of Flower; device numbers (data partitions) are not. Nodes seen for the first
        time are asked for theirs; those that give none are numbered in the order of their ids.
        """
        nodes = list(self.grid.get_node_ids())
        strangers = [node for node in nodes if node not in self._device_of]
        if strangers:
            self._meet(strangers)
        self.wait.look(len(nodes), {self._device_of[node] for node in nodes})
        return sorted(nodes, key=lambda node: self._device_of[node])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return what arrives: over the air at most one merged reply; the record names who failed."""
        messages = list(messages)
        if not messages:
            return []
        self.get_node_ids()
        if not goes_over_the_air(messages[0]):
            return self._exchange_scalars(messages, timeout)
        self.exchanges += 1
        reachable = self._reachable(messages)
        if not reachable:
            nobody = [Failure(device, reason) for device, reason in self._not_asked.items()]
            return self._unheard(messages, nobody) if BLOCKS_KEY in messages[0].content.config_records else []
        messages = reachable
        if isinstance(self.uplink, DigitalUplink):
            return self._exchange_packets(self.uplink, messages, timeout)
        if not isinstance(self.uplink, MeanUplink):
            raise TypeError(f"AirGrid: uplink is a {type(self.uplink).__name__}; accepted: MeanUplink, DigitalUplink")
        if BLOCKS_KEY in messages[0].content.config_records:
            return self._exchange_vectors(self.uplink, messages, timeout)
        return self._exchange_updates(self.uplink, messages, timeout)

    def _exchange_packets(self, uplink: DigitalUplink, messages: list[Message], timeout: float | None) -> list[Message]:
        """Each device sends its update as a packet; those that arrive are replies of their own."""
        if BLOCKS_KEY in messages[0].content.config_records:
            raise ValueError(
                "AirGrid: this strategy's devices send vectors that are no updates, which packets do not carry yet; "
                "accepted: an ideal uplink, or one over the air"
            )
        message_to = {self._device_of[m.metadata.dst_node_id]: m for m in messages}
        arrays = model_of(messages[0])
        layout, able = Layout.of_arrays(arrays), np.array(sorted(message_to))
        size = layout.size
        plan = uplink.plan(self._experience, able, self._total(), size, self.exchanges, self.seed)
        asked = {device: message for device, message in message_to.items() if device not in plan.not_asked}
        start = time.perf_counter()
        answers = self._ask(list(asked.values()), plan.order, timeout)
        packets, failures = read_packets(answers, self.weighted_by_key, plan.order, layout)
        failures += self._without_too_long(packets)
        self.wall_train += time.perf_counter() - start
        start = time.perf_counter()
        record: Record = {"participants": len(packets), "devices": [p.device for p in packets], "heard": False}
        round = round_of(messages[0], self.exchanges)
        self.ledger.grow(self._total())
        replies: list[Message] = []
        acknowledged: set[int] = set()
        if packets:
            devices = np.array([packet.device for packet in packets])
            bits = [p.packet.bits for p in packets]
            sent = uplink.deliver(devices, self._total(), bits, self.exchanges, self.seed, self._experience)
            came = [packet for packet, arrived in zip(packets, sent.arrived, strict=True) if arrived]
            failures += [Failure(p.device, why, LOST) for p, why in zip(packets, sent.reasons, strict=True) if why]
            most = self.trust.longest({p.device: p.norm for p in packets}) * DECODED
            decoded = decode_packets(came, plan.order, size, min(largest_norm(layout), most), dense_layers(layout))
            failures += decoded.failures
            acknowledged = {*decoded.updates, *decoded.refused}
            name = next(iter(messages[0].content.array_records))
            good = [packet for packet in came if packet.device in decoded.updates]
            metrics = capped_metrics([(p.metrics, p.weight) for p in good], self.weighted_by_key, self.trust)
            replies = [
                reply_with_update(message_to[p.device], name, arrays, decoded.updates[p.device], own)
                for p, own in zip(good, metrics, strict=True)
            ]
            for packet, blocks in zip(packets, sent.record["attempts"], strict=True):
                if blocks:
                    self._experience.hear(packet.device, packet.weight, packet.norm)
            self.ledger.charge(round, devices, cost_of_packets(sent.cost, packets))
            record |= sent.record | packet_record(packets, good, sent.cost, decoded.suspected_wraps)
        self._experience.acknowledge(plan.order.seed, asked, acknowledged)
        self.wall_uplink += time.perf_counter() - start
        self._judge(round, answers, failures)
        record |= {"exchange": self.exchanges, "round": round, "failures": failures_of(failures)}
        self._not_asked |= plan.not_asked
        record["not_asked"] = not_asked_of(self._not_asked)
        self._tell(record, wall_train_s=self.wall_train, wall_uplink_s=self.wall_uplink)
        return replies

    def _exchange_updates(self, uplink: MeanUplink, messages: list[Message], timeout: float | None) -> list[Message]:
        """The usual training: devices send their updates, and the reply is the model plus the received mean update."""
        order = uplink.order(self.exchanges, self.seed)
        arrays = model_of(messages[0])
        layout = Layout.of_arrays(arrays)
        # Error feedback lives in a device's context, an action of the app's own in the app, and a code that is not
        # linear works on single updates: all need messages.
        start = time.perf_counter()
        code = order.build_code()
        in_place = messages[0].metadata.message_type == MessageType.TRAIN and code.linear and not code.error_feedback
        if in_place and isinstance(self.grid, CohortGrid):
            gathered = self.grid.train_cohort(messages, self.weighted_by_key, uplink.needs_updates)
            if gathered.cohort is not None and self.trust.largest_weight_share < 1:
                gathered.cohort.weights = self.trust.capped(gathered.cohort.weights)
        else:
            (gathered,) = self._gather(messages, order, {None: layout.size}, timeout, largest_norm(layout))
        self.wall_train += time.perf_counter() - start
        (reception,) = receptions = self._hear(uplink, [gathered], energy_share(messages[0]))
        learnt = None if reception is None or reception.update is None else _added(layout, arrays, reception.update)
        if reception is not None and reception.update is not None and learnt is None:
            said = [*reception.record.get("warnings", []), NOT_FINITE]
            told = reception.record | {"heard": False, "warnings": said}
            receptions = [replace(reception, update=None, record=told)]
        self._report(messages[0], gathered, receptions)
        if reception is None or learnt is None:
            return []
        name = next(iter(messages[0].content.array_records))
        arrays = arrays | learnt
        return [self._merged_reply(messages[0], name, arrays, gathered, {name: reception})]

    def _exchange_vectors(self, uplink: MeanUplink, messages: list[Message], timeout: float | None) -> list[Message]:
        """Devices send vectors, each over a block of channel uses of its own; the reply holds their means."""
        order = uplink.order(self.exchanges, self.seed)
        if order.build_code().error_feedback:
            raise ValueError(
                "AirGrid: error feedback adds to a message what earlier ones left out, which has no meaning for "
                "vectors that are no updates; accepted: a code without error feedback"
            )
        asked = messages[0].content.config_records[BLOCKS_KEY]
        sizes: dict[str | None, int] = {name: int(str(size)) for name, size in sorted(asked.items())}
        start = time.perf_counter()
        gathered = self._gather(messages, order, sizes, timeout)
        self.wall_train += time.perf_counter() - start
        receptions = self._hear(uplink, gathered, energy_share(messages[0]))
        self._report(messages[0], gathered[0], receptions, [str(name) for name in sizes])
        heard = {str(name): one for name, one in zip(sizes, receptions, strict=True) if one is not None}
        means = {name: one.update.numpy() for name, one in heard.items() if one.update is not None}
        if len(means) < len(sizes):
            return self._unheard(messages, gathered[0].failures)
        return [self._merged_reply(messages[0], "vectors", means, gathered[0], heard)]

    def _reachable(self, messages: list[Message]) -> list[Message]:
        """The messages whose devices can be reached in this exchange; what there is to tell if there are none."""
        lost = self.uplink.channel.unreachable(self.exchanges, self._total(), self.seed)
        device_of = [self._device_of[message.metadata.dst_node_id] for message in messages]
        round = round_of(messages[0], self.exchanges)
        out = {device: self.quarantine.out(device, round) for device in sorted(device_of)}
        reasons = {device: reason or (UNREACHABLE if lost[device] else None) for device, reason in out.items()}
        self._not_asked = {device: reason for device, reason in reasons.items() if reason is not None}
        kept = [m for m, device in zip(messages, device_of, strict=True) if device not in self._not_asked]
        if not kept:
            self._report(messages[0], Gathered(None, []), [])
        return kept

    def _hear(self, uplink: MeanUplink, gathered: Sequence[Gathered], energy_share: float) -> list[Reception | None]:
        """What the server hears of each block; None where nobody sends."""
        start = time.perf_counter()
        receptions = [
            None if one.cohort is None else uplink.receive(one.cohort, self.exchanges, self.seed, block, energy_share)
            for block, one in enumerate(gathered)
        ]
        self.wall_uplink += time.perf_counter() - start
        return receptions

    def _meet(self, strangers: Sequence[int]) -> None:
        # A training message: Flower hands mods no message of a type that the app has no function for.
        question = RecordDict({DEVICE_QUERY: ConfigRecord()})
        queries = [Message(question, node, MessageType.TRAIN) for node in strangers]
        replies = self.grid.send_and_receive(queries, timeout=QUERY_TIMEOUT)
        node_of = {m.metadata.message_id: m.metadata.dst_node_id for m in queries}
        for asked, reply in matched(queries, replies).of.items():
            device = said_of_transmission(reply).get("device") if reply.has_content() else None
            if self.trust.believes_number(device) and device not in self._device_of.values():
                self._device_of[node_of[asked]] = int(str(device))
        taken = set(self._device_of.values())
        free = (number for number in range(len(taken) + len(strangers)) if number not in taken)
        for node in sorted(set(strangers) - set(self._device_of)):
            self._device_of[node] = next(free)

    def _gather(
        self,
        messages: list[Message],
        order: TransmitOrder,
        sizes: Mapping[str | None, int],
        timeout: float | None,
        longest: float = LARGEST_NORM,
    ) -> list[Gathered]:
        """Ask the devices by message, and check what each sends."""
        wanted = Wanted(order, sizes, scalars_of(messages[0]), self.weighted_by_key, longest)
        answers = self._ask(messages, order, timeout)
        gathered = gathered_blocks(answers, wanted, self.trust, self._total())
        self._judge(round_of(messages[0], self.exchanges), answers, gathered[0].failures)
        return gathered

    def _without_too_long(self, packets: list[SentPacket]) -> list[Failure]:
        """Take out packets of updates that are too long to be believed; what they fail for."""
        too_long = self.trust.too_long({packet.device: packet.norm for packet in packets})
        packets[:] = [packet for packet in packets if packet.device not in too_long]
        return [Failure(device, reason, "norm") for device, reason in too_long.items()]

    def _judge(self, round: int, answers: Sequence[tuple[int, Message | None]], failures: Sequence[Failure]) -> None:
        """Count what was bad of an exchange's answers."""
        answered = sum(reply is not None and reply.has_content() for _, reply in answers)
        self.quarantine.note(round, answered, failures)

    def _ask(
        self, messages: list[Message], order: TransmitOrder | PacketOrder, timeout: float | None
    ) -> list[tuple[int, Message | None]]:
        """The devices asked, in the order of their numbers, each with its reply."""
        common = order.to_config()
        for message in messages:
            device = self._device_of[message.metadata.dst_node_id]
            own = ConfigRecord({**common, **order.own(device), ANEW: device not in self._ordered})
            message.content = RecordDict({**message.content, ORDER_KEY: own})  # models stay shared
        answered = self._answers(messages, timeout)
        self._ordered.update(device for device, reply in answered.items() if reply.has_content())
        asked = [self._device_of[message.metadata.dst_node_id] for message in messages]
        return [(device, answered.get(device)) for device in sorted(asked)]

    def _answers(self, messages: list[Message], timeout: float | None) -> dict[int, Message]:
        """The replies to messages by device; what belongs to none of them is counted."""
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        if not isinstance(self.grid, CohortGrid):
            self.wire.count(messages, replies)
        found = matched(messages, replies)
        self.quarantine.note_strays(found.strays)
        device_of = {m.metadata.message_id: self._device_of[m.metadata.dst_node_id] for m in messages}
        return {device_of[asked]: reply for asked, reply in found.of.items()}

    def _device(self, message: Message) -> int:
        return self._device_of[message.metadata.dst_node_id]

    def _total(self) -> int:
        return max(self._device_of.values(), default=-1) + 1

    def _merged_reply(
        self,
        to: Message,
        name: str,
        arrays: dict[str, NDArray[Any]],
        gathered: Gathered,
        heard: Mapping[str, Reception],
    ) -> Message:
        assert gathered.cohort is not None
        metrics = weighted_metrics(gathered.metrics, gathered.cohort.weights)
        metrics[self.weighted_by_key] = 1.0
        node_of = {device: node for node, device in self._device_of.items()}
        nodes = [node_of[device] for device in gathered.cohort.devices.tolist()]
        noise = {f"{block}.noise-variance": one.noise_variance for block, one in heard.items()}
        snr = min(one.snr for one in heard.values())
        content = RecordDict(
            {
                name: ArrayRecord({key: Array(np.ascontiguousarray(a)) for key, a in arrays.items()}),
                "metrics": MetricRecord(metrics),
                RECEPTION_KEY: ConfigRecord({"nodes": nodes, "snr": snr, **noise}),
            }
        )
        return Message(content, reply_to=to)

    def _unheard(self, messages: Sequence[Message], failures: Sequence[Failure]) -> list[Message]:
        """Why nothing is heard of the devices that failed, as errors."""
        reasons = {failure.device: failure.reason for failure in failures}
        return [
            Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reasons[device]), reply_to=message)
            for message in messages
            if (device := self._device_of[message.metadata.dst_node_id]) in reasons
        ]

    def _exchange_scalars(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Messages whose replies take the control channel: those that are of use, and errors in place of the others."""
        round = round_of(messages[0], self.exchanges)
        out = {m.metadata.dst_node_id: self.quarantine.out(self._device(m), round) for m in messages}
        asked = [message for message in messages if out[message.metadata.dst_node_id] is None]
        answers = self._answers(asked, timeout) if asked else {}
        good: dict[int, tuple[Message, Metrics]] = {}
        failures: list[Failure] = []
        for message in messages:
            device, reason = self._device(message), out[message.metadata.dst_node_id]
            reply = answers.get(device)
            if reason is not None:
                failures.append(Failure(device, reason))
            elif reply is None or reply.has_error():
                failures.append(failure_of(device, reply))
            else:
                try:
                    good[device] = (reply, self._read_scalars(message, reply))
                except BadPayload as bad:
                    failures.append(Failure(device, str(bad), bad.kind))
        cap_replies(good.values(), self.weighted_by_key, self.trust)
        self._judge(round, [(device, reply) for device, reply in answers.items()], failures)
        if kind_of(messages[0]) == MessageType.QUERY:
            self._report_scalars(round, {device: reply for device, (reply, _) in good.items()}, failures)
        silent = {failure.device for failure in failures if failure.kind == NO_REPLY}
        errors = self._unheard(messages, [failure for failure in failures if failure.device not in silent])
        return [reply for reply, _ in good.values()] + errors

    def _read_scalars(self, message: Message, reply: Message) -> Metrics:
        """The metrics of a reply on the control channel, as far as it is known what they must be; else none."""
        if SCALARS_KEY not in message.content.config_records and kind_of(message) != MessageType.EVALUATE:
            return {}
        metrics = read_metrics(reply, scalars_of(message))
        read_weight(metrics, self.weighted_by_key)
        return metrics

    def _report_scalars(self, round: int, answers: Mapping[int, Message], failures: Sequence[Failure]) -> None:
        """Charge what devices answered on the control channel, and tell the observer."""
        devices = sorted(answers)
        cost = cost_of_scalars([answers[device] for device in devices])
        self.ledger.grow(self._total())
        self.ledger.charge(round, devices, cost)
        self._tell({"round": round, "failures": failures_of(failures), "control_bits": cost.bits})

    def _report(
        self,
        message: Message,
        gathered: Gathered,
        receptions: Sequence[Reception | None],
        names: Sequence[str] = (),
    ) -> None:
        """Charge the ledger and tell the observer; vectors have their figures by name."""
        round = round_of(message, self.exchanges)
        self.ledger.grow(self._total())
        heard = [reception for reception in receptions if reception is not None]
        if gathered.cohort is not None:
            for cost in costs_of(gathered, heard):
                self.ledger.charge(round, gathered.cohort.devices, cost)
        record: Record = {"exchange": self.exchanges, "round": round} | exchange_record(gathered, heard, names)
        if self._not_asked:
            record["not_asked"] = not_asked_of(self._not_asked)
        self._tell(record, wall_train_s=self.wall_train, wall_uplink_s=self.wall_uplink)

    def _tell(self, record: Record, **more: float) -> None:
        if self.on_exchange is not None:
            self.on_exchange(record | self.quarantine.figures() | self.ledger.totals() | self.wire.figures() | more)


def _added(layout: Layout, arrays: Mapping[str, NDArray[Any]], update: Tensor) -> dict[str, NDArray[Any]] | None:
    """The model plus an update; None if that is more than its numbers can hold."""
    with np.errstate(over="ignore"):
        learnt = layout.unflatten(layout.flatten(arrays).astype(np.float64) + update.numpy())
    return dict(learnt) if all(np.isfinite(array).all() for array in learnt.values()) else None
