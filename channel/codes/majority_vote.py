"""One bit an entry: devices send signs, and the server steps the way most of them point (OBDA)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from channel.codes.code import Code, SymbolCount

TIE = 1e-6
"""Of the root mean square received: what is smaller is a tie. Votes that cancel leave rounding errors, and symbols may
come in single precision."""


class MajorityVote(Code):
    r"""Send :math:`\operatorname{sign}(x)`; decode the sign of the sum, :math:`\hat x = \eta\,\operatorname{sign}(y)`.

    One-bit digital aggregation: on the air two signs on a complex use are a QPSK symbol, of constant power (a PAPR of
    0 dB), and a receiver needs no more than the signs of what adds up. As a code it sends :math:`\eta\,
    \operatorname{sign}(x_i)` of an update, :math:`\eta` the step, so :math:`y = \sum_i g_i \eta
    \operatorname{sign}(x_i) + e`: power control that aligns devices counts votes by their weights, one that does not
    by the gains they arrive with. The receive scale is of no consequence. A zero entry abstains, and a tie is a zero.

    The code is not linear. An entry of sum :math:`s \neq 0` is decided wrongly with probability
    :math:`Q(|s|/s_e)`, :math:`s_e^2` the noise variance; :func:`vote_error` has the probability over votes too. The
    squared error to the mean update has no closed form in energies.

    Parameters
    ----------
    step : float
        eta, what every entry of the model moves by, in units of an update's entries; finite and > 0. The update that
        the server makes has the norm :math:`\eta \sqrt d`, however small the devices' have become.
    error_feedback : bool, default False
        Whether devices add :meth:`residual`, :math:`x - \eta \operatorname{sign}(x)`, to their next update. Not part
        of OBDA. It stays bounded only for entries of at most the step, and is what the device's own vote leaves out,
        not what the majority does.

    Raises
    ------
    ValueError
        A step that is not a finite number > 0.

    Notes
    -----
    As published: equal weights and :class:`~channel.power.inversion.TruncatedInversion`. Published devices send the
    sign of a gradient, and the server takes a step of its learning rate.

    References
    ----------
    G. Zhu, Y. Du, D. Gündüz, K. Huang, "One-bit over-the-air aggregation for communication-efficient federated edge
    learning: design and convergence analysis", IEEE Trans. Wireless Commun. 20, 2021. J. Bernstein et al., "signSGD
    with majority vote is communication efficient and fault tolerant", ICLR 2019.

    Examples
    --------
    >>> code = MajorityVote(step=0.1)
    >>> votes = code.encode(torch.tensor([[1.0, -2.0], [3.0, -0.5], [-9.0, -1.0]]), seed=0)
    >>> code.decode(votes.mean(0), size=2, seed=0)
    tensor([ 0.1000, -0.1000])
    """

    name = "majority-vote"
    linear = False
    closed_form = False  # the error depends on the entries' margins, which no energy says
    decoders = ("majority",)

    def __init__(self, step: float, error_feedback: bool = False) -> None:
        super().__init__("majority", error_feedback)
        if not 0.0 < step < math.inf:
            raise ValueError(f"step is {step!r}; accepted: a finite number > 0")
        self.step = float(step)
        self._count = SymbolCount(ratio=1.0, uses=None)

    def uses(self, size: int) -> int:
        """One real use per entry: half a QPSK symbol."""
        return self._count.of(size)

    def padded_size(self, size: int) -> int:
        """No padding."""
        return self._count.of(size)

    def sent(self, update: Tensor) -> Tensor:
        """``step * sign(x)``, shape (..., d)."""
        return self.step * update.sign()

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        return self.sent(update)

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        level = symbols.square().mean(dim=-1, keepdim=True).sqrt()
        return self.step * torch.where(symbols.abs() > TIE * level, symbols.sign(), torch.zeros_like(symbols))

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an equal code."""
        return {"step": self.step, "error_feedback": self.error_feedback}


def vote_error(devices: int, right: float, snr: float = math.inf) -> float:
    r"""Probability that the majority is decided wrongly, for votes that are independent and equally loud.

    .. math::
        P = \sum_{k=0}^K \binom Kk p^k (1 - p)^{K-k}\, Q\big((2k - K)\sqrt{\gamma}\big), \qquad
        Q(x) = \tfrac12 \operatorname{erfc}(x/\sqrt2).

    Without noise this is the binomial tail :math:`P(k < K/2)`, and half of each tie.

    Parameters
    ----------
    devices : int
        K >= 1.
    right : float
        p in [0, 1], the probability of one device's sign.
    snr : float
        gamma >= 0, the power that one vote arrives with over the noise variance, a real use; may be infinite.

    Raises
    ------
    ValueError
        A parameter outside the above.

    Examples
    --------
    >>> round(vote_error(devices=3, right=0.9), 6)
    0.028
    """
    from scipy.stats import binom, norm  # slow to import

    if devices != int(devices) or devices < 1:
        raise ValueError(f"devices is {devices!r}; accepted: an integer >= 1")
    if not 0.0 <= right <= 1.0:
        raise ValueError(f"right is {right!r}; accepted: 0 <= right <= 1")
    if not snr >= 0.0:
        raise ValueError(f"snr is {snr!r}; accepted: a number >= 0, or infinity")
    votes = np.arange(devices + 1)
    margins = 2.0 * votes - devices
    with np.errstate(invalid="ignore"):
        arriving = np.where(margins == 0, 0.0, margins * math.sqrt(snr))
    return float(binom.pmf(votes, devices, right) @ norm.sf(arriving))
