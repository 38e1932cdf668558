"""Devices with quadratic objectives, the grid that reaches them, and DINGO on them as the textbook has it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from clients.second_order import add_second_order
from clients.transmit import transmit
from fedmac.engines.local import FIRST_NODE, LocalGrid
from tests import fleet

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Quadratic:
    """f(w) = w'Aw/2 - b'w, with the methods of :class:`clients.objective.Objective`."""

    a: Matrix
    b: Vector

    device = torch.device("cpu")

    @property
    def size(self) -> int:
        return len(self.b)

    def value_and_gradient(self, w: Tensor) -> tuple[float, Tensor]:
        a, b = self._in(w.dtype)
        return float(w @ (a @ w) / 2 - b @ w), a @ w - b

    def hessian(self, w: Tensor) -> Callable[[Tensor], Tensor]:
        a, _ = self._in(w.dtype)
        return lambda v: a @ v

    def along(self, w: Tensor, p: Tensor, steps: Sequence[float], *, gradients: bool) -> tuple[Tensor, Tensor | None]:
        found = [self.value_and_gradient(w + step * p) for step in steps]
        values = torch.tensor([value for value, _ in found], dtype=torch.float64)
        return values, torch.stack([gradient for _, gradient in found]) if gradients else None

    def _in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.a).to(dtype), torch.from_numpy(self.b).to(dtype)


def random_quadratics(devices: int, size: int = 6, seed: int = 0, *, least: float = 0.05) -> list[Quadratic]:
    """Positive definite, with eigenvalues from `least` to 1 along axes of their own."""
    draws = np.random.default_rng(seed)
    problems = []
    for _ in range(devices):
        basis, _ = np.linalg.qr(draws.normal(size=(size, size)))
        a = (basis * np.geomspace(least, 1, size)) @ basis.T
        problems.append(Quadratic((a + a.T) / 2, draws.normal(size=size)))
    return problems


def app_of(objectives: Sequence[Any]) -> ClientApp:
    """The app of devices that have these objectives."""
    app = ClientApp(mods=[transmit])
    add_second_order(app, lambda context, _config: objectives[int(context.node_config["partition-id"])])
    return app


def grid_of(objectives: Sequence[Any], *, workers: int = 1) -> LocalGrid:
    """One device for each objective. The engine asks for a workplace as well; nobody works there."""
    return LocalGrid(fleet.workplace(len(objectives), rows=2), app_of(objectives), workers=workers)


def zeros(size: int = 6, dtype: Any = np.float64) -> ArrayRecord:
    """The initial model."""
    return fleet.record({"w": np.zeros(size, dtype)})


Tamper = Callable[[int, str, int, Message], Message | None]
"""(device, action, round, reply) to what arrives of it; None is nothing."""


class TamperedGrid(fleet.MessageGrid):
    """Devices whose replies go through hands that change or lose them; it remembers what was asked of whom."""

    def __init__(self, inner: LocalGrid, tamper: Tamper) -> None:
        super().__init__(inner)
        self.change = tamper
        self.asked: list[tuple[int, str, list[int]]] = []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        messages = list(messages)
        action = messages[0].metadata.message_type.partition(".")[2]
        if not action:  # the air asks who is there
            return list(self.inner.send_and_receive(messages))
        round = int(str(messages[0].content.config_records["config"]["server-round"]))
        devices = [message.metadata.dst_node_id - FIRST_NODE for message in messages]
        self.asked.append((round, action, sorted(devices)))
        replies = [
            self.change(device, action, round, reply)
            for device, reply in zip(devices, self.inner.send_and_receive(messages), strict=True)
        ]
        return [reply for reply in replies if reply is not None][::-1]


@dataclass(frozen=True)
class TextbookStep:
    """What an iteration comes to."""

    w: Vector
    case: int
    p: Vector
    slope: float
    step_size: float
    passed: bool


def textbook(
    problems: Sequence[Quadratic],
    w: Vector,
    *,
    theta: float = 1e-4,
    phi: float = 1e-6,
    rho: float = 1e-4,
    line_search_steps: int = 50,
    devices: Collection[int] | None = None,
) -> TextbookStep:
    """One iteration from w with dense pseudo-inverses, by those devices."""
    chosen = list(problems) if devices is None else [problems[device] for device in sorted(devices)]
    gradients = [q.a @ w - q.b for q in chosen]
    g = np.mean(gradients, axis=0)
    h = np.mean([q.a for q in chosen], axis=0)
    bound, curved = -theta * (g @ g), h @ g
    damped = [np.linalg.solve(q.a @ q.a + phi**2 * np.eye(len(g)), q.a @ g) for q in chosen]
    candidates = [
        (1, -np.mean([np.linalg.pinv(q.a, hermitian=True) @ g for q in chosen], axis=0)),
        (2, -np.mean(damped, axis=0)),
        (3, np.mean([_corrected(q, c, curved, -bound, phi) for q, c in zip(chosen, damped, strict=True)], axis=0)),
    ]
    case, p = next((case, p) for case, p in candidates if case == 3 or p @ curved <= bound)
    slope = float(p @ curved)
    for k in range(line_search_steps):
        there = g + 2.0**-k * (h @ p)
        passed = bool(there @ there <= g @ g + 2 * 2.0**-k * rho * slope)
        if passed or k == line_search_steps - 1:
            return TextbookStep(w + 2.0**-k * p, case, p, slope, 2.0**-k, passed)
    raise AssertionError("no steps")


def _corrected(q: Quadratic, damped: Vector, curved: Vector, bound: float, phi: float) -> Vector:
    missing = bound - damped @ curved
    if missing <= 0:
        return -damped
    turn = np.linalg.solve(q.a @ q.a + phi**2 * np.eye(len(curved)), curved)
    corrected: Vector = -damped - missing / (curved @ turn) * turn
    return corrected
