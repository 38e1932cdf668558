"""A Flower Grid on which time is simulated: replies arrive when they would on the devices and links of a scenario."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from operator import is_not
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MessageType
from flwr.serverapp import Grid

from fedmac.clock.devices import Devices
from fedmac.clock.event_queue import EventQueue
from fedmac.clock.faults import Faults
from fedmac.clock.fleet import Fleet
from fedmac.clock.network import Network
from fedmac.clock.order import Order, id_of, kept_orders, number_of, orders_from
from fedmac.clock.reply_bits import bits_of_reply, packet_bits
from fedmac.clock.usage import Usage, UsageNow, usage_now
from strategies.systems.model_form import bits_of
from strategies.systems.timed import Standstill
from strategies.wrapped_grid import WrappedGrid

CHANGED, OFFERED, ARRIVED, ENDED = range(4)
"""Kinds of events: a device comes or goes; work is done and its reply stands before the server's link; a reply is
there; work ends without a reply."""

Span = tuple[int, str, float, float]
"""Device, what it did, from when, to when (s): ``receive`` (a message's bits over its own link, the last of them when
the message is there), ``compute``, or ``send`` (until its reply is there). A device may receive while it computes."""


class ClockedGrid(WrappedGrid):
    """Simulated time around a grid whose devices answer at once.

    A message reaches its device over the network, waits for those before it, is worked at for as long as the device's
    profile says, and its reply waits its turn at the server's link. What a device computes is fixed by the message, and
    is computed only when its reply is about to arrive, or when the message is sent if nothing else tells how long a
    packet is. Time passes in :meth:`next_reply`, :meth:`pull_messages` and :meth:`send_and_receive`, and nowhere else;
    equal times break by device number. A training message's reply is as long as the message, or as its packet; other
    messages cost no computing, and their replies no bits.

    Parameters
    ----------
    grid : Grid
        The devices; their numbers are the order of their node ids.
    fleet : Fleet
        How fast they compute.
    network : Network
        How they reach the server.
    flops : callable
        FLOPs of a training message for a device, by its number.
    faults : Faults, optional
        What goes wrong.
    at_once : int, default 1
        How many replies may be computed in one go, where the grid has several workers.
    on_span : callable, optional
        Called with each span of a device's time when it is over.

    Attributes
    ----------
    now : float
        Seconds since the run began.
    changes : int
        How many times a device has come or gone.
    events : int
        How many events have been worked through.

    Raises
    ------
    ValueError
        If fleet or network are of another number of devices.
    """

    def __init__(
        self,
        grid: Grid,
        fleet: Fleet,
        network: Network,
        flops: Callable[[int], float],
        *,
        faults: Faults | None = None,
        at_once: int = 1,
        on_span: Callable[[Span], None] | None = None,
    ) -> None:
        self.grid = grid
        self.fleet, self.network, self.flops = fleet, network, flops
        self._nodes = sorted(grid.get_node_ids())
        for what, count in (("fleet", len(fleet)), ("network", len(network.links))):
            if count != len(self._nodes):
                raise ValueError(f"{what}: of {count} devices; accepted: {len(self._nodes)}, as the grid has")
        self.faults = faults or Faults(len(self._nodes), 0)
        self.at_once, self.on_span = at_once, on_span
        self.now, self.changes, self.events = 0.0, 0, 0
        self.usage = Usage(len(self._nodes))
        self._devices = Devices(grid)
        self._device_of = {node: device for device, node in enumerate(self._nodes)}
        self._queue = EventQueue()
        self._orders: dict[int, Order] = {}
        self._arrived: dict[int, None] = {}
        self._steps = [0] * len(self._nodes)
        self._free_at = [0.0] * len(self._nodes)
        self._gone_since: dict[int, float] = {}
        self._sent = 0
        self._measured: tuple[list[ArrayRecord], float] = ([], 0.0)
        for device in range(len(self._nodes)):
            if not self.faults.there(device, 0.0):
                self._gone_since[device] = 0.0
            self._await_change(device)

    # Flower's Grid.

    def get_node_ids(self) -> list[int]:
        """Nodes of the devices that are connected now."""
        return [node for device, node in enumerate(self._nodes) if device not in self._gone_since]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages now; their fate is decided, and shows as time passes."""
        orders = [self._order(message, message.metadata.dst_node_id) for message in messages]
        if unknown := [order for order in orders if math.isnan(order.reply_bits)]:
            self._devices.answer(unknown)
            for order in unknown:
                order.reply_bits = packet_bits(order.reply)
        for order in orders:
            self._send(order)
        return [id_of(order.number) for order in orders]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Let time pass until one of these messages is answered; the replies that are there by then, in their order."""
        wanted = {number_of(message_id) for message_id in message_ids}
        while not any(number in wanted for number in self._arrived):
            if not self._pass(math.inf):
                break
        return self._take([number for number in self._arrived if number in wanted])

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and let time pass until all are answered, or `timeout` is over (simulated seconds)."""
        wanted = {number_of(message_id) for message_id in self.push_messages(messages)}
        until = math.inf if timeout is None else self.now + timeout
        while not wanted <= self._arrived.keys() and self.now < until:
            if not self._pass(until):
                break
        return self._take([number for number in self._arrived if number in wanted])

    # The clock: strategies.systems.timed.TimedGrid.

    def next_reply(self, until: float = math.inf) -> Message | None:
        """The next reply; None at `until`, or when a device has come or gone."""
        changes = self.changes
        while not self._arrived and self.changes == changes:
            if not self._pass(until):
                if math.isinf(until):
                    raise Standstill("nothing can happen any more: no device is at work, and none will come back")
                return None
        return next(iter(self._take([next(iter(self._arrived))])), None) if self._arrived else None

    def used(self) -> UsageNow:
        """What each device has done by now."""
        busy: dict[int, float] = {}
        for order in self._orders.values():
            if order.busy and order.start < self.now and order.number not in self._arrived:
                busy[order.device] = busy.get(order.device, 0.0) + min(self.now - order.start, order.busy)
        watts = [self.fleet.idle_watts(device) for device in range(len(self._nodes))]
        return usage_now(self.usage, self.now, self._gone_since, busy, watts)

    # What happens.

    def _order(self, message: Message, node: int) -> Order:
        """A message to a device, before it is on its way."""
        device = self._device_of[node]
        step = self._steps[device]
        self._steps[device] += 1
        self._sent += 1
        message.metadata.__dict__["_message_id"] = id_of(self._sent)
        bits = self._bits_of(message)
        reply_bits, watts, busy = 0.0, 0.0, 0.0
        if message.metadata.message_type.startswith(MessageType.TRAIN):
            flops = self.flops(device)
            reply_bits = bits_of_reply(message, bits)
            busy = self.fleet.seconds(device, step, flops)
            watts = self.fleet.joules(device, flops, busy) / busy if busy else 0.0
        order = self._orders[self._sent] = Order(self._sent, message, device, step, bits, reply_bits, watts, busy)
        return order

    def _send(self, order: Order) -> None:
        """Put a message on its way, and its end into the queue."""
        order.reached = self.network.send(order.device, order.bits, self.now)
        order.start = max(order.reached, self._free_at[order.device])
        self._decide(order)

    def _decide(self, order: Order) -> None:
        """What becomes of an order: a reply that is offered to the server's link, or an end before that."""
        device, start = order.device, order.start
        ready = start + order.busy + self.faults.hang_seconds(device, order.step, start, start + order.busy)
        outage = self.faults.next_outage(device, self.now)
        if self.faults.is_lost(device, order.step, "down"):
            order.busy = 0.0
            self._queue.put(order.reached, device, ENDED, order.number)
            return
        if outage is not None and outage[0] < ready + self.network.send_seconds(device, order.reply_bits):
            order.busy = min(max(outage[0] - start, 0.0), order.busy)
            self._free_at[device] = max(self._free_at[device], outage[0])
            self._queue.put(max(outage[0], self.now), device, ENDED, order.number)
            return
        self._free_at[device] = order.ready = ready
        if math.isfinite(ready):
            order.answered = not self.faults.is_lost(device, order.step, "up")
            offered = self.network.offered(device, order.reply_bits, ready)
            self._queue.put(offered, device, OFFERED, order.number)

    def _pass(self, until: float) -> bool:
        """Work through the events of the next moment, or go to `until` if there is none before; whether there was."""
        time = self._queue.next_time
        if time > until or math.isinf(time):
            if math.isfinite(until):
                self.now = max(self.now, until)
            return False
        while self._queue.next_time == time:
            self._happen()
        return True

    def _happen(self) -> None:
        time, device, _, kind, subject = self._queue.pop()
        self.now = time
        self.events += 1
        if kind == OFFERED:
            self._offer(self._orders[subject])
        elif kind == ARRIVED:
            self._arrive(self._orders[subject])
        elif kind == ENDED:
            order = self._orders.pop(subject)
            self._charge_work(order, came=order.reached <= time)
        else:
            self._change(device)

    def _offer(self, order: Order) -> None:
        self._charge_work(order, came=True)
        there = self.network.receive(order.device, order.reply_bits, self.now)
        self._queue.put(there, order.device, ARRIVED, order.number)
        order.busy = 0.0  # charged

    def _arrive(self, order: Order) -> None:
        device, usage = order.device, self.usage
        usage.bits_up[device] += order.reply_bits
        usage.radio_j[device] += self.network.joules(device, sent=order.reply_bits)
        if self.on_span is not None and order.reply_bits:
            self.on_span((device, "send", order.ready, self.now))
        if order.answered:
            self._arrived[order.number] = None
        else:
            del self._orders[order.number]

    def _charge_work(self, order: Order, *, came: bool) -> None:
        """What a device has spent on an order before it sends; `came` says whether the message has reached it."""
        device, usage = order.device, self.usage
        if came:
            usage.bits_down[device] += order.bits
            usage.radio_j[device] += self.network.joules(device, received=order.bits)
            if self.on_span is not None and (seconds := self.network.receive_seconds(device, order.bits)):
                self.on_span((device, "receive", order.reached - seconds, order.reached))
        if order.busy:
            usage.busy_s[device] += order.busy
            usage.compute_j[device] += order.watts * order.busy
            if self.on_span is not None:
                self.on_span((device, "compute", order.start, order.start + order.busy))

    def _change(self, device: int) -> None:
        """A device may have come or gone."""
        there, was_there = self.faults.there(device, self.now), device not in self._gone_since
        if was_there and not there:
            self._gone_since[device] = self.now
        elif there and not was_there:
            self.usage.gone_s[device] += self.now - self._gone_since.pop(device)
        self.changes += there != was_there
        self._await_change(device)

    def _await_change(self, device: int) -> None:
        time = self.faults.next_change(device, self.now)
        if math.isfinite(time):
            self._queue.put(time, device, CHANGED, 0)

    def _bits_of(self, message: Message) -> float:
        """Of a message's arrays; the last ones are remembered, as many messages carry the same model."""
        records = [record for record in message.content.values() if isinstance(record, ArrayRecord)]
        if len(records) != len(self._measured[0]) or any(map(is_not, records, self._measured[0])):
            self._measured = records, float(sum(map(bits_of, records)))
        return self._measured[1]

    # What devices compute.

    def _take(self, numbers: list[int]) -> list[Message]:
        """Hand over replies that have arrived."""
        if any(self._orders[number].reply is None for number in numbers):
            self._compute(numbers)
        replies = []
        for number in numbers:
            del self._arrived[number]
            reply = self._orders.pop(number).reply
            if reply is not None:
                replies.append(reply)
        return replies

    def _compute(self, numbers: list[int]) -> None:
        """Have the devices answer, and with them others whose answers will be asked for, as many as go at once."""
        chosen = {number: self._orders[number] for number in numbers if self._orders[number].reply is None}
        for number, order in self._orders.items() if self.at_once > 1 else ():
            if len(chosen) >= self.at_once:
                break
            if order.reply is None and order.answered:
                chosen.setdefault(number, order)
        self._devices.answer([chosen[number] for number in sorted(chosen)])

    # To go on after a crash of the simulation.

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs: messages on their way are kept, and answered anew."""
        return {
            "now": self.now,
            "counts": [self.changes, self.events, self._sent],
            "queue": self._queue.state(),
            "network": self.network.state(),
            "usage": self.usage.state(),
            "steps": list(self._steps),
            "free_at": np.array(self._free_at),
            "gone_since": [list(item) for item in sorted(self._gone_since.items())],
            "arrived": list(self._arrived),
            "orders": kept_orders(self._orders.values()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state` of a grid of the same devices, network and faults."""
        self.now = state["now"]
        self.changes, self.events, self._sent = state["counts"]
        self._queue.restore(**state["queue"])
        self.network.restore(state["network"])
        self.usage.restore(state["usage"])
        self._steps = list(state["steps"])
        self._free_at = state["free_at"].tolist()
        self._gone_since = {int(device): since for device, since in state["gone_since"]}
        orders = orders_from(state["orders"], self.create_message, self._nodes)
        self._orders = {order.number: order for order in orders}
        self._arrived = dict.fromkeys(state["arrived"])
