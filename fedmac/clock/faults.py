"""What goes wrong: devices crash and come back, join late or hang, and messages get lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from channel.randomness import generator
from fedmac.clock.named_draws import NamedDraws, uniform

CRASH, HANG, JOIN = "crash", "hang", "join"
"""Kinds of incidents: gone with its work, connected but works at nothing, not there before."""

Outage = tuple[float, float]
"""When a device goes, and when it is back (s)."""


@dataclass(frozen=True)
class Incident:
    """Something that happens to one device at a given time.

    Parameters
    ----------
    device : int
        Its number.
    kind : str
        ``crash``, ``hang`` or ``join``.
    at_s : float
        When (s).
    for_s : float, default infinite
        How long it is gone, or hangs (s); of no meaning for ``join``.
    """

    device: int
    kind: str
    at_s: float
    for_s: float = math.inf

    def __post_init__(self) -> None:
        if self.kind not in (CRASH, HANG, JOIN):
            raise ValueError(f"kind = {self.kind!r}: accepted: {CRASH}, {HANG}, {JOIN}")
        if not 0 <= self.at_s < math.inf:
            raise ValueError(f"at_s = {self.at_s!r}: accepted: a finite number >= 0 (s)")
        if not self.for_s > 0:
            raise ValueError(f"for_s = {self.for_s!r}: accepted: a number > 0 (s)")


class Faults:
    """The faults of a run, all of them drawn by name.

    Parameters
    ----------
    devices : int
        How many there are.
    seed : int
        Names the draws.
    loss : float, default 0
        Probability that a message is lost, each way, from 0 to below 1.
    mean_up_s, mean_down_s : float, optional
        Means of the exponential times that a device is there and gone (s); without the first none crashes.
    hang_probability, hang_s : float, default 0
        With what probability a step hangs, and for how long (s).
    incidents : sequence of Incident
        What happens besides.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    def __init__(
        self,
        devices: int,
        seed: int,
        *,
        loss: float = 0.0,
        mean_up_s: float | None = None,
        mean_down_s: float | None = None,
        hang_probability: float = 0.0,
        hang_s: float = 0.0,
        incidents: Sequence[Incident] = (),
    ) -> None:
        _check_probability("loss", loss)
        _check_probability("hang_probability", hang_probability)
        if (mean_up_s is None) != (mean_down_s is None):
            missing = "mean_up_s" if mean_up_s is None else "mean_down_s"
            raise ValueError(f"{missing}: missing; accepted: mean_up_s and mean_down_s together (s)")
        for name, value in (("mean_up_s", mean_up_s), ("mean_down_s", mean_down_s)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} = {value!r}: accepted: a finite number > 0 (s)")
        if not hang_s >= 0:
            raise ValueError(f"hang_s = {hang_s!r}: accepted: a number >= 0 (s)")
        for incident in incidents:
            if not 0 <= incident.device < devices:
                raise ValueError(f"device = {incident.device!r}: accepted: an integer from 0 to {devices - 1}")
        self.seed = seed
        self.loss = loss
        self.means = None if mean_up_s is None or mean_down_s is None else (mean_up_s, mean_down_s)
        self.hang_probability, self.hang_s = hang_probability, hang_s
        self._fixed: dict[int, list[Outage]] = {}
        self._hangs: dict[int, list[tuple[float, float]]] = {}
        for one in sorted(incidents, key=lambda i: (i.device, i.at_s)):
            if one.kind == HANG:
                self._hangs.setdefault(one.device, []).append((one.at_s, one.for_s))
            else:
                outage = (0.0, one.at_s) if one.kind == JOIN else (one.at_s, one.at_s + one.for_s)
                self._fixed.setdefault(one.device, []).append(outage)
        self._drawn: dict[int, list[Outage]] = {}
        self._lost = {way: NamedDraws(seed, f"lost on the way {way}", uniform) for way in ("up", "down")}
        self._hung = NamedDraws(seed, "hangs", uniform)

    def there(self, device: int, time: float) -> bool:
        """Whether the device is connected at `time`."""
        return not any(start <= time < end for start, end in self._outages(device, time))

    def next_outage(self, device: int, time: float) -> Outage | None:
        """The first outage that is not over at `time`, the present one if there is one."""
        coming = [outage for outage in self._outages(device, time) if outage[1] > time]
        return min(coming, default=None)

    def next_change(self, device: int, time: float) -> float:
        """The first time after `time` at which the device may go or come back (s); infinity if there is none."""
        times = [edge for outage in self._outages(device, time) for edge in outage if edge > time]
        return min(times, default=math.inf)

    def is_lost(self, device: int, step: int, way: str) -> bool:
        """Whether the message of a device's step is lost on its way ``down`` or ``up``."""
        return self.loss > 0 and self._lost[way](device, step) < self.loss

    def hang_seconds(self, device: int, step: int, start: float, end: float) -> float:
        """By how much work from `start` to `end` is held up (s); infinity if it never ends.

        While a device hangs it works at nothing: what it is at waits for all of that time, and what would begin
        meanwhile for the rest of it.
        """
        hangs = self._hangs.get(device, ())
        held = sum((at + for_s - max(at, start) for at, for_s in hangs if at < end and start < at + for_s), 0.0)
        if self.hang_probability and self._hung(device, step) < self.hang_probability:
            held += self.hang_s
        return held

    def _outages(self, device: int, time: float) -> list[Outage]:
        """Those given, and those drawn until one is over after `time`."""
        fixed = self._fixed.get(device, [])
        if self.means is None:
            return fixed
        drawn = self._drawn.setdefault(device, [])
        while not drawn or drawn[-1][1] <= time:
            up, down = generator(self.seed, "outages", device, len(drawn)).exponential(self.means).tolist()
            start = (drawn[-1][1] if drawn else 0.0) + up
            drawn.append((start, start + down))
        return [*fixed, *drawn[-2:]]


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} = {value!r}: accepted: a number >= 0 and < 1")
