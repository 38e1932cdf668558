"""A device's Flower app that writes down where the time of its process went; see ``deployment.py``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sitecustomize
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.app import Workplace, client_app
from fedmac.client_app import workplace

IMPORTED = sitecustomize.now()
DATA = [0.0]


def _timed_workplace(context: Context, config: Mapping[str, Any]) -> Workplace:
    start = sitecustomize.now()
    work = workplace(context, config)
    DATA[0] += sitecustomize.now() - start
    return work


def _round(message: Message) -> int:
    """The round that a message is of; 0 for questions before the first."""
    records = list(message.content.config_records.values())
    return int(str(records[0].get("server-round", 0))) if records else 0


class TimedApp(ClientApp):
    """Does what an app does, and appends a line of JSON to the file that ``FEDMAC_TIMES`` names."""

    def __init__(self, inner: ClientApp) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, message: Message, context: Context) -> Message:
        """Handle a message."""
        asked = sitecustomize.now()
        reply = self.inner(message, context)
        answered = sitecustomize.now()
        times = {
            "device": context.node_config["partition-id"],
            "round": _round(message),
            "interpreter": sitecustomize.UP - sitecustomize.BEGAN,
            "import torch": sitecustomize.SPENT["torch"],
            # Flower asks for the message between its own imports and those of the app: it is in here too.
            "other imports, message": asked - sitecustomize.UP - sitecustomize.SPENT["torch"],
            "data": DATA[0],
            "training and coding": answered - asked - DATA[0],
        }
        with Path(os.environ["FEDMAC_TIMES"]).open("a") as file:
            file.write(json.dumps(times) + "\n")
        return reply


app = TimedApp(client_app(_timed_workplace))
