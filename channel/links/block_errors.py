"""How often a code block of 5G's LDPC code is lost: a closed form fitted to Sionna's tables, and the tables."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy  # its parts load when first used
from numpy.typing import NDArray

from channel.links.modulation_and_coding import BITS_PER_USE

Real = NDArray[np.float64]

# fmt: off
GAPS_DB = np.array([
    1.26, 1.14, 1.03, 0.99, 1.03, 1.00, 1.00, 1.07, 1.11, 1.24,
    1.60, 1.42, 1.53, 1.35, 1.51, 1.40, 1.56,
    2.04, 1.89, 2.01, 1.82, 2.00, 1.83, 1.89, 1.75, 1.89, 2.05, 2.17, 2.34,
])
# fmt: on
"""SNR gap of each MCS, dB: of most likelihood for Sionna 2.2's tables at 500, 1000 and 2000 bits. MCS 0 to 2, below the
rate of 1/5 down to which the LDPC code goes, are that code at 1 dB with its bits repeated."""


class BlockErrors(ABC):
    """Error rate of a code block by MCS, SNR and size."""

    name: ClassVar[str]

    @abstractmethod
    def __call__(self, snr: Real, sizes: Real) -> Real:
        """Block error of every MCS.

        Parameters
        ----------
        snr : ndarray, shape (K, 1) or (K, 29)
            Linear, of a complex use.
        sizes : ndarray, shape (K, 29)
            Bits of a code block, check bits included, should it be sent at that MCS.

        Returns
        -------
        ndarray, shape (K, 29)
            1 where nothing is known of an MCS.
        """


class NormalApproximation(BlockErrors):
    r"""Best code of finite length, at an SNR gap fitted per MCS.

    With k bits at :math:`\eta` bits per complex use, :math:`n = k/\eta` uses and :math:`\gamma = SNR/\Gamma`,

    .. math:: p = Q\left(\frac{n \log_2(1+\gamma) - k + \frac12\log_2 n}{\sqrt{n V}}\right),\qquad
              V = \left(1 - (1+\gamma)^{-2}\right) \log_2^2 e.

    Gamma stands for what QAM and the LDPC code lose against the best code, 1.0 to 2.3 dB. From 500 bits on the formula
    meets the points of Sionna's tables with a median error of 0.02 dB, 0.45 dB at the worst; at 100 bits it is up to 1
    dB optimistic for the highest rates. Between those points, which are 1.8 dB apart where a code falls from all to
    nothing within 1 dB, and at 8448 bits it is within 0.25 dB of the code simulated.

    References
    ----------
    Y. Polyanskiy, H. V. Poor, S. Verdú, "Channel coding rate in the finite blocklength regime", IEEE Trans. Inf. Theory
    56(5), 2010, equation 291.
    """

    name = "normal-approximation"

    def __call__(self, snr: Real, sizes: Real) -> Real:
        """The formula, for every MCS."""
        uses = sizes / BITS_PER_USE
        gamma = snr / 10.0 ** (GAPS_DB / 10.0)
        spread = np.sqrt(uses * (1.0 - (1.0 + gamma) ** -2)) * np.log2(np.e)
        surplus = uses * np.log2(1.0 + gamma) - sizes + 0.5 * np.log2(uses)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = scipy.special.ndtr(-surplus / spread)
        return np.asarray(np.where(gamma > 0, error, 1.0), dtype=np.float64)


class SionnaTables(BlockErrors):
    """The block errors that Sionna SYS ships for PUSCH, interpolated as its ``PHYAbstraction`` does.

    The decimal logarithm of the error is linear in SNR (dB) and block size between simulated points: 15 SNRs from -5 to
    20 dB, 1.79 dB apart, and 24 to 2000 bits. An error rate of 0 in 3,000 blocks counts as two decades below the least
    of the others. Beyond the tables their edge holds. Only the tables are read: Sionna is not imported.

    Its PUSCH table 1 is simulated at the code rates of TS 38.214 table 6.1.4.1-1 (with transform precoding), which is
    table 5.1.3.1-1 without its MCS 17; here the curves stand where their modulation and code rate are. Nothing is known
    of MCS 0, 1, 2 and 17, which are never chosen.

    Raises
    ------
    ImportError
        Sionna is not installed.
    """

    name = "sionna"

    def __init__(self) -> None:
        self._curves = _curves()

    def __call__(self, snr: Real, sizes: Real) -> Real:
        """The tables, for every MCS."""
        shape = np.broadcast_shapes(snr.shape, sizes.shape)
        with np.errstate(divide="ignore"):
            snr_db = np.broadcast_to(10.0 * np.log10(snr), shape)
        sizes = np.broadcast_to(sizes, shape)
        error = np.ones(shape)
        for mcs, (spline, floor) in self._curves.items():
            decades = spline.ev(np.clip(sizes[:, mcs], 24.0, 2000.0), np.clip(snr_db[:, mcs], -5.0, 20.0))
            error[:, mcs] = np.where(decades < floor, 0.0, np.minimum(1.0, 10.0**decades))
        return np.where(snr > 0, error, 1.0)


BLOCK_ERRORS: dict[str, type[BlockErrors]] = {model.name: model for model in (NormalApproximation, SionnaTables)}
"""Block error models by the name a scenario uses."""


@lru_cache(maxsize=1)
def _curves() -> dict[int, tuple[Any, float]]:
    """For each MCS of table 5.1.3.1-1 the interpolated log10 of the error, and what counts as 0."""
    from scipy.interpolate import RectBivariateSpline

    curves = {}
    table = json.loads(_table_path().read_text(encoding="utf-8"))["category"]["0"]["index"]["1"]["MCS"]
    for index, entry in table.items():
        sizes = sorted(entry["CBS"], key=int)
        errors = np.array([entry["CBS"][size]["BLER"] for size in sizes], dtype=np.float64)
        least = float(np.log10(errors[errors > 0].min()))
        with np.errstate(divide="ignore"):
            decades = np.where(errors > 0, np.log10(errors), least - 2.0)
        mcs = int(index) if int(index) < 17 else int(index) + 1
        curves[mcs] = (RectBivariateSpline([int(size) for size in sizes], entry["SNR_db"], decades, kx=1, ky=1), least)
    return curves


def _table_path() -> Path:
    found = find_spec("sionna")
    folders = list(found.submodule_search_locations or ()) if found else []
    for folder in folders:
        path = Path(folder) / "sys" / "bler_tables" / "PUSCH_table1.json"
        if path.is_file():
            return path
    raise ImportError(
        "block_errors='sionna' needs Sionna's tables: pip install 'fedmac[3gpp]', or use "
        "block_errors='normal-approximation', which is fitted to them"
    )
