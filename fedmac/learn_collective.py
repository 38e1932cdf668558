"""One run of a system without a server whose peers are processes: training, messages and time are real."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clients.app import Workplace
from fedmac.build_peers import build_peer_system
from fedmac.checkpoint import Checkpoint
from fedmac.engines.superlink import EngineError
from fedmac.journal import Journal, Keeper
from fedmac.learn_peers import initial_vector, mean_or_centre, mixing_record, round_figures
from fedmac.learning_task import LearningTask
from fedmac.scenario import Variant
from strategies.peers.collective import CollectivePeer, run_as_peer
from strategies.peers.elastic_averaging import ElasticAveraging
from strategies.peers.messages import arrays_held
from strategies.peers.peer import Held, Traffic, Vector
from strategies.systems.model_form import FlatModel, ModelForm

NOT_AGAIN = -1
"""The round that a job which is done goes on after."""


class CollectivePart:
    """One process's part of a run: it steps as one device and averages with the others.

    After rounds that are evaluated or kept the processes meet: each tells process 0 what it holds, and all go on when
    that has written the round's line. Their clocks stand still meanwhile.

    Parameters
    ----------
    variant : Variant
        What to run.
    seed : int
        Of the run.
    peer : CollectivePeer
        This process.
    workplace : Workplace
        Trains the device.
    """

    def __init__(self, variant: Variant, seed: int, peer: CollectivePeer, workplace: Workplace) -> None:
        self.scenario, self.peer, self.workplace = variant.scenario, peer, workplace
        self.system = build_peer_system(variant.scenario, seed)
        self.initial = initial_vector(workplace)
        self.config = {"variant": variant.name, "seed": seed}
        self.keeper = self.system.keeper(peer.peers) if isinstance(self.system, ElasticAveraging) else None
        self.busy_s, self.loss = 0.0, 0.0
        self._clock_s, self._since = 0.0, time.monotonic()

    def step(self, peer: int, step: int, x: Vector) -> Vector:
        """Train the device, as a server's worker does in its step of this number."""
        begun = time.monotonic()
        state, _, self.loss = self.workplace.train(torch.as_tensor(x), peer, self.config | {"server-round": step})
        trained = self.peer.messages.vector(state)
        self.busy_s += time.monotonic() - begun
        return trained

    def run(self, after: int, held: Held, on_meeting: Callable[[int, Held], None]) -> Held:
        """Take the steps after `after`; `on_meeting` is called with those after which the processes meet."""

        def note(_peer: int, step: int, _now: float, now_held: Held) -> None:
            on_meeting(step, now_held)

        self.peer.on_step, self.peer.traffic = note, Traffic()
        self._since = time.monotonic()
        return run_as_peer(self.system, self.peer, held, range(after + 1, self.scenario.rounds + 1))

    def meets(self, step: int) -> bool:
        """Whether the processes meet after this step."""
        often = (self.scenario.evaluation.every, self.scenario.engine.checkpoint_every)
        return step == self.scenario.rounds or any(every and step % every == 0 for every in often)

    @property
    def clock_s(self) -> float:
        """Seconds of the run, without those of meetings."""
        return self._clock_s + time.monotonic() - self._since

    def go_on_at(self, clock_s: float) -> None:
        """Let the clock go on from here."""
        self._clock_s, self._since = clock_s, time.monotonic()

    def holds(self, number: int) -> tuple[bool, bool]:
        """Whether a peer has a replica, and the centre."""
        keeps = number == self.keeper
        return not (keeps and isinstance(self.system, ElasticAveraging) and self.system.server), keeps

    def figures(self) -> Vector:
        """What the process tells of itself, shape (5,)."""
        sent = self.peer.traffic
        return np.array([self.clock_s, self.busy_s, self.loss, sent.messages, sent.bits], dtype=np.float64)

    def tell(self, to: int, array: Vector) -> None:
        """Send what is no message of the system."""
        self.peer.host.send(to, array)

    def hear(self, source: int, like: Vector) -> Vector:
        """Receive what another process tells, of the shape and type of `like`."""
        (array,) = self.peer.host.receive([source], like)
        return array

    def tell_held(self, to: int, held: Held) -> None:
        """Send all that a peer holds."""
        for array in arrays_held(held):
            if array is not None:
                self.tell(to, array)

    def hear_held(self, source: int, number: int) -> Held:
        """Receive all that the peer of this number holds."""
        replica, centre = (self.hear(source, self.initial) if one else None for one in self.holds(number))
        return Held(replica, centre)


def follow_collective(part: CollectivePart) -> None:
    """The part of every process but the first."""
    (after,) = part.hear(0, np.zeros(1)).tolist()
    if after == NOT_AGAIN:
        return
    held = part.hear_held(0, part.peer.number) if after else Held(part.initial)

    def meet(step: int, now_held: Held) -> None:
        if not part.meets(step):
            return
        part.tell(0, part.figures())
        part.tell_held(0, now_held)
        (clock_s,) = part.hear(0, np.zeros(1)).tolist()
        part.go_on_at(clock_s)

    part.run(int(after), held, meet)


def lead_collective(task: LearningTask, part: CollectivePart) -> dict[str, NDArray[Any]]:
    """The part of process 0, which also evaluates and writes; the result is :func:`fedmac.learn.learn`'s.

    Raises
    ------
    EngineError
        If the run was begun on a simulated clock.
    PeerLost
        If a process is gone.
    """
    leader = _Leader(task, part)
    after = 0 if task.past is None else task.past.round
    if task.past is None:
        leader.after_round(0, leader.model)
    else:
        leader.restore(task.past)
    leader.let_begin(after)
    part.run(after, leader.held[0], leader.note)
    return {name: array.numpy() for name, array in leader.model.items()}


class _Leader:
    """What process 0 does beside its own part."""

    def __init__(self, task: LearningTask, part: CollectivePart) -> None:
        self.part, self.peer = part, part.peer
        self.model = task.initial()
        self.form = ModelForm(self.model)
        self.journal = Journal(task, mixing_record(part.system) | {"backend": self.peer.messages.backend})
        self.after_round = Keeper(task, self, self.journal)
        self.held = {number: Held(part.initial) for number in range(self.peer.peers)}
        self.clock_s = 0.0
        self.before = np.zeros((self.peer.peers, 3))
        """Of each process, busy seconds, messages and bits before it was started anew."""
        self.now = self.before.copy()

    def let_begin(self, after: int) -> None:
        """Tell the others after which round they go on, and from what."""
        for number in range(1, self.peer.peers):
            self.part.tell(number, np.array([float(after)]))
            if after:
                self.part.tell_held(number, self.held[number])
        self.part.go_on_at(self.clock_s)

    def note(self, step: int, held: Held) -> None:
        """Process 0 has finished a step."""
        if not self.part.meets(step):
            self.journal.note_iteration({"clock_s": self.part.clock_s})
            self.after_round(step, self.model)
            return
        told = [self.part.figures()]
        self.held[0] = arrays_held(held)
        for number in range(1, self.peer.peers):
            told.append(self.part.hear(number, told[0]))
            self.held[number] = self.part.hear_held(number, number)
        self.write(step, np.stack(told))
        for number in range(1, self.peer.peers):
            self.part.tell(number, np.array([self.clock_s]))
        self.part.go_on_at(self.clock_s)

    def write(self, step: int, told: Vector) -> None:
        """The line of a round, and its checkpoint."""
        devices = self.part.scenario.data.devices
        self.clock_s = float(told[:, 0].max())
        self.now = self.before + told[:, [1, 3, 4]]
        busy, messages, bits = self.now.T
        utilisation = busy[:devices] / self.clock_s
        figures = round_figures(self.held) | {
            "connected": devices,
            "clock_s": self.clock_s,
            "compute_s": float(busy.max()),
            "utilisation": np.round(utilisation, 6).tolist(),
            "utilisation_mean": float(utilisation.mean()),
            "messages": int(messages.sum()),
            "bits_per_device_mean": float(bits[:devices].mean()),
            "train_loss": float(told[:devices, 2].mean()),
            "failures": [],
        }
        self.model = FlatModel(self.form, mean_or_centre(self.held))
        self.journal.note_iteration(figures)
        self.after_round(step, self.model)

    def state(self) -> dict[str, Any]:
        """What all hold, the clock, and what each has done; between two rounds no message is on its way."""
        held = [list(self.held[number]) for number in sorted(self.held)]
        return {"replicas": held, "clock_s": self.clock_s, "done": self.now}

    def restore(self, past: Checkpoint) -> None:
        """Go on from a checkpoint."""
        if "replicas" not in past.state:
            raise EngineError(
                'engine.kind = "collective": the run was begun on a simulated clock; accepted: "local", or --overwrite'
            )
        self.journal.restore(past.journal)
        self.held = {number: Held(*held) for number, held in enumerate(past.state["replicas"])}
        self.clock_s, self.before = past.state["clock_s"], past.state["done"]
