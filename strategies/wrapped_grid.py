"""A Grid around another: what all of them leave to the one inside."""

from __future__ import annotations

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run


class WrappedGrid(Grid):
    """Leaves the run, and making messages, to the grid inside.

    Attributes
    ----------
    grid : Grid
        The wrapped one, which subclasses set.
    """

    grid: Grid

    def set_run(self, run: Run) -> None:
        """Set the run of the wrapped grid."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """The wrapped grid's run."""
        return self.grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message on the wrapped grid."""
        return self.grid.create_message(content, message_type, dst_node_id, group_id, ttl)
