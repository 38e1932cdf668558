"""A device with a key of its own that forges Flower's protocol: where its updates should be is no message.

``python -m tests.end_to_end.forging_device DIR K`` is `fedmac deploy device DIR --id K` but for that. The SuperNode is
Flower's; what it starts for each message is this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedmac import client_process
from fedmac.deployment import device
from fedmac.deployment.folders import DeviceFolder


def main() -> None:
    """The program that the SuperNode starts: Flower's, whose updates become bytes that nobody can read."""
    from flwr.app import Message
    from flwr.supercore.inflatable.inflatable_object import add_header_to_object_body

    from channel.order import SYMBOLS_KEY

    honest = Message.deflate

    def deflate(message: Message) -> bytes:
        if message.has_content() and SYMBOLS_KEY in message.content.array_records:
            return add_header_to_object_body(b"\xff" * 9, message)
        return honest(message)

    Message.deflate = deflate  # type: ignore[method-assign]
    client_process.main()


def first_on_path(folder: Path) -> dict[str, str]:
    """As :func:`fedmac.client_process.first_on_path`, with the program above."""
    more = client_process.first_on_path(folder)
    program = folder / client_process.PROGRAM
    program.write_text(f"#!{sys.executable}\nfrom tests.end_to_end.forging_device import main\n\nmain()\n")
    return more


if __name__ == "__main__":
    device.first_on_path = first_on_path
    device.run_device(DeviceFolder.load(Path(sys.argv[1]), int(sys.argv[2])), device.DeviceOptions())
