"""A device's data: load a source, split it, and deal the training rows out to devices.

Every source takes the same way: rows in memory (:mod:`clients.sources`), split by a fixed permutation,
partitioned by flwr-datasets (:mod:`clients.partition`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients.partition import PARTITIONS, check_partition, partition_rows
from clients.sources import SOURCES, DataUnavailable, Rows, read

__all__ = ["PARTITIONS", "SOURCES", "DataUnavailable", "FederatedData", "Split", "load"]


@dataclass(frozen=True)
class Split:
    """Examples with what a model shall answer.

    Attributes
    ----------
    inputs : Tensor
        Shape (n, ...), floating point.
    targets : Tensor
        Classes, shape (n,), int64; or the inputs themselves, shape (n, features), floating point.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class FederatedData:
    """A data set split into train, validation and test, with the training rows dealt out to devices.

    Attributes
    ----------
    train, validation, test : Split
        The splits; validation and test may be empty.
    parts : list of Tensor
        For each device its rows of ``train``, int64.
    num_classes : int
        Number of classes.
    input_shape : tuple of int
        Shape of one input.
    offsets : tuple of int, optional
        Where each device's rows begin, if ``train`` is in the order of the devices (:meth:`grouped`).
    """

    train: Split
    validation: Split
    test: Split
    parts: list[Tensor]
    num_classes: int
    input_shape: tuple[int, ...]
    offsets: tuple[int, ...] | None = None

    def device(self, index: int) -> Split:
        """The examples of device ``index``, 0 <= index < number of devices: a view if grouped, else a copy."""
        if not 0 <= index < len(self.parts):
            raise ValueError(f"device = {index} does not exist; accepted: 0 to {len(self.parts) - 1}")
        rows: Tensor | slice = self.parts[index]
        if self.offsets is not None:
            rows = slice(self.offsets[index], self.offsets[index + 1])
        return Split(self.train.inputs[rows], self.train.targets[rows])

    def grouped(self) -> FederatedData:
        """The same data with ``train`` in the order of the devices, so that a device's examples are not copied.

        Rows that no device holds are left out.
        """
        order = torch.cat(self.parts)
        offsets = (0, *np.cumsum([len(part) for part in self.parts]).tolist())
        return replace(
            self,
            train=Split(self.train.inputs[order], self.train.targets[order]),
            parts=[torch.arange(a, b) for a, b in pairwise(offsets)],
            offsets=offsets,
        )

    def with_inputs_as_targets(self) -> FederatedData:
        """The same data with each row's input, flattened, as its target: what an autoencoder learns.

        Targets of all splits get the shape (n, features), as views of the inputs where these lie in one piece.
        """
        train, validation, test = (
            Split(split.inputs, split.inputs.flatten(1)) for split in (self.train, self.validation, self.test)
        )
        return replace(self, train=train, validation=validation, test=test)


def load(
    source: Any,
    *,
    devices: int,
    partition: str = "iid",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.0,
    shuffle_seed: int = 0,
    seed: int = 0,
    alpha: float | None = None,
    shards: int | None = None,
    column: str | None = None,
    samples_per_device: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> FederatedData:
    """Load a data set, split it and deal it out.

    The n rows are permuted by ``numpy.random.default_rng(shuffle_seed)``. The last round(test_fraction n) are
    the test split, the last round(validation_fraction n') of the n' others the validation split, the rest is
    train. A source with a test split of its own keeps it; test_fraction then has no effect.

    Parameters
    ----------
    source : str or datasets.Dataset or datasets.DatasetDict
        A name in :data:`SOURCES`, or a Hugging Face data set in memory.
    devices : int
        Number of devices.
    partition : str
        A name in :data:`PARTITIONS`.
    test_fraction, validation_fraction : float
        In [0, 1).
    shuffle_seed : int
        Fixes the split, >= 0.
    seed : int
        Fixes the partition, >= 0.
    alpha, shards, column : optional
        What partition ``dirichlet``, ``shards`` and ``column`` need; see
        :func:`clients.partition.partition_rows`.
    samples_per_device : int, optional
        Keep only the first that many rows of each device.
    dtype : torch.dtype
        Floating-point type of the inputs.

    Raises
    ------
    DataUnavailable
        If the data set is not on this machine and cannot be fetched.
    ValueError
        If an argument is out of range, missing or superfluous, or a device would have too few rows.

    Examples
    --------
    >>> data = load("mnist-5k", devices=25)
    >>> len(data.train), len(data.test), len(data.device(0))
    (4000, 1000, 160)
    """
    check_partition(partition, alpha=alpha, shards=shards, column=column)
    for name, value in (("shuffle_seed", shuffle_seed), ("seed", seed)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} = {value!r} must be a whole number >= 0")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype = {dtype} must be a floating-point type, such as torch.float32")
    rows = read(source, column)
    train_rows, validation_rows, test_rows = _split_rows(
        len(rows.targets), rows.test_targets is None, test_fraction, validation_fraction, shuffle_seed
    )
    parts = partition_rows(
        rows.targets[train_rows],
        partition=partition,
        devices=devices,
        seed=seed,
        alpha=alpha,
        shards=shards,
        groups=None if rows.groups is None else rows.groups[train_rows],
    )
    train = _take(rows, train_rows, dtype)
    return FederatedData(
        train=train,
        validation=_take(rows, validation_rows, dtype),
        test=_take(rows, test_rows, dtype) if rows.test_targets is None else _own_test(rows, dtype),
        parts=[torch.tensor(part) for part in _keep_first(parts, samples_per_device)],
        num_classes=rows.num_classes,
        input_shape=tuple(train.inputs.shape[1:]),
    )


def _split_rows(
    rows: int, cut_test: bool, test_fraction: float, validation_fraction: float, shuffle_seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    for name, value in (("test_fraction", test_fraction), ("validation_fraction", validation_fraction)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} = {value!r} must be in [0, 1)")
    order = np.random.default_rng(shuffle_seed).permutation(rows)
    known = rows - (round(test_fraction * rows) if cut_test else 0)
    train = known - round(validation_fraction * known)
    return order[:train], order[train:known], order[known:]


def _take(rows: Rows, chosen: np.ndarray, dtype: torch.dtype) -> Split:
    return _to_split(rows.inputs[chosen], rows.targets[chosen], rows.scale, dtype)


def _own_test(rows: Rows, dtype: torch.dtype) -> Split:
    assert rows.test_inputs is not None
    assert rows.test_targets is not None
    return _to_split(rows.test_inputs, rows.test_targets, rows.scale, dtype)


def _to_split(inputs: np.ndarray, targets: np.ndarray, scale: float, dtype: torch.dtype) -> Split:
    scaled = torch.tensor(inputs).to(dtype)
    return Split(scaled.div_(scale) if scale != 1 else scaled, torch.tensor(targets))


def _keep_first(parts: list[np.ndarray], samples: int | None) -> list[np.ndarray]:
    if samples is None:
        return parts
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples_per_device = {samples!r} must be a whole number >= 1")
    for device, part in enumerate(parts):
        if len(part) < samples:
            raise ValueError(
                f"samples_per_device = {samples} is more than the {len(part)} rows that device {device} has; "
                "ask for fewer, use fewer devices or a smaller test_fraction"
            )
    return [part[:samples] for part in parts]
