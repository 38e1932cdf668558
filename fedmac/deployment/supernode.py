"""Flower's SuperNode, which keeps trying, and ends when it has given up.

Flower 1.41's gives up for good at a TLS handshake that took too long, and then goes on as a process that is connected
to nobody. Run as ``python -m fedmac.deployment.supernode`` with the arguments of ``flower-supernode``.

Source: Flower 1.41 ``flwr.supernode.cli.flower_supernode``, ``flwr.supernode.fleet_http_connection``.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any

from fedmac.deployment.patience import be_patient

GAVE_UP = 75
"""Exit code of one that has lost its server, and may be started again (EX_TEMPFAIL of ``sysexits.h``)."""


def main() -> None:
    """Run ``flower-supernode``; it ends with :data:`GAVE_UP` where Flower's would stand still."""
    be_patient()
    program: Any = import_module("flwr.supernode.cli.flower_supernode")
    start = program.start_client_internal

    def start_and_end(**given: Any) -> None:
        try:
            start(**given)  # as long as it is connected
        except Exception:
            logging.getLogger("flwr").exception("the SuperNode has failed")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(GAVE_UP)  # the thread that serves its own parts would keep the process for ever

    program.start_client_internal = start_and_end
    program.flower_supernode()


if __name__ == "__main__":
    main()
