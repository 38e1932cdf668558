"""What a device does in DINGO and the methods it is compared with: gradients, local solves, and trial steps.

What one message leaves for the next (the model, the gradient, the direction) lies in ``Context.state``, so that a
client process that is started anew for each message does the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from channel.randomness import torch_generator
from clients.krylov import Stopped, conjugate_gradients, lsmr, minres_qlp
from clients.objective import Objective
from clients.svrg import svrg
from clients.vectors import arrays_of, config_of, keep, kept, model_in, reply_with, vector_in, vectors_asked

FindObjective = Callable[[Context, Mapping[str, Any]], Objective]
"""A device's objective, from its context and the server's configuration."""


def add_second_order(app: ClientApp, objective_of: FindObjective) -> None:
    """Let an app's devices take part in the methods of :class:`strategies.iterative.IterativeStrategy`.

    Actions of ``train`` are answered with vectors, those of ``query`` with scalars alone. Each reply holds the vectors
    that the server asks for in the record "vectors", and metrics: the device's weight,
    and values of its objective f_i. H_i is the Hessian of f_i at the device's model w.
    """

    @app.train("gradient")
    def gradient(message: Message, context: Context) -> Message:
        """Take over the model w; reply f_i and its gradient there."""
        objective = objective_of(context, config_of(message))
        w = model_in(message, objective.device)
        value, own = objective.value_and_gradient(w)
        keep(context, anew=True, w=w)
        return reply_with(message, {"gradient": own}, {"objective": value})

    @app.train("directions")
    def directions(message: Message, context: Context) -> Message:
        r"""Step to the new iterate; reply :math:`H_i g`, :math:`H_i^\dagger g` and, if asked for, the damped solve."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        g, w = vector_in(message, "gradient", objective.device), kept(context, "w", objective.device)
        if "step-size" in config:
            w = w + float(config["step-size"]) * kept(context, "direction", objective.device)
        hessian = objective.hessian(w)
        own = {"hessian_gradient": hessian(g), "newton": minres_qlp(hessian, g, **_limits(config)).x}
        if "damped" in vectors_asked(message):
            own["damped"] = _damped(hessian, g, config)
        keep(context, anew=True, w=w, gradient=g, **({"damped": own["damped"]} if "damped" in own else {}))
        return reply_with(message, own, {})

    @app.train("damped")
    def damped(message: Message, context: Context) -> Message:
        r"""Reply :math:`\tilde H_i^\dagger \tilde g`, the solve with a little damping, for case 2."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        own = _damped(
            objective.hessian(kept(context, "w", objective.device)), kept(context, "gradient", objective.device), config
        )
        keep(context, damped=own)
        return reply_with(message, {"damped": own}, {})

    @app.train("correction")
    def correction(message: Message, context: Context) -> Message:
        """Reply the device's direction, turned so far that it lowers the gradient's norm enough, for case 3."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        hessian = objective.hessian(kept(context, "w", objective.device))
        own = _corrected(
            hessian,
            kept(context, "damped", objective.device),
            vector_in(message, "hessian_gradient", objective.device),
            config,
        )
        return reply_with(message, {"corrected": own}, {})

    @app.train("trial")
    def trial(message: Message, context: Context) -> Message:
        r"""Reply f_i and its gradients at :math:`w + \alpha p` for the steps asked for; p comes with the first.

        Where the model overflows the answer is an infinite f_i, so that the step does not pass, and no gradient.
        """
        objective, config = objective_of(context, config_of(message)), config_of(message)
        if "direction" in arrays_of(message):
            keep(context, direction=vector_in(message, "direction", objective.device))
        w, p = kept(context, "w", objective.device), kept(context, "direction", objective.device)
        values, gradients = objective.along(w, p, list(config["steps"]), gradients=True)
        assert gradients is not None
        overflows = ~(values.isfinite() & gradients.isfinite().all(dim=1))
        values, gradients = values.masked_fill(overflows, math.inf), gradients.masked_fill(overflows[:, None], 0.0)
        return reply_with(message, {"gradients": gradients}, {"objectives": values.tolist()})

    _add_methods_of_newton_directions(app, objective_of)
    _add_stochastic_methods(app, objective_of)


def _add_methods_of_newton_directions(app: ClientApp, objective_of: FindObjective) -> None:
    """What GIANT and DiSCO ask for: Newton steps and Hessian products at the device's model w, values along a line."""

    @app.train("step")
    def step(message: Message, context: Context) -> Message:
        r"""Move to :math:`w + \alpha p` with the p of the last values; reply f_i and its gradient there."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        w = kept(context, "w", objective.device) + float(config["step-size"]) * kept(
            context, "direction", objective.device
        )
        value, own = objective.value_and_gradient(w)
        keep(context, anew=True, w=w)
        return reply_with(message, {"gradient": own}, {"objective": value})

    @app.train("newton")
    def newton(message: Message, context: Context) -> Message:
        r"""Reply :math:`H_i^{-1} g` by CG; of a solve that meets non-positive curvature what it had, or else g."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        g = vector_in(message, "gradient", objective.device)
        solution = conjugate_gradients(objective.hessian(kept(context, "w", objective.device)), g, **_limits(config))
        failed = solution.stopped is Stopped.NONPOSITIVE_CURVATURE
        own = g if failed and solution.iterations == 0 else solution.x
        return reply_with(message, {"newton": own}, {"failed": float(failed)})

    @app.train("curvature")
    def curvature(message: Message, context: Context) -> Message:
        """Reply :math:`H_i v`."""
        objective = objective_of(context, config_of(message))
        own = objective.hessian(kept(context, "w", objective.device))(vector_in(message, "vector", objective.device))
        return reply_with(message, {"product": own}, {})

    @app.query("values")
    def values(message: Message, context: Context) -> Message:
        r"""Reply f_i at :math:`w + \alpha p` for the steps asked for; infinite where the model overflows."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        p = vector_in(message, "direction", objective.device)
        found, _ = objective.along(kept(context, "w", objective.device), p, list(config["steps"]), gradients=False)
        keep(context, direction=p)
        return reply_with(message, {}, {"objectives": found.masked_fill(found.isnan(), math.inf).tolist()})


def _add_stochastic_methods(app: ClientApp, objective_of: FindObjective) -> None:
    """What InexactDANE, AIDE and synchronous SGD ask for."""

    @app.train("local_solve")
    def local_solve(message: Message, context: Context) -> Message:
        """Reply the change that some steps of SVRG make to w, from the slope sent along."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        change = svrg(
            objective,
            kept(context, "w", objective.device),
            vector_in(message, "slope", objective.device),
            proximity=float(config["proximity"]),
            step_size=float(config["step-size"]),
            steps=int(config["steps"]),
            draws=_draws(context, config, "svrg rows"),
        )
        diverged = not bool(change.isfinite().all())
        own = torch.zeros_like(change) if diverged else change
        return reply_with(message, {"change": own}, {"diverged": float(diverged)})

    @app.train("sampled_gradient")
    def sampled_gradient(message: Message, context: Context) -> Message:
        """Reply the gradient of some of the device's rows at the model sent, drawn with replacement; 1.0 means all."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        if (fraction := float(config["batch-fraction"])) < 1:
            count = max(1, int(fraction * objective.rows))
            draws = _draws(context, config, "batch rows")
            objective = objective.on_rows(torch.randint(objective.rows, (count,), generator=draws))
        value, own = objective.value_and_gradient(model_in(message, objective.device))
        return reply_with(message, {"gradient": own}, {"objective": value})

    @app.query("monitor")
    def monitor(message: Message, context: Context) -> Message:
        """Reply f_i and its gradient at the model sent, for who watches the run; the device's state stays as it is."""
        objective = objective_of(context, config_of(message))
        value, own = objective.value_and_gradient(model_in(message, objective.device))
        return reply_with(message, {}, {"objective": value, "gradient": own.tolist()})


def _draws(context: Context, config: Mapping[str, Any], purpose: str) -> torch.Generator:
    """This device's own stream of the round."""
    device = int(context.node_config["partition-id"])
    return torch_generator(int(config.get("seed", 0)), purpose, int(config["server-round"]), device)


def _damped(hessian: Callable[[Tensor], Tensor], g: Tensor, config: Mapping[str, Any]) -> Tensor:
    return lsmr(hessian, g, damping=float(config["phi"]), **_limits(config)).x


def _corrected(
    hessian: Callable[[Tensor], Tensor], damped: Tensor, hessian_gradient: Tensor, config: Mapping[str, Any]
) -> Tensor:
    r""":math:`p_i = -c_i - \lambda_i q_i` with :math:`(H_i^2 + \varphi^2 I) q_i = Hg`; see dingo.Dingo, case 3."""
    bound, phi = float(config["bound"]), float(config["phi"])
    missing = bound - float(torch.dot(damped, hessian_gradient))
    if missing <= 0:
        return -damped

    def squared(v: Tensor) -> Tensor:
        return hessian(hessian(v)) + phi**2 * v

    q = conjugate_gradients(squared, hessian_gradient, **_limits(config)).x
    return -damped - missing / float(torch.dot(hessian_gradient, q)) * q


def _limits(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tolerance": float(config["inner-tolerance"]),
        "maximum_iterations": int(config["inner-iterations"]),
    }
