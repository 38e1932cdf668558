"""A device whose heartbeats come every ten seconds, the shortest that Flower takes, in place of thirty.

``python -m tests.end_to_end.brisk_device DIR K`` is `fedmac deploy device DIR --id K` but for that: its server knows
sooner that it is gone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.supercore import heartbeat
from flwr.supernode import fleet_http_connection

from fedmac.deployment import device, supernode
from fedmac.deployment.folders import DeviceFolder

SUPERNODE = "supernode"


def command_of(folder: DeviceFolder, options: device.DeviceOptions) -> list[str]:
    """As :func:`fedmac.deployment.device.command_of`, with this file for the SuperNode."""
    python, _, _, *rest = _command_of(folder, options)
    return [python, "-m", __spec__.name, SUPERNODE, *rest]


_command_of = device.command_of

if __name__ == "__main__":
    if sys.argv[1] == SUPERNODE:
        del sys.argv[1]
        for module in (fleet_http_connection, heartbeat):
            module.HEARTBEAT_DEFAULT_INTERVAL = HEARTBEAT_MIN_INTERVAL
        supernode.main()
    else:
        device.command_of = command_of
        device.run_device(DeviceFolder.load(Path(sys.argv[1]), int(sys.argv[2])), device.DeviceOptions())
