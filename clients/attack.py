"""Devices that work against the others: what they send in place of their updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from channel.randomness import generator, torch_generator
from clients.data import Split

AttackKind = Literal["sign-flip", "scaled-update", "gaussian", "label-flip"]
"""What attackers do."""


@dataclass(frozen=True)
class Attack:
    r"""What some devices send in place of their clipped updates x.

    * ``sign-flip``: :math:`-F x`, away from where the others go;
    * ``scaled-update``: :math:`F x`, to decide for all;
    * ``gaussian``: :math:`F \|x\|\, g/\|g\|`, g white Gaussian noise, new in each round;
    * ``label-flip``: :math:`F x` of training on wrong answers, class c taken for (number of classes - 1 - c).

    They know the code and say the norm and the weight that they have: the norm of what they send, which is F times that
    of an honest update. Nobody makes them clip.

    Parameters
    ----------
    kind : str
        One of the above.
    devices : frozenset of int
        Who they are.
    factor : float, default 1
        F, finite and > 0.
    seed : int, default 0
        Of the noise.

    Raises
    ------
    ValueError
        An unknown kind, or a factor outside the above.

    References
    ----------
    P. Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS 2017
    (Gaussian and opposite updates); M. Fang et al., "Local model poisoning attacks to Byzantine-robust federated
    learning", USENIX Security 2020 (label flips and scaling).
    """

    kind: AttackKind
    devices: frozenset[int]
    factor: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(AttackKind):
            raise ValueError(f"kind is {self.kind!r}; accepted: {', '.join(get_args(AttackKind))}")
        if not 0 < self.factor < math.inf:
            raise ValueError(f"factor is {self.factor!r}; accepted: a finite number > 0")

    def data(self, split: Split, device: int, classes: int) -> Split:
        """The rows that `device` trains on."""
        if self.kind != "label-flip" or device not in self.devices:
            return split
        return Split(split.inputs, classes - 1 - split.targets)

    def update(self, honest: Tensor, device: int, round: int) -> Tensor:
        """What `device` sends in place of `honest`, shape (d,)."""
        if device not in self.devices:
            return honest
        if self.kind == "sign-flip":
            return honest * -self.factor
        if self.kind == "gaussian":
            noise = torch.randn(len(honest), generator=torch_generator(self.seed, "attack", round, device))
            noise = noise.to(honest.device, honest.dtype)
            scale = self.factor * float(torch.linalg.vector_norm(honest)) / float(torch.linalg.vector_norm(noise))
            return noise * scale
        return honest * self.factor


def drawn_attackers(count: int, devices: int, seed: int) -> frozenset[int]:
    """`count` of the devices 0 .. devices - 1, drawn by the run's seed.

    Raises
    ------
    ValueError
        More than there are, or fewer than none.
    """
    if not 0 <= count <= devices:
        raise ValueError(f"count is {count}; accepted: 0 to {devices}, the number of devices")
    return frozenset(generator(seed, "attackers").choice(devices, size=count, replace=False).tolist())
