"""The sparse analog code of A-DSGD: the largest entries, a random projection, approximate message passing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from channel.codes.code import Code, Decoder, SymbolCount
from channel.codes.random_linear_code import RandomLinearCode

DOUBT = 1.0
"""Standard deviations by which message passing must promise to beat the linear decoder.

With none, dense sums in much noise come out up to 1.6 times as far off as silence; with three, the linear decoder gets
most of the sums at the edge of what can be recovered, and shrinks them to a fraction."""


class SparseAMP(Code):
    r"""Send the k largest entries, :math:`A\,\operatorname{top}_k(x)`; decode their sum by message passing (A-DSGD).

    A-DSGD of Amiri and Gündüz: what a device leaves out it adds to its next update (error feedback), and the
    receiver looks for a sparse vector that explains what it heard. A is that of
    :class:`~channel.codes.random_linear_code.RandomLinearCode`. Each device chooses entries of its own, so the code
    is not linear: every update must be coded on its own, and an error has no closed form.

    The published decoder is for a Gaussian A; its correction is wrong for orthonormal rows, where it takes its error
    for a fourth of what it is. So the decoder is AMP for orthonormal rows (Ma, Ping; Xue, Ma, Yuan). From u = 0, with
    S soft thresholding and a the share of entries that it keeps, it repeats

    .. math::
        v &= (n/m - 1) \max(0, \|y - A u\|^2/m - s_e^2) + (n/m) s_e^2, \\
        q &= u + (n/m) A^T (y - A u), \qquad \hat x = S(q;\ \mathrm{threshold}\, \sqrt v), \\
        u &= c\,(\hat x - a q), \qquad c = \arg\min_c \|y - c\,A(\hat x - a q)\|.

    q is x with errors of variance v, so Stein's unbiased risk estimate :math:`v(2a - 1) + \|\hat x - q\|^2/d` says
    what the estimate is worth. It is taken only where that, with a standard deviation of doubt, is below the
    error of the linear decoder of least error, and the linear decoder otherwise: on sums that are not sparse AMP
    can be worse than hearing nothing.

    Parameters
    ----------
    ratio : float, optional
        m / d in (0, 1]; exactly one of ``ratio`` and ``uses``.
    uses : int, optional
        m, at most the size of the update.
    sparsity : float, default 0.5
        k / m in (0, 1]; k is rounded and at least 1. As published; from m = d/8 down 0.125 hears more.
    threshold : float, default 1.3
        Of soft thresholding, in standard deviations of the errors; > 0.
    iterations : int, default 30
        At least 1. From a noiseless sum with 0.2 m entries at m = d/2 it takes some 25 to 1e-6.
    decoder : {"amp"}
        There is no other.
    error_feedback : bool, default True
        Whether devices add :meth:`residual` to their next update.

    Raises
    ------
    ValueError
        A parameter outside the above; at :meth:`encode`, ``uses`` greater than the size.

    Notes
    -----
    With :class:`~channel.power.full_power.FullPower` and ``receive="unbiased"`` devices send at full power and the
    server divides by the sum of the amplitudes, as published, but for two things: the server divides by the norms
    reported on the control channel, where the paper sends a pilot symbol, so that the mean is scaled by the weighted
    mean of the norms (the paper: by their harmonic mean); and nothing removes the mean of the projected update in
    the first rounds: under random signs it carries a share of about 1/m of the energy. Other power controls are a
    combination of ours.

    References
    ----------
    M. M. Amiri, D. Gündüz, "Machine learning at the wireless edge: distributed stochastic gradient descent
    over-the-air", IEEE Trans. Signal Process. 68, 2020. D. L. Donoho, A. Maleki, A. Montanari, "Message-passing
    algorithms for compressed sensing", PNAS 106, 2009. J. Ma, L. Ping, "Orthogonal AMP", IEEE Access 5, 2017.
    Z. Xue, J. Ma, X. Yuan, "Denoising-based turbo compressed sensing", IEEE Access 5, 2017.

    Examples
    --------
    >>> code = SparseAMP(ratio=0.5, sparsity=0.1)
    >>> update = torch.zeros(1000, dtype=torch.float64)
    >>> update[:50] = 1.0
    >>> heard = code.decode(code.encode(update, seed=3), size=1000, seed=3)
    >>> bool((heard - update).abs().max() < 1e-6)
    True
    """

    name = "sparse-amp"
    linear = False
    closed_form = False  # the error depends on how sparse the updates and their sum are, which no energy says
    decoders = ("amp",)

    def __init__(
        self,
        ratio: float | None = None,
        uses: int | None = None,
        sparsity: float = 0.5,
        threshold: float = 1.3,
        iterations: int = 30,
        decoder: Decoder = "amp",
        error_feedback: bool = True,
    ) -> None:
        super().__init__(decoder, error_feedback)
        self._count = SymbolCount(ratio, uses)
        if not 0.0 < sparsity <= 1.0:
            raise ValueError(f"sparsity is {sparsity!r}; accepted: 0 < sparsity <= 1")
        if not 0.0 < threshold < math.inf:
            raise ValueError(f"threshold is {threshold!r}; accepted: a finite number > 0")
        if iterations != int(iterations) or iterations < 1:
            raise ValueError(f"iterations is {iterations!r}; accepted: an integer >= 1")
        self.sparsity = sparsity
        self.threshold = threshold
        self.iterations = int(iterations)
        self._projection = RandomLinearCode(ratio, uses, decoder="projection")
        self._linear_decoder = RandomLinearCode(ratio, uses, decoder="lmmse")

    def uses(self, size: int) -> int:
        """m = round(ratio d), at least 1; or the number given."""
        return self._count.of(size)

    def padded_size(self, size: int) -> int:
        """The next length >= ``size`` whose transform is fast."""
        return self._projection.padded_size(size)

    def kept(self, size: int) -> int:
        """k = round(sparsity m), at least 1: how many entries of an update are sent."""
        return max(1, round(self.sparsity * self.uses(size)))

    def sent(self, update: Tensor) -> Tensor:
        """The k entries of the largest magnitude where they are, zeros elsewhere; shape (..., d)."""
        places = update.abs().topk(self.kept(update.shape[-1]), dim=-1).indices
        return torch.zeros_like(update).scatter_(-1, places, update.gather(-1, places))

    def residual(self, update: Tensor, seed: int) -> Tensor:
        """What is not sent, ``x - top_k(x)``, shape (..., d)."""
        return update - self.sent(update)

    def decode(self, received: Tensor, size: int, seed: int, noise_variance: float = 0.0) -> Tensor:
        """Estimate the sum of what was sent, by message passing where that promises less error than a linear map.

        Parameters and errors as :meth:`channel.codes.code.Code.decode`; each row of a batch decides for itself.
        """
        by_linear_map = self._linear_decoder.decode(received, size, seed, noise_variance)
        by_amp, risk = self._message_passing(received, size, seed, noise_variance)
        n, r = self.padded_size(size), self.expected_energy_ratio(size)
        level = (received.square().mean(dim=-1, keepdim=True) - noise_variance).clamp(min=0.0)
        risk_of_linear_map = n / size * level * (1.0 - r * self._shrinkage(level, size, noise_variance))
        return torch.where(risk < risk_of_linear_map, by_amp, by_linear_map)

    def _message_passing(self, received: Tensor, size: int, seed: int, noise_variance: float) -> tuple[Tensor, Tensor]:
        """The last estimate, (..., d), and its squared error an entry with `DOUBT` on top, (..., 1)."""
        gain = 1.0 / self.expected_energy_ratio(size)
        extrinsic = received.new_zeros(*received.shape[:-1], size)
        unexplained = received
        for _ in range(self.iterations):
            error = (unexplained.square().mean(dim=-1, keepdim=True) - noise_variance).clamp(min=0.0)
            variance = (gain - 1.0) * error + gain * noise_variance
            noisy = extrinsic + gain * self._adjoint(unexplained, size, seed)
            estimate = _soft_threshold(noisy, self.threshold * variance.sqrt())
            share = (estimate != 0).to(received.dtype).mean(dim=-1, keepdim=True)
            extrinsic = estimate - share * noisy
            coded = self._projection.encode(extrinsic, seed)
            scale = _least_squares_scale(received, coded)
            extrinsic, unexplained = scale * extrinsic, received - scale * coded
        risk = variance * (2.0 * share - 1.0) + (estimate - noisy).square().mean(dim=-1, keepdim=True)
        # Of pure noise, variance * chi^2 / d: its standard deviation is variance * sqrt(2 / d).
        return estimate, risk + DOUBT * variance * math.sqrt(2.0 / size)

    def _forward(self, update: Tensor, seed: int) -> Tensor:
        return self._projection.encode(self.sent(update), seed)

    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        return self._projection.decode(symbols, size, seed)

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an equal code."""
        own = {"sparsity": self.sparsity, "threshold": self.threshold, "iterations": self.iterations}
        return self._count.parameters | own | super().parameters


def _soft_threshold(signal: Tensor, threshold: Tensor) -> Tensor:
    return signal.sign() * (signal.abs() - threshold).clamp(min=0.0)


def _least_squares_scale(wanted: Tensor, given: Tensor) -> Tensor:
    """c of the least ``||wanted - c given||`` along the last axis; 0 where `given` is zero."""
    energy = given.square().sum(dim=-1, keepdim=True)
    product = (wanted * given).sum(dim=-1, keepdim=True)
    return torch.where(energy > 0, product / energy, torch.zeros_like(energy))
