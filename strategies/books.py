"""What the exchanges of a run have cost and how long they took, told after each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from flwr.app import Message
from numpy.typing import ArrayLike

from channel.ledger import Cost, Ledger
from channel.uplinks import Reception
from strategies.air_record import Record, cost_of_scalars, costs_of, exchange_record, failures_of, not_asked_of
from strategies.cohort import Gathered
from strategies.devices import Devices
from strategies.exchange import Exchange
from strategies.packets import SentPacket
from strategies.refusal import Failure


class Books:
    """Charges exchanges, and tells an observer of each.

    Parameters
    ----------
    devices : Devices
        Who is charged; they know what was bad, and what messages weighed.
    on_exchange : callable, optional
        Called with the record of each exchange.

    Attributes
    ----------
    ledger : Ledger
        What the exchanges have cost so far.
    wall_train, wall_uplink : float
        Seconds that this process has waited for devices, and worked on the uplink.
    """

    def __init__(self, devices: Devices, on_exchange: Callable[[Record], None] | None) -> None:
        self.devices = devices
        self.on_exchange = on_exchange
        self.ledger = Ledger(1)
        self.wall_train = 0.0
        self.wall_uplink = 0.0

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within it devices are waited for."""
        start = time.perf_counter()
        yield
        self.wall_train += time.perf_counter() - start

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Within it the uplink is worked on."""
        start = time.perf_counter()
        yield
        self.wall_uplink += time.perf_counter() - start

    def charge(self, round: int, devices: ArrayLike, cost: Cost) -> None:
        """Enter what an exchange cost these devices."""
        self.ledger.grow(self.devices.numbers.total)
        self.ledger.charge(round, devices, cost)

    def tell_of_means(
        self,
        exchange: Exchange,
        gathered: Gathered,
        receptions: Sequence[Reception | None],
        names: Sequence[str] = (),
    ) -> None:
        """Charge and tell of an exchange of which means were heard; vectors have their figures by name."""
        heard = [reception for reception in receptions if reception is not None]
        if gathered.cohort is not None:
            for cost in costs_of(gathered, heard):
                self.charge(exchange.round, gathered.cohort.devices, cost)
        record: Record = {"exchange": exchange.number, "round": exchange.round}
        record |= exchange_record(gathered, heard, names)
        if exchange.not_asked:
            record["not_asked"] = not_asked_of(exchange.not_asked)
        self._tell(record, **self._wall())

    def tell_of_packets(
        self,
        exchange: Exchange,
        sent: Sequence[SentPacket],
        figures: Record,
        failures: Sequence[Failure],
        not_asked: Mapping[int, str],
    ) -> None:
        """Tell of an exchange of packets, which has been charged; `figures` are those of what was sent."""
        record: Record = {"participants": len(sent), "devices": [packet.device for packet in sent], "heard": False}
        record |= figures
        record |= {"exchange": exchange.number, "round": exchange.round, "failures": failures_of(failures)}
        record["not_asked"] = not_asked_of(not_asked)
        self._tell(record, **self._wall())

    def tell_of_scalars(self, round: int, answers: Mapping[int, Message], failures: Sequence[Failure]) -> None:
        """Charge what devices answered on the control channel, and tell of it."""
        devices = sorted(answers)
        cost = cost_of_scalars([answers[device] for device in devices])
        self.charge(round, devices, cost)
        self._tell({"round": round, "failures": failures_of(failures), "control_bits": cost.bits})

    def _wall(self) -> dict[str, float]:
        return {"wall_train_s": self.wall_train, "wall_uplink_s": self.wall_uplink}

    def _tell(self, record: Record, **more: float) -> None:
        self.ledger.grow(self.devices.numbers.total)
        if self.on_exchange is not None:
            counted = self.devices.quarantine.figures() | self.ledger.totals() | self.devices.wire.figures()
            self.on_exchange(record | counted | more)
