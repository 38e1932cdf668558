"""What a device does in DINGO over the air: solves to the level of the noise, and scalars that certify a step."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from channel.frame import Frame
from channel.order import TRANSMISSION_KEY
from clients.krylov import minres_qlp
from clients.objective import dot
from clients.second_order import FindObjective
from clients.vectors import arrays_of, config_of, keep, kept, reply_with, vector_in

JUST_BELOW_ONE = math.nextafter(1.0, 0.0)


def add_dingo_over_the_air(app: ClientApp, objective_of: FindObjective) -> None:
    """Let an app's devices take part in DINGO over the air, beside what :func:`add_second_order` adds.

    The actions, in the order of an iteration: ``train.own_gradient``, ``train.damped_newton``, ``query.certificate``.
    Where the server names a subspace (:class:`channel.frame.Frame`), vectors on the air are in its coordinates.
    """

    @app.train("own_gradient")
    def own_gradient(message: Message, context: Context) -> Message:
        """Take over the model w, or step to it along the last direction; reply the gradient of f_i there."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        if "model" in arrays_of(message):
            w = vector_in(message, "model", objective.device)
        else:
            w, step = kept(context, "w", objective.device), float(config["step-size"])
            w = w + step * kept(context, "direction", objective.device) if step > 0 else w
        own = objective.value_and_gradient(w)[1]
        keep(context, anew=True, w=w)
        frame = Frame.from_config(config, len(w))
        return reply_with(message, {"gradient": frame.project(own) if frame else own}, {})

    @app.train("damped_newton")
    def damped_newton(message: Message, context: Context) -> Message:
        r"""Reply :math:`c_i \approx (H_i + \mu I)^{-1} \hat g`, see :func:`solve_to_noise`."""
        objective, config = objective_of(context, config_of(message)), config_of(message)
        w, g = kept(context, "w", objective.device), vector_in(message, "gradient", objective.device)
        frame = Frame.from_config(config, len(w))
        hessian = objective.hessian(w)
        own = solve_to_noise((lambda v: frame.project(hessian(frame.lift(v)))) if frame else hessian, g, config)
        keep(context, gradient=g)
        return reply_with(message, {"newton": own}, {})

    @app.query("certificate")
    def certificate(message: Message, context: Context) -> Message:
        r"""Reply :math:`\langle p, g_i\rangle`, :math:`\langle p, H_i \hat g\rangle` and f_i at :math:`w + \alpha p`.

        p comes with the message; without it p is :math:`-\hat g`.
        """
        start = time.perf_counter()
        objective, config = objective_of(context, config_of(message)), config_of(message)
        w, g = kept(context, "w", objective.device), kept(context, "gradient", objective.device)
        p = vector_in(message, "direction", objective.device) if "direction" in arrays_of(message) else -g
        if frame := Frame.from_config(config, len(w)):
            p, g = frame.lift(p), frame.lift(g)
        _, own = objective.value_and_gradient(w)
        values, _ = objective.along(w, p, list(config["steps"]), gradients=False)
        scalars: dict[str, Any] = {
            "slope": dot(p, own),
            "curvature": dot(p, objective.hessian(w)(g)),
            "objectives": values.masked_fill(values.isnan(), math.inf).tolist(),
        }
        keep(context, direction=p)
        reply = reply_with(message, {}, scalars)
        reply.content[TRANSMISSION_KEY] = ConfigRecord({"seconds": time.perf_counter() - start})
        return reply


def solve_to_noise(hessian: Any, g: Tensor, config: Mapping[str, Any]) -> Tensor:
    r"""Solve :math:`(H_i + \mu I) c = \hat g` from c = 0 as far as :math:`\hat g` is known.

    MINRES takes at least one step and stops at :math:`\|r\| \le \max(\text{tolerance}, \eta) \|\hat g\|`: with
    :math:`\eta \|\hat g\|` the norm of the noise in :math:`\hat g`, a smaller residual would fit noise (the
    discrepancy principle).

    Parameters
    ----------
    hessian : callable
        The operator H_i.
    g : Tensor of shape (d,)
        The gradient as received.
    config : mapping
        ``damping`` mu, ``noise-level`` eta in [0, 1], ``inner-tolerance``, ``inner-iterations``.

    References
    ----------
    P. C. Hansen, "Discrete inverse problems: insight and algorithms", SIAM, 2010, section 5.2.
    """
    # A limit of the whole norm would be met by c = 0, which is no direction.
    level = min(JUST_BELOW_ONE, max(float(config["inner-tolerance"]), float(config["noise-level"])))
    return minres_qlp(
        hessian,
        g,
        tolerance=0.0,
        maximum_iterations=int(config["inner-iterations"]),
        residual_limit=level * float(torch.linalg.vector_norm(g)),
        shift=float(config["damping"]),
    ).x
