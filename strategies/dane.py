"""InexactDANE and AIDE: the mean of the models to which devices come by stochastic steps on a shared problem."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from strategies.iterations import Figures, Iterations
from strategies.iterative import IterativeStrategy, check_counts, check_not_negative, check_positive
from strategies.mean_exchange import MeanExchange, Vector


class InexactDane(IterativeStrategy):
    r"""InexactDANE (Reddi et al., 2016) as a Flower strategy.

    With :math:`f = \frac1m \sum_i f_i` and g its gradient, an iteration is

    1. devices send :math:`\nabla f_i(w)`; the server takes the mean g;
    2. devices come near the minimiser :math:`u_i` of DANE's local problem
       :math:`f_i(u) - \langle \nabla f_i(w) - \eta g, u \rangle + \frac{\mu}{2} \|u - w\|^2`
       by steps of SVRG from w (:func:`clients.svrg.svrg`), and send :math:`u_i - w`;
    3. :math:`w \leftarrow \overline{u_i}`.

    Counted as by the authors of DINGO: 4 communication rounds an iteration, 3 in the first, where nothing need be
    broadcast before the gradient. Means are plain, over the devices. What devices draw is fixed by the run's seed.

    Parameters
    ----------
    eta : float
        As above; > 0.
    mu : float
        As above; >= 0.
    inner_step_size : float
        Of SVRG.
    inner_iterations : int
        Steps of SVRG, each two gradients of one row.
    gradient_tolerance : float
        The run ends where the norm of the gradient is at most this.
    on_iteration : callable, optional
        Called with each iteration's figures; see docs/record.md.

    Attributes
    ----------
    TUNING_GRID : mapping
        Values worth trying.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    S. J. Reddi, J. Konečný, P. Richtárik, B. Póczos, A. Smola, "AIDE: fast and communication efficient distributed
    optimization", 2016, arXiv:1608.06879; O. Shamir, N. Srebro, T. Zhang, "Communication-efficient distributed
    optimization using an approximate Newton-type method", ICML 2014 (DANE).
    """

    TUNING_GRID: ClassVar[Mapping[str, Sequence[Any]]] = {
        "inner_step_size": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "inner_iterations": (50, 200, 1000),
        "mu": (0.0, 1e-3, 1e-2, 1e-1, 1.0),
    }

    def __init__(
        self,
        eta: float = 1.0,
        mu: float = 0.0,
        inner_step_size: float = 1e-3,
        inner_iterations: int = 50,
        gradient_tolerance: float = 1e-8,
        on_iteration: Callable[[Figures], None] | None = None,
    ) -> None:
        self.local = _LocalProblem(eta, mu, inner_step_size, inner_iterations)
        check_not_negative(gradient_tolerance=gradient_tolerance)
        self.gradient_tolerance = gradient_tolerance
        self.on_iteration = on_iteration

    def begin(self, exchange: MeanExchange, w: Vector) -> _Run:
        """A run from the initial model."""
        return _Run("InexactDANE", self.local, self.gradient_tolerance, exchange, w, None)


class Aide(IterativeStrategy):
    r"""AIDE, InexactDANE accelerated by a catalyst (Reddi et al., 2016), as a Flower strategy.

    Each iteration is one of :class:`InexactDane` on :math:`f_i(u) + \frac{\tau}{2} \|u - y\|^2` in place of f_i; then

    .. math:: \zeta'^2 = (1 - \zeta') \zeta^2 + q \zeta', \quad q = \frac{\lambda}{\lambda + \tau}, \qquad
              y \leftarrow w' + \frac{\zeta (1 - \zeta)}{\zeta^2 + \zeta'} (w' - w),

    w' being the new iterate. Before the first y = w. With :math:`\tau = 0` it is InexactDANE. Figures are those of f.
    The server puts tau and y into the slope and the proximal term it sends, so that messages and communication rounds
    are InexactDANE's.

    Parameters
    ----------
    tau : float
        As above; >= 0. The steps of SVRG diverge if ``inner_step_size * (mu + tau)`` is 2 or more.
    zeta : float
        Its value before the first iteration; > 0 and < 1.
    strong_convexity : float
        lambda, the strong convexity that f is known to have; >= 0.
    eta, mu, inner_step_size, inner_iterations, gradient_tolerance, on_iteration
        As for :class:`InexactDane`.

    Attributes
    ----------
    TUNING_GRID : mapping
        Values worth trying.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    As for :class:`InexactDane`.
    """

    TUNING_GRID: ClassVar[Mapping[str, Sequence[Any]]] = {
        "tau": (1e-2, 1e-1, 1.0, 10.0, 100.0),
        "inner_step_size": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "inner_iterations": (50, 200, 1000),
    }

    def __init__(
        self,
        eta: float = 1.0,
        mu: float = 0.0,
        tau: float = 100.0,
        zeta: float = 0.5,
        strong_convexity: float = 0.0,
        inner_step_size: float = 1e-3,
        inner_iterations: int = 50,
        gradient_tolerance: float = 1e-8,
        on_iteration: Callable[[Figures], None] | None = None,
    ) -> None:
        self.local = _LocalProblem(eta, mu, inner_step_size, inner_iterations)
        check_not_negative(tau=tau, strong_convexity=strong_convexity, gradient_tolerance=gradient_tolerance)
        if not 0 < zeta < 1:
            raise ValueError(f"zeta = {zeta!r}: accepted: a number > 0 and < 1")
        self.tau, self.zeta = tau, zeta
        self.condition = strong_convexity / (strong_convexity + tau) if strong_convexity > 0 else 0.0
        self.gradient_tolerance = gradient_tolerance
        self.on_iteration = on_iteration

    def begin(self, exchange: MeanExchange, w: Vector) -> _Run:
        """A run from the initial model."""
        pull = _Pull(self.tau, self.zeta, self.condition, w)
        return _Run("AIDE", self.local, self.gradient_tolerance, exchange, w, pull)


class _LocalProblem:
    """Parameters of the devices' problem and of the steps they take on it."""

    def __init__(self, eta: float, mu: float, inner_step_size: float, inner_iterations: int) -> None:
        check_positive(eta=eta, inner_step_size=inner_step_size)
        check_not_negative(mu=mu)
        check_counts(inner_iterations=inner_iterations)
        self.eta, self.mu = eta, mu
        self.steps = {"step-size": float(inner_step_size), "steps": int(inner_iterations)}


class _Pull:
    """The pull of AIDE's objective towards y, and how y moves ahead of the iterates."""

    def __init__(self, tau: float, zeta: float, condition: float, y: Vector) -> None:
        self.tau, self.zeta, self.condition, self.y = tau, zeta, condition, y

    def gradient(self, w: Vector) -> Vector:
        """Of tau / 2 ||w - y||^2."""
        return self.tau * (w - self.y)

    def move(self, before: Vector, after: Vector) -> None:
        """Go from the old iterate past the new one."""
        b = self.zeta**2 - self.condition
        zeta = (math.sqrt(b**2 + 4 * self.zeta**2) - b) / 2
        self.y = after + self.zeta * (1 - self.zeta) / (self.zeta**2 + zeta) * (after - before)
        self.zeta = zeta


class _Run(Iterations):
    """The iterations of one run, pulled towards y if `pull` is given."""

    def __init__(
        self,
        name: str,
        local: _LocalProblem,
        gradient_tolerance: float,
        exchange: MeanExchange,
        w: Vector,
        pull: _Pull | None,
    ) -> None:
        super().__init__(name, exchange, w)
        self.local, self.gradient_tolerance, self.pull = local, gradient_tolerance, pull

    def state(self) -> dict[str, Any]:
        """And where the pull goes, if there is one."""
        return super().state() | ({} if self.pull is None else {"zeta": self.pull.zeta, "y": self.pull.y})

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`strategies.iterations.Iterations.restore`."""
        super().restore(state)
        if self.pull is not None:
            self.pull.zeta, self.pull.y = state["zeta"], state["y"].copy()

    def attempt(self, iteration: int, nodes: frozenset[int]) -> Figures | None:
        """One iteration; its figures, or None if there is nothing left to gain."""
        look = self.look_unless_diverged(nodes)
        if (reason := look.diverged) is not None:
            return self.figures(iteration, look, 0.0, stopped=reason)
        if look.gradient_norm <= self.gradient_tolerance:
            return None
        pulled = look.gradient if self.pull is None else look.gradient + self.pull.gradient(self.w)
        proximity = self.local.mu + (0.0 if self.pull is None else self.pull.tau)
        means = self.ask(
            "local_solve",
            {"change": 1},
            scalars={"diverged": 1},
            vectors={"slope": (self.local.eta * pulled).astype(self.w.dtype)},
            config={"proximity": float(proximity), **self.local.steps},
        )
        if failures := round(float(means.scalars["diverged"]) * len(self.nodes)):
            reason = f"diverged: the local steps of {failures} of {len(self.nodes)} devices; take smaller ones"
            return self.figures(iteration, look, 0.0, stopped=reason)
        before, self.w = self.w, (self.w + means.vectors["change"]).astype(self.w.dtype)
        if self.pull is not None:
            self.pull.move(before, self.w)
        return self.figures(iteration, look, 1.0)
