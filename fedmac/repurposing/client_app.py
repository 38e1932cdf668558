"""The ClientApp of devices that hold parts of a plan, under Flower's engines."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context

from strategies.repurpose.messages import device_app


def parts_of(context: Context) -> Path:
    """The folder in which a device's part lies.

    Of the node's configuration (``parts``); else of the run's, where devices are simulated; else the folder of `fedmac
    deploy device`, in which Flower's home is.

    Raises
    ------
    ValueError
        If there is none of them.
    """
    for config in (context.node_config, context.run_config):
        if folder := str(config.get("parts", "")):
            return Path(folder)
    if "FLWR_HOME" not in os.environ:
        raise ValueError('node_config: "parts" is missing; accepted: --node-config \'parts="FOLDER"\'')
    return Path(os.environ["FLWR_HOME"]).parent


app = device_app(parts_of)
