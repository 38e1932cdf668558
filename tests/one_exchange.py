"""One exchange over an AirGrid from the initial model, and everything that can be seen of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from channel.uplinks import IdealUplink, Uplink
from clients.app import Workplace
from strategies import AirGrid
from tests import fleet
from tests.fleet import Tamper


@dataclass
class OneExchange:
    """What the server asks, hears and records; `tamper` changes what devices send, by device."""

    uplink: Uplink = field(default_factory=IdealUplink)
    work: Workplace = field(default_factory=fleet.workplace)
    tamper: Mapping[int, Tamper] | None = None
    devices: Iterable[int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        grid = fleet.local_grid(self.work) if self.tamper is None else fleet.message_grid(self.work, self.tamper)
        records: list[dict[str, Any]] = []
        self.air = AirGrid(grid, self.uplink, seed=self.seed, on_exchange=records.append)
        self.start = fleet.initial(self.work)
        nodes = self.air.get_node_ids()
        asked = nodes if self.devices is None else [nodes[device] for device in self.devices]
        self.replies = list(self.air.send_and_receive(fleet.train_messages(self.start, asked)))
        (self.record,) = records
        json.dumps(self.record, allow_nan=False)
