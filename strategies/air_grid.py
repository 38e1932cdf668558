"""The air between server and devices, as a Flower Grid around any other Grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from numpy.typing import NDArray

from channel.layout import Layout
from channel.ledger import Ledger
from channel.order import DEVICE_QUERY, ORDER_KEY, TRANSMISSION_KEY, TransmitOrder
from channel.uplinks import Reception, Uplink, symbol_scale
from strategies.cohort import (
    BadPayload,
    CohortGrid,
    Failure,
    Gathered,
    MessageCohort,
    Metrics,
    read_seconds,
    read_symbols,
    read_weight,
)

QUERY_TIMEOUT = 60.0
"""Seconds to wait for nodes to say which device they are."""

Record = dict[str, Any]


class AirGrid(Grid):
    """A Grid whose training replies pass through an uplink: N devices send, one reply with their mean arrives.

    Messages of type ``train`` and ``train.<action>`` go over the air; everything else (``evaluate``, ``query``) takes
    a reliable control channel, the wrapped grid, unchanged.

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

    Attributes
    ----------
    ledger : Ledger
        What the exchanges have cost so far.
    wall_train, wall_uplink : float
        Seconds that this process has waited for devices, and worked on the uplink.
    """

    def __init__(
        self,
        grid: Grid,
        uplink: Uplink,
        *,
        seed: int = 0,
        weighted_by_key: str = "num-examples",
        on_exchange: Callable[[Record], None] | None = None,
    ) -> None:
        self.grid = grid
        self.uplink = uplink
        self.seed = seed
        self.weighted_by_key = weighted_by_key
        self.on_exchange = on_exchange
        self.ledger = Ledger(1)
        self.exchanges = 0
        self.wall_train = 0.0
        self.wall_uplink = 0.0
        self._device_of: dict[int, int] = {}

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
        if any(_goes_over_the_air(m) for m in messages):
            raise RuntimeError(
                "AirGrid.push_messages: training messages go over the air, where all devices of an exchange send at "
                "once; use send_and_receive"
            )
        return self.grid.push_messages(messages)

    # What the air adds.

    def get_node_ids(self) -> list[int]:
        """Connected nodes in the order of their device numbers.

        Node ids are random in each run of Flower; device numbers (data partitions) are not. Nodes seen for the first
        time are asked for theirs; those that give none are numbered in the order of their ids.
        """
        nodes = list(self.grid.get_node_ids())
        strangers = [node for node in nodes if node not in self._device_of]
        if strangers:
            self._meet(strangers)
        return sorted(nodes, key=lambda node: self._device_of[node])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return what arrives: over the air at most one merged reply; the record names who failed."""
        messages = list(messages)
        if not messages or not _goes_over_the_air(messages[0]):
            return self.grid.send_and_receive(messages, timeout=timeout)
        self.get_node_ids()
        self.exchanges += 1
        order = self.uplink.order(self.exchanges, self.seed)
        arrays = _model(messages[0])
        layout = Layout.of_arrays(arrays)
        # Error feedback lives in a device's context, and an action of the app's own in the app: both need messages.
        start = time.perf_counter()
        in_place = messages[0].metadata.message_type == MessageType.TRAIN and not order.build_code().error_feedback
        if in_place and isinstance(self.grid, CohortGrid):
            gathered = self.grid.train_cohort(messages, self.weighted_by_key, self.uplink.needs_updates)
        else:
            gathered = self._gather(messages, order, layout.size, timeout)
        trained = time.perf_counter()
        self.wall_train += trained - start
        if gathered.cohort is None:
            self._report(messages[0], gathered, None)
            return []
        reception = self.uplink.receive(gathered.cohort, self.exchanges, self.seed)
        self.wall_uplink += time.perf_counter() - trained
        self._report(messages[0], gathered, reception)
        if reception.update is None:
            return []
        mean = layout.flatten(arrays).astype(np.float64) + reception.update.numpy()
        return [self._merged_reply(messages[0], arrays | layout.unflatten(mean), gathered)]

    def _meet(self, strangers: Sequence[int]) -> None:
        # A training message: Flower hands mods no message of a type that the app has no function for.
        question = RecordDict({DEVICE_QUERY: ConfigRecord()})
        queries = [Message(question, node, MessageType.TRAIN) for node in strangers]
        replies = self.grid.send_and_receive(queries, timeout=QUERY_TIMEOUT)
        node_of = {m.metadata.message_id: m.metadata.dst_node_id for m in queries}
        for reply in replies:
            if reply.has_content() and TRANSMISSION_KEY in reply.content.config_records:
                device = int(reply.content.config_records[TRANSMISSION_KEY]["device"])  # type: ignore[arg-type]
                if device >= 0 and device not in self._device_of.values():
                    self._device_of[node_of[reply.metadata.reply_to_message_id]] = device
        taken = set(self._device_of.values())
        free = (number for number in range(len(taken) + len(strangers)) if number not in taken)
        for node in sorted(set(strangers) - set(self._device_of)):
            self._device_of[node] = next(free)

    def _gather(self, messages: list[Message], order: TransmitOrder, size: int, timeout: float | None) -> Gathered:
        """Ask the devices by message, and check what each sends."""
        contents: dict[int, RecordDict] = {}
        for message in messages:
            shared = message.content
            if id(shared) not in contents:
                contents[id(shared)] = RecordDict({**shared, ORDER_KEY: ConfigRecord(order.to_config())})
            message.content = contents[id(shared)]
        replies = list(self.grid.send_and_receive(messages, timeout=timeout))
        asked = {m.metadata.message_id: self._device_of[m.metadata.dst_node_id] for m in messages}
        answered = {asked[r.metadata.reply_to_message_id]: r for r in replies}

        code = order.build_code()
        failures: list[Failure] = []
        senders: list[tuple[int, NDArray[np.floating], float, float, Metrics]] = []
        seconds: list[float | None] = []
        for device in sorted(asked.values()):
            reply = answered.get(device)
            if reply is None:
                failures.append(Failure(device, "no reply in time"))
            elif reply.has_error():
                failures.append(Failure(device, reply.error.reason or f"error code {reply.error.code}"))
            else:
                try:
                    symbols, norm = read_symbols(reply, code.uses(size), size)
                    metrics = _metrics(reply)
                    weight = read_weight(metrics, self.weighted_by_key)
                except BadPayload as bad:
                    failures.append(Failure(device, str(bad)))
                else:
                    senders.append((device, symbols, norm, weight, metrics))
                    seconds.append(read_seconds(reply))
        if not senders:
            return Gathered(None, [], failures)
        weights = np.array([s[3] for s in senders])
        cohort = MessageCohort(
            devices=np.array([s[0] for s in senders]),
            weights=weights / weights.sum(),
            norms=np.array([s[2] for s in senders]),
            size=size,
            total=self._total(),
            blocks=torch.from_numpy(np.stack([s[1] for s in senders])),
            scale=symbol_scale(code, size),
        )
        return Gathered(cohort, [s[4] for s in senders], failures, seconds)

    def _total(self) -> int:
        return max(self._device_of.values(), default=-1) + 1

    def _merged_reply(self, to: Message, arrays: dict[str, NDArray[Any]], gathered: Gathered) -> Message:
        assert gathered.cohort is not None
        metrics = weighted_metrics(gathered.metrics, gathered.cohort.weights)
        metrics[self.weighted_by_key] = 1.0
        name = next(iter(to.content.array_records))
        content = RecordDict(
            {
                name: ArrayRecord({key: Array(np.ascontiguousarray(a)) for key, a in arrays.items()}),
                "metrics": MetricRecord(metrics),
            }
        )
        return Message(content, reply_to=to)

    def _report(self, message: Message, gathered: Gathered, reception: Reception | None) -> None:
        """Charge the ledger and tell the observer."""
        config: Mapping[str, Any] = next(iter(message.content.config_records.values()), ConfigRecord())
        round = int(config.get("server-round", self.exchanges))
        cohort = gathered.cohort
        self.ledger.grow(self._total())
        record: Record = {
            "exchange": self.exchanges,
            "round": round,
            "participants": 0 if cohort is None else len(cohort.devices),
            "devices": [] if cohort is None else cohort.devices.tolist(),
            "failures": [{"device": f.device, "reason": f.reason} for f in gathered.failures],
            "heard": False,
        }
        if cohort is not None and reception is not None:
            seconds = [s for s in gathered.seconds if s is not None]
            cost = replace(reception.cost, compute_time=max(seconds, default=0.0))
            self.ledger.charge(round, cohort.devices, cost)
            amplitudes = reception.record.get("amplitudes")
            record |= {
                "heard": reception.update is not None,
                "weights": cohort.weights.tolist(),
                "update_norms": cohort.norms.tolist(),
                "energies": cost.energy.tolist(),
                "train_s_mean": float(np.mean(seconds)) if seconds else None,
                "train_s_max": max(seconds, default=None),
                "silent": [] if amplitudes is None else cohort.devices[np.asarray(amplitudes) == 0].tolist(),
                "metrics": weighted_metrics(gathered.metrics, cohort.weights),
                **reception.record,
            }
        record |= self.ledger.totals() | {"wall_train_s": self.wall_train, "wall_uplink_s": self.wall_uplink}
        if self.on_exchange is not None:
            self.on_exchange(record)


def _goes_over_the_air(message: Message) -> bool:
    return message.metadata.message_type.split(".")[0] == "train"


def _model(message: Message) -> dict[str, NDArray[Any]]:
    records = message.content.array_records
    if len(records) != 1:
        raise ValueError(
            f"AirGrid: a training message must carry exactly one ArrayRecord (the model), found {list(records)}"
        )
    return {name: array.numpy() for name, array in next(iter(records.values())).items()}


def _metrics(reply: Message) -> Metrics:
    return dict(next(iter(reply.content.metric_records.values()), {}))


def weighted_metrics(metrics: Sequence[Metrics], weights: NDArray[np.float64]) -> dict[str, Any]:
    """Weighted mean of each metric that every device reports (numbers, and lists of one length)."""
    shared = [key for key in metrics[0] if all(key in m for m in metrics)] if metrics else []
    means: dict[str, Any] = {}
    for name in shared:
        values = [np.asarray(m[name], dtype=np.float64) for m in metrics]
        if len({v.shape for v in values}) == 1:
            means[name] = np.tensordot(weights, np.stack(values), axes=1).tolist()
    return means
