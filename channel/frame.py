"""A random subspace that server and devices share without sending it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.codes import RandomLinearCode

Vector = TypeVar("Vector", Tensor, NDArray[Any])


@dataclass(frozen=True)
class Frame:
    r"""The q rows of A, which span a subspace of the d dimensions of a model.

    A is the matrix of :class:`channel.RandomLinearCode`: :math:`A A^T = I`, but for d whose cosine transform is slow,
    which are padded: then the rows are not quite orthonormal.

    Parameters
    ----------
    dimensions : int
        d.
    size : int
        q, at most d.
    seed : int
        Fixes A.
    """

    dimensions: int
    size: int
    seed: int

    def project(self, vector: Vector) -> Vector:
        """A x of shape (q,), for x of shape (d,)."""
        return _like(vector, self._code.encode(torch.as_tensor(vector), self.seed))

    def lift(self, coordinates: Vector) -> Vector:
        """:math:`A^T z` of shape (d,), for z of shape (q,)."""
        return _like(coordinates, self._code.decode(torch.as_tensor(coordinates), self.dimensions, self.seed))

    def to_config(self) -> dict[str, Any]:
        """What a device must be told."""
        return {"subspace-size": self.size, "subspace-seed": self.seed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], dimensions: int) -> Frame | None:
        """The frame that :meth:`to_config` wrote into `config`, if there is one."""
        if "subspace-size" not in config:
            return None
        return cls(dimensions, int(config["subspace-size"]), int(config["subspace-seed"]))

    @property
    def _code(self) -> RandomLinearCode:
        return RandomLinearCode(uses=self.size, decoder="projection")


@overload
def _like(given: Tensor, result: Tensor) -> Tensor: ...
@overload
def _like(given: NDArray[Any], result: Tensor) -> NDArray[Any]: ...
def _like(given: Tensor | NDArray[Any], result: Tensor) -> Tensor | NDArray[Any]:
    return np.asarray(result.numpy()) if isinstance(given, np.ndarray) else result
