"""What there is to do for every kind of strategy: one variant under one seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flwr.app import Array, ArrayRecord

from clients.app import Workplace
from clients.parameters import model_arrays
from fedmac.checkpoint import Checkpoint
from fedmac.record import RoundRecord
from fedmac.scenario import Scenario, Variant


@dataclass(frozen=True)
class LearningTask:
    """One variant under one seed, where it goes on, and who is told.

    Parameters
    ----------
    variant : Variant
        What to run.
    seed : int
        Seed of the run.
    workplace : Workplace
        Gives the initial model and the held-out rows.
    on_round : callable
        Called with each round's record as soon as the round is over; round 0 is the initial model.
    past : Checkpoint, optional
        Where an earlier run of the same variant and seed stood; this one goes on from there.
    keep : callable, optional
        Called with a checkpoint after every ``engine.checkpoint_every`` rounds, and ``engine.checkpoint_arrivals``
        replies.
    """

    variant: Variant
    seed: int
    workplace: Workplace
    on_round: Callable[[RoundRecord], None]
    past: Checkpoint | None = None
    keep: Callable[[Checkpoint], None] | None = None

    @property
    def scenario(self) -> Scenario:
        """The variant's."""
        return self.variant.scenario

    @property
    def label(self) -> dict[str, Any]:
        """What tells the task from others of its scenario, in records and messages."""
        return {"variant": self.variant.name, "seed": self.seed}

    def initial(self) -> ArrayRecord:
        """The model to begin with, or to go on from."""
        if self.past is not None:
            return self.past.model
        arrays = model_arrays(self.workplace.trainer.model)
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})
