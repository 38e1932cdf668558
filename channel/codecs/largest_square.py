"""The expected largest square of Gaussian numbers, and of signed sums that are nearly Gaussian."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy  # its parts load when first used
import torch
from numpy.typing import NDArray
from torch import Tensor


@lru_cache(maxsize=64)
def largest_square(k: int) -> float:
    r"""m_k, the expected largest of the squares of k standard normals.

    .. math:: m_k = \int_0^\infty (1 - (1 - p)^k)\, d(t^2), \qquad p = P(|z| > t) = \mathrm{erfc}(t / \sqrt 2).

    Parameters
    ----------
    k : int
        How many.
    """

    def density(t: float) -> float:
        return 2 * t * float(_any(np.array(scipy.special.erfc(t / math.sqrt(2))), k))

    return float(scipy.integrate.quad(density, 0, 12, epsabs=1e-9, limit=200)[0])


def largest_square_of_projections(rows: Tensor, k: int) -> Tensor:
    r"""The expected largest of the squares of k of n signed sums :math:`v_i = \sum_j \pm x_j`, if :math:`\|x\| = 1`.

    That of independent sums, see :func:`largest_square_of_signed_sums`, in proportion: Gaussian entries must give the
    :math:`m_k` of normals, as a rotation leaves them Gaussian. (Independent sums give 1 % less at n = 512, as they do
    not keep :math:`\sum v_i^2`.) Where what matters of a bucket is a half, a quarter ... of it in a row, sums are
    equal by pairs, fours ..., and the largest is less: by 12 % for a half of 512.

    Parameters
    ----------
    rows : Tensor of shape (rows, n)
        x, float64, of any norms; a row of zeros gives 0.
    k : int
        Sums of each row.
    """
    return largest_square_of_signed_sums(rows, k) * _dependence(rows.shape[1], k)


@lru_cache(maxsize=64)
def _dependence(n: int, k: int) -> float:
    if n == 1:
        return 1.0
    gaussian = torch.from_numpy(scipy.special.ndtri((np.arange(n) + 0.5) / n))[None]
    return largest_square(k) / float(largest_square_of_signed_sums(gaussian, k))


def largest_square_of_signed_sums(rows: Tensor, k: int) -> Tensor:
    r"""The expected largest of the squares of k sums :math:`\sum_j \pm x_j` with independent signs, :math:`\|x\| = 1`.

    The tail of such a sum is lighter than the Gaussian one, the more so the fewer entries dominate. With the cumulant
    generating function :math:`K(\theta) = \sum_j \log\cosh \theta x_j` it is (saddlepoint approximation)

    .. math:: p(t) \approx e^{K(\theta) - \theta t}\, \mathrm{erfcx}\Big(\theta \sqrt{K''(\theta) / 2}\Big)
              \quad\text{at}\quad t = K'(\theta),

    which is the Gaussian tail where :math:`K = \theta^2 / 2`; p is used as in :func:`largest_square`.

    Parameters
    ----------
    rows : Tensor of shape (rows, n)
        x, float64, of any norms; a row of zeros gives 0.
    k : int
        Sums of each row.

    References
    ----------
    H. E. Daniels, "Tail probability approximations", Int. Stat. Rev. 55(1), 1987.
    """
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    x = (rows / torch.where(norms > 0, norms, 1.0)).abs()
    thetas = np.linspace(0, 10, 51)
    densities = []
    for theta in thetas:
        tanh = torch.tanh(theta * x)
        t = (x * tanh).sum(dim=1)
        curvature = (x * x * (1 - tanh * tanh)).sum(dim=1)
        cumulants = (theta * x + torch.log1p(torch.exp(-2 * theta * x)) - math.log(2)).sum(dim=1)
        p = torch.exp(cumulants - theta * t) * torch.special.erfcx(theta * torch.sqrt(curvature / 2))
        densities.append(2 * (t * curvature).numpy() * _any(p.numpy(), k))  # d(t^2) = 2 t K'' d theta
    return torch.from_numpy(scipy.integrate.simpson(np.stack(densities), x=thetas, axis=0))


def _any(p: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """1 - (1 - p)^k for small p as well."""
    result: NDArray[np.float64] = -np.expm1(k * np.log1p(-np.minimum(p, 1 - 1e-16)))
    return result
