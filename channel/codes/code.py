"""What an analog code is: a matrix with orthonormal rows, and as a rule its scaled adjoint as the decoder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

Decoder = Literal["unbiased", "lmmse", "projection", "amp", "majority"]


class Code(ABC):
    r"""A seeded matrix :math:`A \in R^{m \times n}`, :math:`A A^T = I_m`, shared by all devices of a round.

    Devices send :math:`A x_i`; the channel adds them up, so the receiver sees :math:`y = A s + e` with
    :math:`s = \sum_i g_i x_i` and estimates :math:`\hat x = c\, A^T y`. An update of ``size`` entries is
    padded with zeros to ``n = padded_size(size)``; uniform sampling of the rows makes :math:`E A^T A = (m/n)
    I`, whence

    ============  =======================================  ==========================================
    decoder       c                                        for
    ============  =======================================  ==========================================
    unbiased      n / m                                    stochastic-gradient theory; the default
    lmmse         S / (kappa S + (size/n) se2)             the smallest error of one exchange
    projection    1                                        error feedback: what is lost is kept back
    ============  =======================================  ==========================================

    with S = ||s||^2 / n, se2 the noise variance per real use, kappa = r + (1 - r)(size - 1)/(n - 1), r = m/n
    (kappa = 1 without padding, where this is S / (S + se2)).

    A code may send but a part of an update, :meth:`sent`, and decode otherwise; it is then not :attr:`linear`.

    Attributes
    ----------
    linear : bool
        Whether the code of a sum is the sum of the codes, so that updates may be added up before they are coded.
    coherent : bool
        Whether it decodes a sum of amplitudes, which takes channels in phase; else a sum of energies.
    closed_form : bool
        Whether :meth:`mean_squared_error` knows the error; NaN where it depends on more than energies.
    decoders : tuple of str
        The decoders that there are.

    Parameters
    ----------
    decoder : str
        One of `decoders`: the rule for c.
    error_feedback : bool
        Whether devices should add :meth:`residual` to their next update. Of a linear code it needs
        ``decoder="projection"``: only then is what the receiver got exactly the update less the residual.

    Raises
    ------
    ValueError
        Unknown decoder, or error feedback with another decoder than the projection.
    """

    name: ClassVar[str]
    linear: ClassVar[bool] = True
    closed_form: ClassVar[bool] = True
    coherent: ClassVar[bool] = True
    decoders: ClassVar[tuple[Decoder, ...]] = ("unbiased", "lmmse", "projection")
    _count: SymbolCount

    def __init__(self, decoder: Decoder = "unbiased", error_feedback: bool = False) -> None:
        if decoder not in self.decoders:
            raise ValueError(f"decoder is {decoder!r}; accepted: {', '.join(self.decoders)}")
        if error_feedback and self.linear and decoder != "projection":
            raise ValueError(
                f"error_feedback=True needs decoder='projection', not {decoder!r}: the residual "
                "x - A^T A x is what the projection leaves out"
            )
        self.decoder: Decoder = decoder
        self.error_feedback = error_feedback

    @abstractmethod
    def uses(self, size: int) -> int:
        """Real channel uses m that an update of ``size`` entries takes."""

    @abstractmethod
    def padded_size(self, size: int) -> int:
        """Length n >= ``size`` that the update is padded to."""

    @abstractmethod
    def _forward(self, update: Tensor, seed: int) -> Tensor:
        """A x along the last axis."""

    @abstractmethod
    def _adjoint(self, symbols: Tensor, size: int, seed: int) -> Tensor:
        """The first ``size`` entries of A^T y along the last axis."""

    def sent(self, update: Tensor) -> Tensor:
        """What of an update is coded, shape (..., d): all of it, but for codes that leave entries out."""
        return update

    def encode(self, update: Tensor, seed: int) -> Tensor:
        """Symbols ``A x`` of an update, x what :meth:`sent` says.

        Parameters
        ----------
        update : Tensor, shape (..., d)
            One update, or a batch of them along the leading axes; float32 or float64. NaN and Inf pass
            through.
        seed : int
            Fixes the code; the receiver must use the same.

        Returns
        -------
        Tensor, shape (..., m)
            Real symbols, one per real channel use, in the dtype and on the device of ``update``.

        Raises
        ------
        TypeError
            Another dtype than float32 or float64.
        ValueError
            No entries, or more channel uses asked for than there are entries.
        """
        _check_signal("update", update)
        self.uses(update.shape[-1])
        return self._forward(update.detach(), seed)

    def decode(self, received: Tensor, size: int, seed: int, noise_variance: float = 0.0) -> Tensor:
        """Estimate ``c A^T y`` of what was sent.

        Parameters
        ----------
        received : Tensor, shape (..., m)
            What came out of the channel, already multiplied by the receive scale.
        size : int
            Number of entries d of the update.
        seed : int
            The seed it was encoded with.
        noise_variance : float
            Variance of the noise per real use in ``received``; only the ``lmmse`` decoder looks at it. The
            signal level S is estimated from the block itself, max(0, ||y||^2/m - noise_variance).

        Returns
        -------
        Tensor, shape (..., d)

        Raises
        ------
        ValueError
            ``received`` has not ``uses(size)`` entries, or the noise variance is negative or not finite.
        """
        _check_signal("received", received)
        _check_energy("noise_variance", noise_variance)
        m = self.uses(size)
        if received.shape[-1] != m:
            raise ValueError(
                f"received has shape {tuple(received.shape)}; an update of size {size} takes {m} channel "
                f"uses, so the last axis must be {m} long"
            )
        lifted = self._adjoint(received, size, seed)
        if self.decoder != "lmmse":
            return lifted if (c := self._fixed_scale(size)) == 1.0 else lifted * c
        level = (received.square().mean(dim=-1, keepdim=True) - noise_variance).clamp(min=0.0)
        return lifted * self._shrinkage(level, size, noise_variance)

    def residual(self, update: Tensor, seed: int) -> Tensor:
        """What the receiver will not get, shape (..., d): of a projection decoder ``x - A^T A x``."""
        return update - self._adjoint(self.encode(update, seed), update.shape[-1], seed)

    def expected_energy_ratio(self, size: int) -> float:
        """Expected ``||A x||^2 / ||x||^2`` over codes, x what is sent: m / n."""
        return self.uses(size) / self.padded_size(size)

    def largest_energy_ratio(self, size: int) -> float:
        """Largest ``||A x||^2 / ||x||^2`` that there is, x what is sent: 1 as rows are orthonormal."""
        return 1.0

    def coded_energy(self, signal: Tensor) -> float:
        """The energy of a signal, shape (d,), that :meth:`mean_squared_error` takes: ``||s||^2``."""
        return float(signal.square().sum())

    def heard_energy(self, received: Tensor, size: int, noise_variance: float) -> float:
        """The same as received symbols (m,) tell it: ``n max(0, ||y||^2/m - noise_variance)``."""
        entries = len(received) / self.expected_energy_ratio(size)
        return max(0.0, float(received.square().mean()) - noise_variance) * entries

    def mean_squared_error(
        self,
        size: int,
        signal_energy: float,
        misalignment_energy: float,
        noise_variance: float,
        varying_energy: float = 0.0,
    ) -> float:
        r"""Expected :math:`||\hat x - \bar x||^2` over codes and noise, in closed form.

        With :math:`q = E||(A^T A s)_{1..d}||^2/||s||^2 = r^2 + r(1-r)(d-1)/(n-1)` and M the misalignment
        energy

        .. math::
            c^2 (q - r^2)||s||^2 + M + (1-cr)^2||s||^2 - 2(1-cr)\langle s-\bar x, s\rangle + c^2 (m d/n)\,
            s_e^2.

        Unbiased (cr = 1) and without padding this is R1, M + (d/m - 1)||s||^2 + (d^2/m) se2, for any
        misalignment. A biased decoder also needs the inner product, taken as that of a misalignment of zero
        mean, min(M, ||s||^2) (R3); the ``lmmse`` decoder is taken to know S exactly.

        Parameters
        ----------
        size : int
            Entries d of the update.
        signal_energy : float
            ``||s||^2`` of the received combination s.
        misalignment_energy : float
            ``||s - xbar||^2`` to the wanted mean.
        noise_variance : float
            Noise variance per real use after the receive scale.
        varying_energy : float
            Where s differs from use to use, the mean over the uses of :math:`||s_u||^2` less that of their mean, which
            is then s: random rows do not average it out, and :math:`c^2 q` of it stays.

        Raises
        ------
        ValueError
            A negative or non-finite energy or variance.
        """
        if not self.closed_form:
            return math.nan
        _check_energy("varying_energy", varying_energy)
        _check_energy("signal_energy", signal_energy)
        _check_energy("misalignment_energy", misalignment_energy)
        _check_energy("noise_variance", noise_variance)
        m, n = self.uses(size), self.padded_size(size)
        r = m / n
        c = self._fixed_scale(size)
        if self.decoder == "lmmse":
            level = torch.tensor(signal_energy / n, dtype=torch.float64)
            c = self._shrinkage(level, size, noise_variance).item()
        q = r * self._spread(size)
        bias = 1.0 - c * r
        cross = min(misalignment_energy, signal_energy)
        coding = (c * c * (q - r * r) + bias * bias) * signal_energy
        coding += c * c * q * varying_energy
        return coding + misalignment_energy - 2.0 * bias * cross + c * c * m * size / n * noise_variance

    def _fixed_scale(self, size: int) -> float:
        return self.padded_size(size) / self.uses(size) if self.decoder == "unbiased" else 1.0

    def _spread(self, size: int) -> float:
        """kappa: energy of A^T A s that falls on the update's own entries, over r ||s||^2."""
        n = self.padded_size(size)
        r = self.uses(size) / n
        return 1.0 if n == size else r + (1.0 - r) * (size - 1) / (n - 1)

    def _shrinkage(self, level: Tensor, size: int, noise_variance: float) -> Tensor:
        noise = size / self.padded_size(size) * noise_variance
        scale = level / (self._spread(size) * level + noise)
        return torch.where(level > 0, scale, torch.zeros_like(level))  # no signal: the best guess is zero

    @property
    def parameters(self) -> dict[str, Any]:
        """Keyword arguments that make an equal code, all JSON values: what a device is told."""
        return {"decoder": self.decoder, "error_feedback": self.error_feedback}

    def with_uses(self, uses: int) -> Code:
        """The same code of `uses` channel uses.

        Raises
        ------
        TypeError
            A code whose length follows from the update alone.
        """
        if not hasattr(self, "_count"):
            raise TypeError(
                f"{self.name}: its channel uses follow from the update; accepted: a code with a ratio or uses"
            )
        others = {name: value for name, value in self.parameters.items() if name not in ("ratio", "uses")}
        same: Any = type(self)
        made: Code = same(**others, uses=uses)
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"


class SymbolCount:
    """How many real channel uses a code takes: a ratio of the update's size, or a number.

    Raises
    ------
    ValueError
        Neither or both given, ``ratio`` outside (0, 1], or ``uses`` < 1.
    """

    def __init__(self, ratio: float | None, uses: int | None) -> None:
        if (ratio is None) == (uses is None):
            raise ValueError(f"give exactly one of ratio and uses; got ratio={ratio!r}, uses={uses!r}")
        if ratio is not None and not 0.0 < ratio <= 1.0:
            raise ValueError(f"ratio is {ratio!r}; accepted: 0 < ratio <= 1")
        if uses is not None and (uses != int(uses) or uses < 1):
            raise ValueError(f"uses is {uses!r}; accepted: an integer >= 1")
        self.ratio = ratio
        self.uses = None if uses is None else int(uses)

    def of(self, size: int) -> int:
        """m for an update of ``size`` entries; at least one."""
        if size < 1:
            raise ValueError(f"size is {size}; an update has at least one entry")
        if self.ratio is not None:
            return max(1, round(self.ratio * size))
        assert self.uses is not None
        if self.uses > size:
            raise ValueError(f"uses={self.uses} is more than the size {size} of the update; accepted: 1 to {size}")
        return self.uses

    @property
    def parameters(self) -> dict[str, Any]:
        """The one that was given, by its name."""
        return {"uses": self.uses} if self.ratio is None else {"ratio": self.ratio}


def _check_signal(name: str, signal: Tensor) -> None:
    if not isinstance(signal, Tensor):
        raise TypeError(f"{name} is a {type(signal).__name__}; accepted: a torch.Tensor")
    if signal.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} has dtype {signal.dtype}; accepted: torch.float32 or torch.float64")
    if signal.ndim < 1 or signal.shape[-1] < 1:
        raise ValueError(f"{name} has shape {tuple(signal.shape)}; accepted: (..., size) with size >= 1")


def _check_energy(name: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0.0):
        raise ValueError(f"{name} is {value!r}; accepted: a finite number >= 0")
