"""An update cut into buckets that are scaled each on its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def number_of_buckets(size: int, bucket: int | None) -> int:
    """Buckets of an update of `size` entries; one if `bucket` is None."""
    return 1 if bucket is None else math.ceil(size / bucket)


def in_buckets(update: Tensor, bucket: int | None) -> Tensor:
    """The update as rows, shape (buckets, entries of one); the last is filled up with zeros."""
    rows = number_of_buckets(len(update), bucket)
    width = len(update) if bucket is None else min(bucket, len(update))
    return functional.pad(update, (0, rows * width - len(update))).view(rows, width)


def entries_of_rows(size: int, bucket: int | None) -> Tensor:
    """How many entries of the update each row has, float64: the filling does not count."""
    entries = torch.full((number_of_buckets(size, bucket),), float(size if bucket is None else bucket)).double()
    entries[-1] = size - entries[:-1].sum()
    return entries


def largest_of_rows(rows: Tensor) -> Tensor:
    """The largest magnitude in each row."""
    return torch.maximum(rows.amax(dim=1), -rows.amin(dim=1))


def out_of_buckets(rows: Tensor, size: int) -> Tensor:
    """The first `size` entries of all rows, one after the other."""
    return rows.reshape(-1)[:size]


def rounded_up(scales: Tensor, divisor: float) -> Tensor:
    """``scales / divisor`` in float32, such that ``scales / result <= divisor`` in float32 as well; zeros stay."""
    steps = scales.double() / divisor
    result = steps.float()
    short = result.double() < steps
    result[short] = torch.nextafter(result[short], torch.tensor(torch.inf))
    return result


def check_bucket(bucket: int | None) -> None:
    """Refuse what is not a whole number >= 1, or None for a single bucket."""
    if bucket is not None and (isinstance(bucket, bool) or not isinstance(bucket, int) or bucket < 1):
        raise ValueError(f"bucket = {bucket!r}: accepted: an integer >= 1, or None for one bucket")
