"""What devices on a simulated clock compute."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.serverapp import Grid

from fedmac.clock.in_place_training import InPlaceTraining
from fedmac.clock.order import Order, id_of
from fedmac.engines.local import LocalGrid


class Devices:
    """Answers orders: plain training on the local engine in place, everything else by the grid's own messages.

    Parameters
    ----------
    grid : Grid
        Whose devices answer at once.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.in_place = InPlaceTraining(grid) if isinstance(grid, LocalGrid) else None

    def answer(self, orders: Sequence[Order]) -> None:
        """Give orders their replies."""
        in_place = self.in_place
        if in_place is not None and all(in_place.takes(order.message) for order in orders):
            for order, reply in zip(orders, in_place.answer([order.message for order in orders]), strict=True):
                order.reply = reply
            return
        contents = [order.message.content for order in orders]
        ids = list(self.grid.push_messages([order.message for order in orders]))
        replies = {reply.metadata.reply_to_message_id: reply for reply in self.grid.pull_messages(ids)}
        for order, content, message_id in zip(orders, contents, ids, strict=True):
            order.message.content = content  # mods take records out of the message, which may have to be answered anew
            # The grid has given the message an id of its own.
            order.message.metadata.__dict__["_message_id"] = name = id_of(order.number)
            order.reply = answer = replies.get(message_id)
            if answer is not None:
                answer.metadata.__dict__["_reply_to_message_id"] = name
