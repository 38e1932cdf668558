"""Peers in one process, on a simulated clock: what happens, in the order in which it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strategies.peers.agenda import ARRIVED, CHANGED, LATE, OFFERED, TIMED_OUT, WAKE, Agenda
from strategies.peers.mail import Mail
from strategies.peers.peer import Held, PeerSystem, Vector
from strategies.peers.simulated_peer import SimulatedPeer
from strategies.peers.times import PeerTimes
from strategies.peers.work import Work

PATIENCE = 10
"""So many times in a row those who are there may begin a step anew before the run ends."""


@dataclass(frozen=True)
class PeerRound:
    """A round that is over: all who were there have taken a step.

    Attributes
    ----------
    number : int
        Of the step.
    held : dict of int to Held
        What each peer that has taken it held after it.
    """

    number: int
    held: dict[int, Held]


class PeerSimulation:
    """Peers on a simulated clock.

    Events happen in the order of time; equal times break by the peer's number, then in the order in which they were
    fixed. A peer that is gone, or whose step takes longer than `timeout_s`, is not waited for; when it is back, or
    done, it goes on from what it held, with the step that the others are at. Of a system that needs all of them
    *together* who is there begins the step anew from the last finished one, and who comes back joins after a round.

    Parameters
    ----------
    system : PeerSystem
        What every peer runs.
    work : Work
        Takes their steps.
    initial : sequence of Held
        Where each begins.
    steps : int
        How many each takes, >= 0.
    times : PeerTimes
        Seconds, and what goes wrong.
    timeout_s : float, default infinite
        How long a peer waits for a message.
    on_step : callable, optional
        Called after each step of each peer, see :class:`~strategies.peers.peer.Peer`.

    Attributes
    ----------
    round : int
        Rounds that are over.
    stopped : str or None
        Why the run has ended before its last round.
    mail : Mail
        Messages on their way, and how many went wrong.
    reformed : int
        How many times those who are there began anew.
    failures : list of (int, str)
        Peers that were cut off in their step, or took too long, and why; whoever reads it clears it.
    """

    def __init__(
        self,
        system: PeerSystem,
        work: Work,
        initial: Sequence[Held],
        steps: int,
        times: PeerTimes,
        timeout_s: float = math.inf,
        on_step: Callable[[int, int, float, Held], None] | None = None,
    ) -> None:
        self.system, self.work, self.steps, self.times, self.timeout_s = system, work, steps, times, timeout_s
        self.size, self.on_step = len(initial), on_step
        self.round = 0
        self.stopped: str | None = None
        self.reformed = 0
        self.failures: list[tuple[int, str]] = []
        self.peers = [SimulatedPeer(number, self, held) for number, held in enumerate(initial)]
        self.seconds = [0.0] * self.size
        self.connected: set[int] = set()
        self.silent: set[int] = set()
        self._joining: set[int] = set()
        self._taking_part: set[int] = set()
        self._lives = [0] * self.size
        self._stepping: dict[int, int] = {}
        self._agenda = Agenda()
        self.mail = Mail(self, times, self._agenda, timeout_s)
        self._pending: dict[int, dict[int, Held]] = {}
        self._changed = False
        self._broken: str | None = None
        self._in_vain = 0

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self._agenda.now

    def begin(self) -> None:
        """Let all who are there begin."""
        for peer in range(self.size):
            if self.times.there(peer, 0.0):
                self.connected.add(peer)
            else:
                self.times.left(peer, 0.0)
            self._await_change(peer)
        self._let_begin(sorted(self.connected))

    def next_round(self) -> PeerRound | None:
        """Let time pass until a round is over; None if there is none any more, and then `stopped` may say why."""
        while self.round < self.steps and self.stopped is None:
            if not self.happen():
                self.stopped = f"nothing can happen any more: {self.why_not()}"
            elif (over := self._round_over()) is not None:
                return over
        return None

    def happen(self) -> bool:
        """Work through the next event; whether there was one."""
        event = self._agenda.next(self.mail.waits.is_on)
        if event is None:
            return False
        self._handle(*event)
        if self._broken is not None:
            self._break()
        elif self._joining and not self._taking_part:
            self._form_anew()
        return True

    def close(self) -> None:
        """End all algorithms where they stand."""
        for peer in self.peers:
            peer.close()

    def why_not(self) -> str:
        """Who waits for whom, or is gone, where nothing happens."""
        waits = [f"peer {peer} for peer {wait.source}" for peer, wait in sorted(self.mail.waits.by_peer.items())]
        if waits:
            return f"messages are waited for that nobody sends: {', '.join(waits)}"
        return "no peer is at work, and none will come back"

    # What a peer does.

    def begin_step(self, peer: int, step: int) -> None:
        """Let a step's time begin."""
        over = self.times.begin_step(peer, step, self.now)
        self._stepping[peer] = step
        if math.isfinite(over):
            self._agenda.put(over, peer, WAKE, self._lives[peer])
        if over > self.now + self.timeout_s:
            self._agenda.put(self.now + self.timeout_s, peer, LATE, self._lives[peer])

    def end_step(self, peer: int) -> Vector:
        """What the step has come to."""
        del self._stepping[peer]
        self.times.end_step(peer, self.now)
        return self.work.answer(peer)

    def send(self, source: int, to: int, step: int, vector: Vector) -> None:
        """Put a copy on its way, unless its receiver is not connected."""
        if to not in self.connected:
            return
        self.peers[source].traffic.count(vector)
        self.mail.send(source, to, step, vector)

    def note(self, peer: int, step: int, held: Held) -> None:
        """A peer has finished a step."""
        if step > self.round:
            self._pending.setdefault(step, {})[peer] = held
        self._changed = True
        self.mail.look_after(peer)
        if self.on_step is not None:
            self.on_step(peer, step, self.now, held)

    # What mail has to know of peers.

    def is_there(self, peer: int) -> bool:
        """Whether a peer is connected."""
        return peer in self.connected

    def is_past(self, peer: int, step: int) -> bool:
        """Whether a peer has finished this step, or one after it."""
        return 0 < step <= self.peers[peer].done

    def why_silent(self, peer: int, step: int) -> str | None:
        """Why a peer will send no more in a step, or None if it may."""
        if peer not in self.connected:
            return f"peer {peer} is gone"
        if peer in self.silent:
            return f"peer {peer} is still computing after {self.timeout_s:g} s"
        return f"peer {peer} has not sent" if self.is_past(peer, step) else None

    def wake(self, peer: int) -> None:
        """Let a peer go on."""
        self._agenda.put(self.now, peer, WAKE, self._lives[peer])

    def cannot_do_without(self, peer: int, why: str) -> bool:
        """Whether all has to end or begin anew because a peer misses a message."""
        if self.system.together and self._broken is None:
            self._broken = f"peer {peer} waited in vain: {why}"
            self.mail.missed += 1
        return self.system.together

    # What happens.

    def _handle(self, kind: int, peer: int, subject: int) -> None:
        if kind == WAKE:
            if subject == self._lives[peer]:
                self._wake(peer)
        elif kind == OFFERED:
            self.mail.offer(subject)
        elif kind == ARRIVED:
            self.mail.arrive(subject)
        elif kind == LATE:
            if subject == self._lives[peer] and peer in self._stepping:
                self._fall_silent(peer)
        elif kind == TIMED_OUT:
            self.mail.time_out(peer)
        else:
            self._change(peer)

    def _wake(self, peer: int) -> None:
        self.seconds[peer] = self.now
        if peer not in self.silent:
            self.peers[peer].go_on()
            return
        self._end(peer)
        self._join(peer)

    def _change(self, peer: int) -> None:
        """A peer may have come or gone."""
        there = self.times.there(peer, self.now)
        if there and peer not in self.connected:
            self.connected.add(peer)
            self.times.came(peer, self.now)
            self._join(peer)
        elif not there and peer in self.connected:
            self.connected.discard(peer)
            if self.peers[peer].runs:
                self.failures.append((peer, "disconnected while at work"))
            self._end(peer)
            self.mail.leave(peer)
            self.times.left(peer, self.now)
            self.mail.look_after(peer)
            self._give_up_for_good(peer, "is gone for good")
        self._await_change(peer)

    def _await_change(self, peer: int) -> None:
        time = self.times.next_change(peer, self.now)
        if math.isfinite(time):
            self._agenda.put(time, peer, CHANGED, 0)

    def _give_up_for_good(self, peer: int, why: str) -> None:
        """End the run if one is lost for ever without whom it has no result."""
        keeper: Callable[[int], int] | None = getattr(self.system, "keeper", None)
        if keeper is not None and keeper(self.size) == peer and math.isinf(self.times.next_change(peer, self.now)):
            self.stopped = f"peer {peer}, which keeps the centre, {why}"

    def _fall_silent(self, peer: int) -> None:
        self.failures.append((peer, f"still computing after {self.timeout_s:g} s"))
        self.silent.add(peer)
        self._taking_part.discard(peer)
        self._changed = True
        self.mail.look_after(peer)
        if not self._agenda.has(WAKE, peer):
            self._give_up_for_good(peer, "hangs for good")

    def _end(self, peer: int) -> None:
        """A peer's algorithm ends where it stands."""
        self.peers[peer].close()
        self._lives[peer] += 1
        self.mail.stop_waiting(peer)
        if self._stepping.pop(peer, None) is not None:
            self.times.end_step(peer, self.now)
            self.work.forget(peer)
        self.silent.discard(peer)
        self._joining.discard(peer)
        self._taking_part.discard(peer)
        self._changed = True

    def _let_begin(self, peers: Sequence[int]) -> None:
        """Let peers take part from what they hold."""
        for peer in peers:
            one = self.peers[peer]
            one.begin(range(one.done + 1, self.steps + 1))
            self._taking_part.add(peer)
            self.wake(peer)
        self._changed = True

    def _join(self, peer: int) -> None:
        """A peer that was gone or silent goes on, in a round with the others."""
        if self.system.together:
            self._joining.add(peer)
            return
        one = self.peers[peer]
        one.done = max(one.done, self.round)
        self._let_begin([peer])
        self.mail.look_after(peer)

    def _round_over(self) -> PeerRound | None:
        """The round, if all who take part have come so far."""
        if not self._changed:
            return None
        self._changed = False
        number = self.round + 1
        if number not in self._pending or any(self.peers[peer].done < number for peer in self._taking_part):
            return None
        self._changed, self.round, self._in_vain = True, number, 0
        if self._joining:
            self._form_anew()
        return PeerRound(number, dict(sorted(self._pending.pop(number).items())))

    # Systems that need all of their peers together.

    def _break(self) -> None:
        """Go on without who is gone, or end the run."""
        why, self._broken = self._broken, None
        self._in_vain += 1
        if getattr(self.system, "on_lost", None) == "stop":
            self.stopped = why
        elif self._in_vain >= PATIENCE:
            self.stopped = f"a step was broken off {self._in_vain} times in a row, the last time as {why}"
        else:
            self._form_anew()

    def _form_anew(self) -> None:
        """Let all who are there begin together, from the last step that one of them has finished."""
        present = sorted(self.connected - self.silent)
        self.mail.clear()
        took_part = set(self._taking_part)
        for peer in present:
            self._end(peer)
        self.reformed += 1
        latest = max(present, key=lambda peer: (self.peers[peer].done, -peer), default=0)
        for peer in present:
            one, begins = self.peers[peer], self.now
            if one.done < self.peers[latest].done:
                if peer in took_part:  # its part of the last mean is in it
                    self._pending.setdefault(self.peers[latest].done, {})[peer] = self.peers[latest].held
                bits = 8 * sum(v.nbytes for v in self.peers[latest].held if v is not None)
                begins = self.times.receive(peer, latest, bits, self.times.send(latest, peer, bits, self.now))
                self.times.carried(latest, peer, bits, self.now, begins)
                one.held, one.done = self.peers[latest].held, self.peers[latest].done
            one.present = present
            one.begin(range(one.done + 1, self.steps + 1))
            self._taking_part.add(peer)
            self._agenda.put(begins, peer, WAKE, self._lives[peer])

    # To go on after a crash of the simulation.

    def state(self) -> dict[str, Any]:
        """All that :meth:`restore` needs, between two events."""
        return {
            "counts": [self.round, self.reformed, self._in_vain],
            "stopped": self.stopped,
            "sets": [sorted(s) for s in (self.connected, self.silent, self._joining, self._taking_part)],
            "lives": list(self._lives),
            "seconds": list(self.seconds),
            "failures": [list(one) for one in self.failures],
            "stepping": [list(item) for item in sorted(self._stepping.items())],
            "agenda": self._agenda.state(),
            "mail": self.mail.state(),
            "pending": [
                [step, peer, *held] for step, by_peer in sorted(self._pending.items()) for peer, held in by_peer.items()
            ],
            "changed": self._changed,
            "peers": [
                [*one.held, one.done, list(one.told), one.runs, list(one.present), dict(vars(one.traffic))]
                for one in self.peers
            ],
            "work": self.work.state(),
            "times": self.times.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state`, in place of :meth:`begin`."""
        self.stopped, self._changed = state["stopped"], state["changed"]
        self.round, self.reformed, self._in_vain = state["counts"]
        self.connected, self.silent, self._joining, self._taking_part = map(set, state["sets"])
        self._lives, self.seconds = list(state["lives"]), list(state["seconds"])
        self.failures = [(peer, why) for peer, why in state["failures"]]
        self._stepping = dict(state["stepping"])
        self._agenda.restore(state["agenda"])
        self.mail.restore(state["mail"])
        self._pending = {}
        for step, peer, model, centre in state["pending"]:
            self._pending.setdefault(step, {})[peer] = Held(model, centre)
        self.work.restore(state["work"])
        self.times.restore(state["times"])
        for one, (model, centre, done, told, runs, present, traffic) in zip(self.peers, state["peers"], strict=True):
            one.held, one.done, one.present = Held(model, centre), done, present
            vars(one.traffic).update(traffic)
            if runs:
                one.begin(range(done + 1, self.steps + 1))
                if self._has_begun(one.number):
                    one.tell_again(told)

    def _has_begun(self, peer: int) -> bool:
        """Whether an algorithm waits for something, and not for its first turn."""
        return peer in self._stepping or self.mail.is_awaited(peer)
