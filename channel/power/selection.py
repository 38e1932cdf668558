"""Which devices to listen to, chosen together with the combiner."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from channel.power.combining import Combined, Combining, CombiningProblem, Complex, Mask, Real
from channel.power.power_control import PowerControl
from channel.power.zero_forcing import ZeroForcing


class LargestSet(Combining):
    r"""As many devices as can be aligned with an error of at most a target; the others stay silent.

    .. math:: \max_{S, \|f\| = 1} |S| \quad\text{subject to}\quad
        \max_{i \in S} \frac{\sigma^2 w_i^2}{P_i |f^H h_i|^2} \le \epsilon \sum_{j=1}^K w_j^2

    (Yang, Jiang, Shi and Ding, IEEE Trans. Wireless Commun. 19(3), 2020). The left side is the error of
    :math:`\sum_{i \in S} w_i s_i` when the devices in S arrive aligned; each device either meets the bound behind f or
    does not. With one antenna those that meet it are the answer. With several the problem is combinatorial. Here the
    device that the bound is hardest for is left out until the rest meet it, f anew from
    :class:`~channel.power.zero_forcing.ZeroForcing` each time; then each of those left out is tried once more, heaviest
    first.

    ``power_control`` then works on the weights of the selected devices alone. With channel inversion the error is the
    one above; :class:`~channel.power.minimum_mse.MinimumMSE` makes it no larger. It is the error of a *part* of the
    sum: a receiver that wants the mean over the selected devices takes :meth:`Combined.rescaled`.

    Parameters
    ----------
    mse : float
        epsilon in (0, 1): relative to :math:`\|w\|^2` over all devices, the error when nobody sends.
    starts : int
        See :class:`~channel.power.zero_forcing.ZeroForcing`.

    Raises
    ------
    ValueError
        Parameters outside the above.
    """

    name = "largest-set"

    def __init__(self, mse: float = 0.1, starts: int = 8) -> None:
        if not 0 < mse < 1:
            raise ValueError(f"mse is {mse!r}; accepted: a number between 0 and 1, relative to ||w||^2")
        self.mse, self._aligned = float(mse), ZeroForcing(starts, tolerance=1e-3)
        self.starts = self._aligned.starts

    def direction(self, problem: CombiningProblem) -> Complex:
        """The combiner of the largest set found."""
        return self.select(problem)[0]

    def select(self, problem: CombiningProblem) -> tuple[Complex, Mask]:
        """The combiner, shape (M,), and which devices meet the bound behind it, shape (K,)."""
        combiner, chosen = self._leave_out(problem)
        for device in np.argsort(-problem.weights, kind="stable"):
            if chosen.any() and problem.wanted[device] and not chosen[device]:
                enlarged = chosen.copy()
                enlarged[device] = True
                found = self._aligned.direction(problem.only(enlarged))
                if (self._bound_met(problem, found) >= enlarged).all():
                    combiner, chosen = found, self._bound_met(problem, found)
        return combiner, chosen

    def _combine(self, problem: CombiningProblem, power_control: PowerControl, devices: ArrayLike | None) -> Combined:
        return self._listen(problem, *self.select(problem), power_control, devices)

    def _behind_one(
        self, problem: CombiningProblem, power_control: PowerControl, devices: ArrayLike | None
    ) -> Combined:
        first = np.eye(1, problem.gains.shape[1], dtype=np.complex128)[0]
        return self._listen(problem, first, self._bound_met(problem, first), power_control, devices)

    def _listen(
        self,
        problem: CombiningProblem,
        combiner: Complex,
        chosen: Mask,
        power_control: PowerControl,
        devices: ArrayLike | None,
    ) -> Combined:
        combined = replace(problem.only(chosen).allocate(combiner, power_control, devices), selected=chosen)
        if chosen.any():
            return combined
        warning = f"largest-set: no device reaches the relative error {self.mse:g} even alone; nobody sends"
        return replace(combined, allocation=replace(combined.allocation, warning=warning))

    def _leave_out(self, problem: CombiningProblem) -> tuple[Complex, Mask]:
        chosen = problem.wanted & self._alone(problem)
        combiner = problem.gains[int(np.argmax(problem.wanted))]
        while chosen.any():
            combiner = self._aligned.direction(problem.only(chosen))
            met = self._bound_met(problem, combiner)
            if met[chosen].all():
                return combiner, met
            errors = np.where(chosen, self._errors(problem, combiner), -np.inf)
            chosen[np.argmax(errors)] = False
        return combiner, chosen

    def _alone(self, problem: CombiningProblem) -> Mask:
        """Devices that meet the bound behind a combiner of their own; the others never do."""
        norms = np.linalg.norm(problem.gains, axis=1)
        return self._within(problem, np.square(norms))

    def _bound_met(self, problem: CombiningProblem, combiner: Complex) -> Mask:
        return self._within(problem, self._power_gains(problem, combiner))

    def _within(self, problem: CombiningProblem, power_gains: Real) -> Mask:
        needed = problem.noise_power * problem.weights**2
        allowed = self.mse * float(problem.weights @ problem.weights) * problem.power_limits * power_gains
        # A bound met with equality is met; f comes from an iteration and carries its rounding.
        return np.asarray(problem.wanted & (power_gains > 0) & (needed <= allowed * (1 + 1e-9)))

    def _errors(self, problem: CombiningProblem, combiner: Complex) -> Real:
        received = problem.power_limits * self._power_gains(problem, combiner)
        return np.asarray(problem.weights**2 / np.maximum(received, np.finfo(np.float64).tiny))

    def _power_gains(self, problem: CombiningProblem, combiner: Complex) -> Real:
        return np.asarray(np.abs(problem.arriving(combiner / np.linalg.norm(combiner))) ** 2)
