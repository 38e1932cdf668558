"""DINGO over the air: iterations that noise can slow down but not lead astray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from channel.frame import Frame
from channel.randomness import key
from strategies.air_messages import ENERGY_SHARE
from strategies.iterations import Figures, Iterations, NobodyAnswers
from strategies.iterative import check_counts, check_not_negative, check_positive
from strategies.mean_exchange import MeanExchange, Means, Vector


@dataclass(frozen=True)
class Safeguards:
    r"""Parameters of :class:`CertifiedIterations`.

    Attributes
    ----------
    theta, rho : float
        Of the tests of direction and step; > 0, and rho < 1.
    gradient_tolerance : float
        The run ends where the norm of the received gradient is at most this.
    inner_tolerance, inner_iterations : float, int
        The devices' solves stop at this relative residual, or earlier at the level of the noise; and after so many
        iterations.
    discrepancy : float
        That level, as a share of what power control says the noise is; >= 0, 0 takes no account of the noise.
    line_search_steps : int
        Steps tried: 1 to :math:`2^{1-n}`.
    damping, least_damping, most_damping : float
        mu in the first iteration, and the least and the most it becomes; > 0, least <= most.
    gradient_energy : float
        Share of the exchanges' energy that the gradient gets, of 2 for both; > 0 and < 2.
    equal_below_db : float
        At this SNR of a channel use or less both get 1.
    subspace : float
        Share of the d dimensions that an iteration is confined to, see :class:`CertifiedIterations`; > 0, 1 for all.
    """

    theta: float = 1e-4
    rho: float = 1e-4
    gradient_tolerance: float = 1e-8
    inner_tolerance: float = 1e-4
    inner_iterations: int = 20
    line_search_steps: int = 16
    damping: float = 1e-2
    least_damping: float = 1e-4
    gradient_energy: float = 1.6
    equal_below_db: float = -10.0
    subspace: float = 1.0
    discrepancy: float = 0.5
    most_damping: float = 1.0

    def __post_init__(self) -> None:
        check_positive(
            theta=self.theta,
            rho=self.rho,
            inner_tolerance=self.inner_tolerance,
            damping=self.damping,
            least_damping=self.least_damping,
            most_damping=self.most_damping,
        )
        check_not_negative(gradient_tolerance=self.gradient_tolerance, discrepancy=self.discrepancy)
        check_counts(inner_iterations=self.inner_iterations, line_search_steps=self.line_search_steps)
        if self.rho >= 1:
            raise ValueError(f"rho = {self.rho!r}: accepted: a number > 0 and < 1")
        if not 0 < self.gradient_energy < 2:
            raise ValueError(f"gradient_energy = {self.gradient_energy!r}: accepted: a number > 0 and < 2")
        if not math.isfinite(self.equal_below_db):
            raise ValueError(f"equal_below_db = {self.equal_below_db!r}: accepted: a finite number of dB")
        if not self.least_damping <= self.damping <= self.most_damping:
            raise ValueError(
                f"damping = {self.damping!r}: accepted: a number from least_damping = {self.least_damping!r} to "
                f"most_damping = {self.most_damping!r}"
            )
        if not 0 < self.subspace <= 1:
            raise ValueError(f"subspace = {self.subspace!r}: accepted: a number > 0 and <= 1")

    def gradient_share(self, snr: float) -> float:
        """What the gradient's exchange may use of the energy of one, at an SNR of a channel use (linear)."""
        return self.gradient_energy if snr > 10 ** (self.equal_below_db / 10) else 1.0

    def next_damping(self, damping: float, step: float) -> float:
        """mu after a step: more where it was short, less where it was whole."""
        if step < 0.25:
            return min(self.most_damping, 4 * damping)
        return max(self.least_damping, damping / 2) if step == 1 else damping


@dataclass(frozen=True)
class _Certificate:
    """What the devices' scalars say exactly of a direction p."""

    slope: float  # <p, grad f>
    curvature: float  # <p, H g^>
    objective: float  # f(w)
    objectives: Vector  # f(w + 2^-k p), k = 0, 1, ...

    def step(self, rho: float) -> float:
        """The 2^-k of least f among those that lower f by at least rho times what the slope promises; 0 if none."""
        sizes = 0.5 ** np.arange(len(self.objectives))
        passing = self.objectives <= self.objective + rho * sizes * self.slope
        return float(sizes[np.argmin(np.where(passing, self.objectives, np.inf))]) if passing.any() else 0.0

    def at(self, step: float) -> float:
        """f where the step leads."""
        return self.objective if step == 0 else float(self.objectives[round(-math.log2(step))])


class CertifiedIterations(Iterations):
    r"""DINGO's iterations over a noisy channel that adds up what devices send.

    Two vectors a device go over the air, everything else that the server must know is a mean of scalars, which take
    the control channel and so are exact. An iteration is

    1. the gradients, received as :math:`\hat g = \frac1m \sum_i g_i + n`. Power control knows the standard deviation
       s of an entry of the error: :math:`\eta = \min(1, s \sqrt d / \|\hat g\|)`;
    2. :math:`c_i \approx (H_i + \mu I)^{-1} \hat g`, with MINRES to a relative residual of :math:`\tau\eta` with
       tau the discrepancy, received as :math:`\hat c`; :math:`p = -\hat c`;
    3. the scalars :math:`\langle p, g_i\rangle, \langle p, H_i \hat g\rangle` and :math:`f_i(w + 2^{-k} p)`. p is
       good if the mean of the first is < 0 and that of the second :math:`\le -\theta \|\hat g\|^2`, DINGO's test;
    4. of the steps :math:`\alpha = 2^{-k}` with :math:`f(w + \alpha p) \le f(w) + \alpha \rho
       \langle p, \nabla f\rangle` that of least f. If p is no good, or has no such step, the scalars of
       :math:`p = -\hat g` are asked for; if that does not help, w stays as it is and all is sent again;
    5. :math:`\mu \leftarrow 4\mu` after a step < 1/4 or none along the Newton direction, :math:`\mu \leftarrow \mu/2`
       after a step of 1 along it; mu stays between its least and most.

    So :math:`f(w_{t+1}) \le f(w_t)` whatever the noise, with the same devices. Near the optimum the mean of the
    gradients vanishes but they do not, while the :math:`c_i` shrink with :math:`\hat g`: the gradients get more energy.
    DINGO's cases 2 and 3 have no part in it: they find a p that lowers the gradient's norm where the Hessians are not
    positive definite, and here it is f that must fall. What does their work is the damping, which grows until the
    directions lead downhill, and the gradient itself until then. Its bound keeps :math:`(H_i + \mu I)^{-1} \hat g` a
    step worth taking, so that Newton directions come back where the Hessians are positive definite again.
    An exchange in which nobody is heard leaves w as it is, too.

    **In a subspace.** With A of q < d random rows, new in each iteration and known to all (the matrix of
    :class:`channel.RandomLinearCode`), all of the above is done to :math:`z \mapsto f(w + A^T z)` at z = 0: the
    gradients are :math:`A g_i`, the Hessians :math:`A H_i A^T`, and :math:`w \leftarrow w + \alpha A^T p`. Vectors
    take q channel uses, and no energy is lost to a compression error; it takes more iterations.

    Parameters
    ----------
    safeguards : Safeguards
        The parameters.
    exchange : MeanExchange
        Reaches the devices.
    w : ndarray of shape (d,)
        The initial model.
    """

    def __init__(self, safeguards: Safeguards, exchange: MeanExchange, w: Vector) -> None:
        super().__init__("DINGO", exchange, w)
        self.safeguards = safeguards
        self.damping = safeguards.damping
        self.objective: float | None = None
        self.moved = 0.0  # step by which the devices' own copies lag behind
        self.snr = 0.0  # as last heard: equal shares until anything is
        self.frame: Frame | None = None

    def state(self) -> dict[str, Any]:
        """And damping, objective, step and SNR as they are after an iteration; its subspace is of that iteration."""
        remembered = {"damping": self.damping, "objective": self.objective, "moved": self.moved, "snr": self.snr}
        return super().state() | remembered

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`strategies.iterations.Iterations.restore`."""
        super().restore(state)
        self.damping, self.objective = state["damping"], state["objective"]
        self.moved, self.snr = state["moved"], state["snr"]

    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration; its figures, or None if there is nothing left to gain."""
        share = self.safeguards.gradient_share(self.snr)
        self.frame = self._new_frame(iteration)
        means = self._gradient(nodes, share)
        if not means.nodes:
            return self._figures(iteration, self.communication_rounds)
        self.snr = means.snr
        gradient, noise = means.vectors["gradient"].astype(self.w.dtype), means.noise["gradient"]
        norm = float(np.linalg.norm(gradient))
        if norm <= self.safeguards.gradient_tolerance:
            return None
        rounds = self.communication_rounds
        eta = min(1.0, noise * math.sqrt(gradient.size) / norm)
        known = {"gradient_norm": norm, "noise": noise, "eta": eta}
        p = self._newton(gradient, eta, 2 - share)
        if p is None:
            return self._figures(iteration, rounds, **known)
        certificate = self._certificate(p)
        good = certificate.slope < 0 and certificate.curvature <= -self.safeguards.theta * norm**2
        step = certificate.step(self.safeguards.rho) if good else 0.0
        if fallback := step == 0:
            p, certificate = -gradient, self._certificate(None)
            step = certificate.step(self.safeguards.rho) if certificate.slope < 0 else 0.0
        self.objective = certificate.objective
        figures = self._figures(iteration, rounds, **known, step_size=step, fallback=fallback, slope=certificate.slope)
        self.w = (self.w + step * (self.frame.lift(p) if self.frame else p)).astype(self.w.dtype)
        self.moved, self.objective = step, certificate.at(step)
        self.damping = self.safeguards.next_damping(self.damping, 0.0 if fallback else step)
        return figures

    def _gradient(self, nodes: frozenset[int], share: float) -> Means:
        """The mean gradient; devices that have the iterate before step to this one themselves."""
        aware = bool(self.nodes) and self.nodes == nodes
        means = self.exchange.ask(
            "own_gradient",
            nodes,
            wanted={"gradient": 1},
            vectors={} if aware else {"model": self.w},
            config={ENERGY_SHARE: share, "step-size": self.moved, **self._frame_config()},
            size=self.frame.size if self.frame else None,
        )
        self.communication_rounds += 1 if self.communication_rounds == 0 else 2
        self.nodes, self.moved = means.nodes, 0.0
        return means

    def _newton(self, gradient: Vector, eta: float, share: float) -> Vector | None:
        """p, the damped Newton direction as received, or None if nobody was heard."""
        config = {
            ENERGY_SHARE: share,
            "damping": self.damping,
            "noise-level": min(1.0, self.safeguards.discrepancy * eta),
            "inner-tolerance": float(self.safeguards.inner_tolerance),
            "inner-iterations": int(self.safeguards.inner_iterations),
            **self._frame_config(),
        }
        try:
            means = self.ask(
                "damped_newton",
                {"newton": 1},
                vectors={"gradient": gradient},
                config=config,
                size=self.frame.size if self.frame else None,
            )
        except NobodyAnswers:
            return None
        return -means.vectors["newton"].astype(self.w.dtype)

    def _certificate(self, p: Vector | None) -> _Certificate:
        """The scalars of a direction; None is the devices' own -g^."""
        count = int(self.safeguards.line_search_steps)
        steps = [0.0, *(0.5**k for k in range(count))]
        vectors = {} if p is None else {"direction": p}
        config = {"steps": steps, **self._frame_config()}
        scalars = {"slope": 1, "curvature": 1, "objectives": count + 1}
        means = self.ask("certificate", {}, scalars=scalars, vectors=vectors, config=config)
        objectives = np.asarray(means.scalars["objectives"])
        slope, curvature = float(means.scalars["slope"]), float(means.scalars["curvature"])
        return _Certificate(slope, curvature, float(objectives[0]), objectives[1:])

    def _new_frame(self, iteration: int) -> Frame | None:
        size = round(self.safeguards.subspace * self.w.size)
        if self.safeguards.subspace == 1:
            return None
        seed = int(str(self.exchange.config.get("seed", 0)))
        return Frame(self.w.size, max(1, size), key(seed, "subspace", iteration))

    def _frame_config(self) -> Figures:
        return self.frame.to_config() if self.frame else {}

    def _figures(self, iteration: int, communication_rounds: int, **known: float) -> Figures:
        """What is recorded of an iteration; null is what it did not come to know."""
        unknown = dict.fromkeys(("gradient_norm", "noise", "eta", "slope"))
        return {
            "iteration": iteration,
            "objective": self.objective,
            **unknown,
            "mu": self.damping,
            "step_size": 0.0,
            "fallback": False,
            **known,
            "communication_rounds": communication_rounds,
            **self.traffic(),
        }
