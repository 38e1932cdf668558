"""What a device does: its data, its training, and how it turns an update into symbols."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from clients.app import Workplace, client_app
    from clients.training import Trainer, Training
    from clients.transmit import transmit

__all__ = ["Trainer", "Training", "Workplace", "client_app", "transmit"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "app": ["Workplace", "client_app"],
        "training": ["Trainer", "Training"],
        "transmit": ["transmit"],
    },
)
