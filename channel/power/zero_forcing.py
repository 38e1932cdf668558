"""Combining for aligned devices: the weakest of them as strong as can be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from channel.power.combining import Combined, Combining, CombiningProblem, Complex, Matched, Real
from channel.power.power_control import PowerControl, PowerControlError
from channel.power.quadratic_program import solve_checked

MAXIMUM_STEPS = 100


class ZeroForcing(Combining):
    r"""The f of largest :math:`\min_i P_i |f^H h_i|^2/w_i^2`: least error when all devices shall arrive aligned.

    Aligned devices (:class:`~channel.power.inversion.ChannelInversion`) leave the error :math:`\sigma^2 \max_i
    w_i^2/(P_i |f^H h_i|^2)` for a unit-norm f. With :math:`g_i = \sqrt{P_i} h_i/w_i` that is multicast beamforming,

    .. math:: \min_f \|f\|^2 \quad\text{subject to}\quad |f^H g_i| \ge 1,

    not convex and NP-hard (Sidiropoulos, Davidson and Luo, IEEE Trans. Signal Process. 54(6), 2006). Around a z that
    meets the constraints, :math:`\mathrm{Re}(e^{-j\phi_i} g_i^H f) \ge 1` with :math:`\phi_i = \arg g_i^H z` is an
    inner convex approximation: each quadratic program gives a shorter f that still meets them, from which the phases
    are taken anew. The best of several starts is kept: the matched combiner and the channels of the weakest devices.

    The program is a least-distance problem, which non-negative least squares solves exactly in a fraction of a
    millisecond (Lawson and Hanson, Solving Least Squares Problems, ch. 23); the same as a parametrised cvxpy program
    is there to check it, and is asked where least squares does not converge. If both fail the combiner is the matched
    one, and the allocation's ``warning`` says so.

    Parameters
    ----------
    starts : int
        How many devices' channels are tried as starts, beside the matched combiner.
    solver : {"auto", "nnls", "cvxpy"}
        ``auto``: nnls, then cvxpy.
    tolerance : float
        Relative decrease of ||f||^2 below which the steps end.

    Raises
    ------
    ValueError
        Parameters outside the above.
    """

    name = "zero-forcing"

    def __init__(
        self, starts: int = 8, solver: Literal["auto", "nnls", "cvxpy"] = "auto", tolerance: float = 1e-6
    ) -> None:
        if starts != int(starts) or starts < 0:
            raise ValueError(f"starts is {starts!r}; accepted: an integer >= 0")
        if solver not in ("auto", "nnls", "cvxpy"):
            raise ValueError(f"solver is {solver!r}; accepted: 'auto', 'nnls', 'cvxpy'")
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance is {tolerance!r}; accepted: a number between 0 and 1")
        self.starts, self.solver, self.tolerance = int(starts), solver, tolerance
        self._programs: dict[tuple[int, int], LeastNorm] = {}

    def direction(self, problem: CombiningProblem) -> Complex:
        """The best found; the matched combiner where every program failed."""
        found = self.candidates(problem)
        return found[0] if found else Matched().direction(problem)

    def _combine(self, problem: CombiningProblem, power_control: PowerControl, devices: ArrayLike | None) -> Combined:
        found = self.candidates(problem)
        if found:
            return problem.allocate(found[0], power_control, devices)
        combined = problem.allocate(Matched().direction(problem), power_control, devices)
        warning = "zero-forcing: no program was solved; the matched combiner is used instead"
        warning = "; ".join(filter(None, [combined.allocation.warning, warning]))
        return replace(combined, allocation=replace(combined.allocation, warning=warning))

    def candidates(self, problem: CombiningProblem) -> list[Complex]:
        """Where the starts end, best first; empty if every program failed."""
        scaled = problem.scaled
        ends = []
        for start in [Matched().direction(problem), *self._channels(scaled)]:
            try:
                ends.append(list(self.steps(scaled, start))[-1])
            except PowerControlError:
                continue  # another start may do; none at all is reported
        return sorted(ends, key=lambda f: float(np.linalg.norm(f)))

    def steps(self, scaled: Complex, start: Complex) -> Iterator[Complex]:
        r"""Combiners with :math:`\min_i |f^H g_i| = 1`, each shorter than the one before, beginning at the start.

        Parameters
        ----------
        scaled : ndarray of complex128, shape (K, M)
            g_i, none of them zero.
        start : ndarray of complex128, shape (M,)
            A device that it does not hear at all is given a first share of it.

        Raises
        ------
        PowerControlError
            A program was not solved.
        """
        f = _meeting(scaled, _hearing_all(scaled, start))
        for _ in range(MAXIMUM_STEPS):
            yield f
            length = float(np.linalg.norm(f))
            heard = scaled.conj() @ f
            turned = (heard.conj() / np.abs(heard))[:, None] * scaled.conj() * length
            x = self._least_norm(np.hstack([turned.real, -turned.imag]))
            shorter = _meeting(scaled, x[: len(f)] + 1j * x[len(f) :])
            gained = 1.0 - (float(np.linalg.norm(shorter)) / length) ** 2
            if gained > 0:
                f = shorter
            if gained <= self.tolerance:
                yield f
                return

    def _channels(self, scaled: Complex) -> Complex:
        weakest_first = np.argsort(np.linalg.norm(scaled, axis=1), kind="stable")
        return np.asarray(scaled[weakest_first[: self.starts]])

    def _least_norm(self, rows: Real) -> Real:
        if self.solver != "cvxpy":
            try:
                return least_distance(rows)
            except PowerControlError:
                if self.solver == "nnls":
                    raise
        if rows.shape not in self._programs:
            self._programs[rows.shape] = LeastNorm(*rows.shape)
        return self._programs[rows.shape].solve(rows)


def least_distance(rows: Real) -> Real:
    """The shortest x with ``rows @ x >= 1``, by non-negative least squares.

    Raises
    ------
    PowerControlError
        There is none, or the iteration did not end.
    """
    from scipy.optimize import nnls

    stacked = np.vstack([rows.T, np.ones(len(rows))])
    target = np.append(np.zeros(rows.shape[1]), 1.0)
    try:
        dual, _ = nnls(stacked, target)
    except RuntimeError as error:
        raise PowerControlError(f"non-negative least squares did not converge: {error}") from error
    residual = stacked @ dual - target
    if -residual[-1] < 1e-12:
        raise PowerControlError("no combiner meets the phases asked for; try another start")
    return np.asarray(-residual[:-1] / residual[-1])


class LeastNorm:
    """The shortest x with ``rows @ x >= 1`` as a cvxpy program, DPP in the rows.

    Parameters
    ----------
    devices, unknowns : int
        Shape of the rows.
    """

    def __init__(self, devices: int, unknowns: int) -> None:
        cp: Any = import_module("cvxpy")
        self._rows = cp.Parameter((devices, unknowns))
        self._x = cp.Variable(unknowns)
        self._problem = cp.Problem(cp.Minimize(cp.sum_squares(self._x)), [self._rows @ self._x >= 1])

    def solve(self, rows: Real) -> Real:
        """x, shape (unknowns,).

        Raises
        ------
        PowerControlError
            A status other than optimal.
        """
        self._rows.value = rows
        status = solve_checked(self._problem)
        if status != "optimal":
            raise PowerControlError(f"cvxpy ended with status {status!r} for the combiner; try another start")
        return np.asarray(self._x.value, dtype=np.float64)


def _meeting(scaled: Complex, combiner: Complex) -> Complex:
    """Scaled so that the weakest device arrives at exactly 1."""
    return np.asarray(combiner / np.abs(scaled.conj() @ combiner).min())


def _hearing_all(scaled: Complex, start: Complex) -> Complex:
    """The start, with a part of every channel that it is orthogonal to."""
    f = start / np.linalg.norm(start)
    units = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    for share, unit in zip(0.5 ** np.arange(len(units)), units, strict=True):
        if abs(np.vdot(unit, f)) < 1e-9:
            f = f + 1e-2 * share * unit
    return np.asarray(f)
