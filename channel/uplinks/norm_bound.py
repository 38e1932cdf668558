"""What an uplink takes from a device at most, whatever it says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import Code
from channel.uplinks.uplink import Cohort

Real = NDArray[np.float64]


@dataclass(frozen=True)
class NormBound:
    r"""A bound C on the norms of updates that holds on the air: what says more is taken for C.

    As devices clip, an honest one never says more. Of one that does, the norm counts as C in power control, and what
    arrives is that of an update scaled down to C.

    With ``known`` power control reckons with C for every device, and asks nobody for a norm: amplitudes and receive
    scale depend on no data. Device i then sends :math:`\sqrt n A x_i/C` in place of :math:`\sqrt n A
    x_i/\|x_i\|`, of as much less power as its update is smaller, and never more than granted: where chance makes
    :math:`\|A x_i\| > C\sqrt{m/n}`, the block is scaled down to it. So a block's norm is at most :math:`\sqrt m`.

    Parameters
    ----------
    limit : float
        C > 0, of the norm of an update.
    known : bool, default False
        Let C stand for all norms.

    Raises
    ------
    ValueError
        A limit that is not a finite number > 0.
    """

    limit: float
    known: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.limit < math.inf:
            raise ValueError(f"limit is {self.limit!r}; accepted: a finite number > 0")

    def on(self, cohort: Cohort, code: Code, seed: int) -> BoundedCohort:
        """The cohort as the bound leaves it.

        Parameters
        ----------
        cohort : Cohort
            The senders.
        code : Code
            A linear code without error feedback: of others norms are not those of updates.
        seed : int
            The code's.
        """
        said = cohort.norms
        if not self.known:
            with np.errstate(divide="ignore"):
                return BoundedCohort(cohort, np.minimum(said, self.limit), np.minimum(1.0, self.limit / said))
        powers = cohort.symbols(code, seed).double().square().mean(dim=1).numpy()
        with np.errstate(divide="ignore"):  # of what is silent: nothing to scale
            scales = np.minimum(1.0, self.limit / (said * np.sqrt(powers)))
        return BoundedCohort(cohort, np.full(len(said), self.limit), scales, powers * (scales * said / self.limit) ** 2)


class BoundedCohort:
    """A cohort whose updates are scaled by a factor each; implements :class:`channel.uplinks.Cohort`.

    Parameters
    ----------
    inner : Cohort
        The senders.
    norms : ndarray, shape (K,)
        What power control reckons with, and symbols are scaled by.
    scales : ndarray, shape (K,)
        Of the updates.
    powers : ndarray, shape (K,), optional
        Mean square of the symbols; 1 if not given.
    """

    def __init__(self, inner: Cohort, norms: Real, scales: Real, powers: Real | None = None) -> None:
        self.inner = inner
        self.devices, self.weights = inner.devices, inner.weights
        self.size, self.total = inner.size, inner.total
        self.norms, self.scales = norms, scales
        self.powers: Real | float = 1.0 if powers is None else powers

    def updates(self, gains: Real) -> Tensor | None:
        """Superpositions of the scaled updates."""
        return self.inner.updates(gains * self.scales)

    def signals(self, gains: Real) -> Tensor:
        """The same of coded ones."""
        return self.inner.signals(gains * self.scales)

    def symbols(self, code: Code, seed: int) -> Tensor:
        """Each device's symbols, in units of what power control grants."""
        with np.errstate(divide="ignore", invalid="ignore"):
            scales = np.where(self.norms > 0, self.scales * self.inner.norms / self.norms, 0.0)
        symbols = self.inner.symbols(code, seed)
        return symbols * torch.from_numpy(scales).to(symbols.dtype)[:, None]


def largest_pull(code: Code, size: int, received: Real) -> Real:
    r"""How far a device can move the decoded mean, :math:`c\, a|h_i|b_i\sqrt m`, with the code's c of its decoder.

    Its block of symbols has at most unit power, so that it arrives with a norm of at most :math:`a|h_i|b_i\sqrt m`, and
    :math:`\|A^T\| = 1`.

    Parameters
    ----------
    code : Code
        Linear, with a decoder of a fixed c ("unbiased" or "projection").
    size : int
        Entries d of an update.
    received : ndarray, shape (K,)
        What symbols arrive with after the receive scale, :math:`a|h_i|b_i`; with :math:`b_i = \sqrt{P_i}` of one that
        sends as loud as it can.

    Returns
    -------
    ndarray, shape (K,)

    Raises
    ------
    ValueError
        Another decoder: its c depends on what is heard.
    """
    if code.decoder not in ("unbiased", "projection") or not code.linear:
        raise ValueError(f"code is {code!r}; accepted: a linear one with decoder 'unbiased' or 'projection'")
    scale = code.padded_size(size) / code.uses(size) if code.decoder == "unbiased" else 1.0
    return np.asarray(scale * np.sqrt(code.uses(size)) * np.abs(received))


__all__ = ["BoundedCohort", "NormBound", "largest_pull"]
