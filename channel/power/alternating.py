"""Combining and power control optimised together, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from channel.power.combining import Combined, Combining, CombiningProblem, Complex, Matched
from channel.power.least_error import least_error_combiner
from channel.power.minimum_mse import MinimumMSE
from channel.power.minimum_power import MinimumPower
from channel.power.power_control import PowerControl, PowerControlError
from channel.power.zero_forcing import ZeroForcing

MAXIMUM_SWEEPS = 100
MAXIMUM_STEPS = 300
ALIGNED_STARTS = 3
FIRST_LOOK = 30  # steps of the descent from each start; only the best goes on
FIRST_SWEEPS = 6  # likewise of the alternation, the start included


class Optimised(Combining):
    r"""Combiner and allocation of least error (or least power), each in turn optimal for the other.

    .. math::
        \min_{F, b}\; \sum_i \bigl|F^H h_i b_i e^{j\theta_i} - w_i\bigr|^2 + \sigma^2 \|F\|^2,
        \qquad F = a f,\; 0 \le b_i \le \sqrt{P_i}.

    * Given what devices send, :math:`g_i = h_i b_i e^{j\theta_i}`, the best F is that of linear least squares,
      :math:`F = (\sum_i g_i g_i^H + \sigma^2 I)^{-1} \sum_i w_i g_i`.
    * Given f, phases :math:`\theta_i = -\arg f^H h_i` are best, and power control allocates for :math:`|f^H h_i|`.

    With :class:`~channel.power.minimum_mse.MinimumMSE` neither step can raise the error. With
    :class:`~channel.power.minimum_power.MinimumPower` the first step leaves room below the target at the same power,
    which the second turns into less power: the total power never rises. With other policies the sweeps go on as long
    as the error falls.

    The problem is not convex, so the sweeps begin at several minima of the error, and only the best goes on. They are
    found by :func:`~channel.power.least_error.least_error_combiner`: from the matched combiner and the principal
    eigenvector, good at low SNR, and from the best ends of :class:`~channel.power.zero_forcing.ZeroForcing`, good at
    high SNR.

    A policy that counts what it allocates (``needs_statistics``) is asked once, behind the combiner of least error
    under its power limits.

    Parameters
    ----------
    starts : int
        How many devices' channels zero-forcing tries, weakest first.
    tolerance : float
        Relative decrease of the error (the power) below which the sweeps end.

    Raises
    ------
    ValueError
        Parameters outside the above.
    """

    name = "optimised"

    def __init__(self, starts: int = 8, tolerance: float = 1e-4) -> None:
        self._aligned = ZeroForcing(starts, tolerance=1e-3)
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance is {tolerance!r}; accepted: a number between 0 and 1")
        self.starts, self.tolerance = self._aligned.starts, tolerance

    def direction(self, problem: CombiningProblem) -> Complex:
        """The combiner of least error."""
        return self._least_error(problem)[0]

    def _combine(self, problem: CombiningProblem, power_control: PowerControl, devices: ArrayLike | None) -> Combined:
        minima = self._least_error(problem)
        unconstrained = isinstance(power_control, MinimumMSE) and not power_control.constraints
        if unconstrained or power_control.needs_statistics:
            return problem.allocate(minima[0], power_control, devices)
        # What the policy cannot do behind the combiner of least error it cannot do: its error or warning counts.
        best = problem.allocate(minima[0], power_control, devices)
        for minimum in minima:
            try:
                *_, found = islice(self.sweeps(problem, power_control, minimum, devices), FIRST_SWEEPS)
            except PowerControlError:
                continue
            if not found.allocation.warning and cost(power_control, found) < cost(power_control, best):
                best = found
        *_, best = self.sweeps(problem, power_control, best.combiner, devices)
        return best

    def _least_error(self, problem: CombiningProblem) -> list[Complex]:
        """Minima of the error, least first; that one is gone into to the end, the others are looked at."""
        aligned = self._aligned.candidates(problem)[:ALIGNED_STARTS]
        starts = [Matched().direction(problem), principal(problem), *aligned]
        ends = [least_error_combiner(problem, start, FIRST_LOOK) for start in starts]
        least, *others = [combiner for combiner, _ in sorted(ends, key=lambda end: end[1])]
        least, _ = least_error_combiner(problem, least, MAXIMUM_STEPS)
        *_, swept = self.sweeps(problem, MinimumMSE("closed-form"), least)
        return [swept.combiner, *others]

    def sweeps(
        self,
        problem: CombiningProblem,
        power_control: PowerControl,
        start: Complex,
        devices: ArrayLike | None = None,
    ) -> Iterator[Combined]:
        """Combined at the start and after each sweep that made it better; the last is what was reached."""
        reached = problem.allocate(start, power_control, devices)
        yield reached
        if reached.allocation.warning:
            return  # the policy could not do what it was asked to, and what it did instead is not to be minimised
        for _ in range(MAXIMUM_SWEEPS):
            combiner = least_squares_combiner(problem, reached)
            if not np.linalg.norm(combiner) > 0:
                return  # nobody sends
            found = problem.allocate(combiner, power_control, devices)
            before, after = cost(power_control, reached), cost(power_control, found)
            if found.allocation.warning or not after < before:
                return
            reached = found
            yield reached
            if before - after <= self.tolerance * before:
                return


def cost(power_control: PowerControl, combined: Combined) -> float:
    """What the policy minimises: the total power, or the error."""
    if isinstance(power_control, MinimumPower):
        return float(np.sum(combined.allocation.amplitudes**2))
    return combined.allocation.mse


def least_squares_combiner(problem: CombiningProblem, combined: Combined) -> Complex:
    """F of least error for what devices send with this combiner's phases and amplitudes, shape (M,)."""
    phases = np.exp(-1j * np.angle(problem.arriving(combined.combiner)))
    sent = (combined.allocation.amplitudes * phases)[:, None] * problem.gains
    antennas = problem.gains.shape[1]
    rows = np.vstack([sent.conj(), np.sqrt(problem.noise_power) * np.eye(antennas)])
    wanted = np.append(problem.weights, np.zeros(antennas)).astype(np.complex128)
    # Least squares instead of normal equations: there may be no noise, and fewer devices than antennas.
    return np.asarray(np.linalg.lstsq(rows, wanted, rcond=None)[0])


def principal(problem: CombiningProblem) -> Complex:
    r"""Principal eigenvector of :math:`\sum_i P_i h_i h_i^H` over the wanted devices: most power received."""
    reach = np.sqrt(np.where(problem.wanted, problem.power_limits, 0.0))[:, None] * problem.gains
    _, _, right = np.linalg.svd(reach, full_matrices=False)
    return np.asarray(right[0])
