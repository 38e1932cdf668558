"""Checkpoints: where a run stood, so that it can go on after a crash."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from fedmac.logs import log_event
from fedmac.record import PART, RoundRecord, RunFolder, writing
from fedmac.scenario_keys import what_counts
from fedmac.state_file import StateFileError, read_state, write_state
from strategies.device_states import plain_record, record_of

FORMAT = 1
"""Of a checkpoint's tree; another one is not read."""

MODEL = "model"

SYNC_SECONDS = 1.0
"""A checkpoint waits for the disk at most this often: what a power failure can take is about as much."""


@dataclass(frozen=True)
class Checkpoint:
    """A run at the end of a round; of a system with a server also within one.

    Parameters
    ----------
    round : int
        The last round that is over; 0 within the first.
    model : ArrayRecord
        The model of that moment.
    state : dict
        What strategy, air and devices remember (:meth:`strategies.over_the_air.OverTheAir.state`).
    journal : dict
        What the record's running figures start from.
    """

    round: int
    model: ArrayRecord
    state: dict[str, Any]
    journal: dict[str, Any]


class CheckpointFile:
    """The checkpoint of a variant under one seed: ``checkpoint.safetensors``, of further seeds with their number.

    Parameters
    ----------
    folder : RunFolder
        The variant's.
    seed : int
        Of the run.
    """

    def __init__(self, folder: RunFolder, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        first = seed == folder.variant.scenario.seed
        self.path = folder.path / ("checkpoint.safetensors" if first else f"checkpoint-seed-{seed}.safetensors")
        self._synced = 0.0

    def save(self, checkpoint: Checkpoint) -> None:
        """Put a checkpoint in the place of the last one, in one step.

        Raises
        ------
        CannotBeKept
            If it holds what no file can.
        RecordError
            If it cannot be written; the last one stays.
        """
        now = time.monotonic()
        if sync := now - self._synced >= SYNC_SECONDS:
            self._synced = now
            self._sync_rounds()
        model = plain_record(RecordDict({MODEL: checkpoint.model}))
        write_state(self.path, self._identity | vars(checkpoint) | model, sync=sync)
        which = {"variant": self.folder.variant.name, "seed": self.seed, "round": checkpoint.round}
        log_event("checkpoint", f"{self.path}: the state after round {checkpoint.round}", which)

    def load(self) -> Checkpoint | None:
        """The checkpoint, or None if there is none that this run can go on from; then a warning says why."""
        if not self.path.exists():
            return None
        try:
            tree = read_state(self.path)
        except (StateFileError, OSError) as error:
            self._refuse(str(error))
            return None
        wanted = self._identity
        there = {key: tree.pop(key, None) for key in wanted}
        for key, value in wanted.items():
            if there[key] != value:
                self._refuse(f"{self.path}: its {key} is {there[key]}, here it is {value}")
                return None
        return Checkpoint(**tree | dict(record_of({MODEL: tree[MODEL]})))

    def resumable(self, rounds: Iterable[RoundRecord]) -> int | None:
        """The round to go on after, given the lines of the record; None for a run that has to start anew."""
        checkpoint = self.load()
        if checkpoint is None:
            return None
        there = [int(record["round"]) for record in rounds if record["seed"] == self.seed]
        if there[: checkpoint.round + 1] != list(range(checkpoint.round + 1)):
            self._refuse(f"{self.folder.rounds}: the rounds up to {checkpoint.round} are not all there")
            return None
        return checkpoint.round

    def remove(self) -> None:
        """Remove it, and what a crash left of one being written."""
        with writing(self.path):
            for path in (self.path, self.path.with_name(self.path.name + PART)):
                path.unlink(missing_ok=True)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must be of."""
        content = json.dumps(what_counts(self.folder.variant.scenario), sort_keys=True, default=str)
        return {
            "format": FORMAT,
            "fedmac": metadata.version("fedmac"),
            "variant": self.folder.variant.name,
            "seed": self.seed,
            "scenario": hashlib.sha256(content.encode()).hexdigest(),
        }

    def _refuse(self, reason: str) -> None:
        name = self.folder.variant.name
        warnings.warn(f"{reason}; {name} (seed {self.seed}) starts anew", stacklevel=3)

    def _sync_rounds(self) -> None:
        """No checkpoint may survive rounds that it follows."""
        with writing(self.folder.rounds):
            descriptor = os.open(self.folder.rounds, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def rounds_to_keep(folder: RunFolder, seeds: Iterable[int], rounds: Iterable[RoundRecord]) -> Mapping[int, int]:
    """For each seed that did not come to its end, and can go on: the last of its rounds to keep.

    Checkpoints that nothing can go on from are removed, and those of seeds that are done.
    """
    kept = {}
    lines = list(rounds)
    for seed in seeds:
        file = CheckpointFile(folder, seed)
        round = None if folder.finished(seed) else file.resumable(lines)
        if round is None:
            file.remove()
        else:
            kept[seed] = round
    return kept
