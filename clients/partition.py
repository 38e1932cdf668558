"""Which device holds which rows, decided by flwr-datasets' partitioners.

Only row numbers and labels pass through the partitioner, never the inputs: dealing out 60,000 images then
costs what dealing out 60,000 integers costs. The answer is kept on disk, because the library takes seconds to
import and a deployed client process starts anew for every message.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from channel.randomness import generator, key
from clients.disk_cache import cached

PARTITIONS: dict[str, str] = {
    "iid": "rows shuffled, then dealt out evenly",
    "dirichlet": "each label divided in proportions drawn from Dirichlet(alpha); small alpha = very uneven",
    "shards": "rows sorted by label and cut into devices x shards blocks; each device gets `shards` of them",
    "contiguous": "equal blocks of the training rows in the order they have",
    "column": "rows with the same value of `column` stay on one device",
}
_NEEDS = {"dirichlet": "alpha", "shards": "shards", "column": "column"}
_DIRICHLET_DRAWS = 10


def partition_rows(
    labels: np.ndarray,
    *,
    partition: str,
    devices: int,
    seed: int = 0,
    alpha: float | None = None,
    shards: int | None = None,
    groups: np.ndarray | None = None,
) -> list[np.ndarray]:
    """Deal the rows 0..n-1 out to devices: every row to exactly one device, at least one row to every device.

    Parameters
    ----------
    labels : numpy.ndarray
        Label of each row, shape (n,), integers.
    partition : str
        One of :data:`PARTITIONS`.
    devices : int
        Number of devices K, 1 <= K <= n.
    seed : int
        Fixes the draw of ``iid``, ``dirichlet`` and ``shards``.
    alpha : float, optional
        Concentration of ``dirichlet``, > 0.
    shards : int, optional
        Label blocks per device of ``shards``, with devices x shards <= n. Block sizes differ by one at most.
    groups : numpy.ndarray, optional
        The column's value in each row, shape (n,), for ``column``; at least K distinct values. Where there
        are more, each device gets neighbours in sorted order, as evenly as their number allows.

    Returns
    -------
    list of numpy.ndarray
        K arrays of row numbers, int64.

    Raises
    ------
    ValueError
        If a value is out of range, missing or foreign to this partition, or a device would stay empty.

    References
    ----------
    Dirichlet: Yurochkin et al., arXiv:1905.12022. Shards: McMahan et al., arXiv:1602.05629.
    """
    check_partition(partition, alpha=alpha, shards=shards, column=None if groups is None else "given")
    _check_sizes(len(labels), devices, partition, shards)
    codes = None if groups is None else _merge_groups(groups, devices)
    digest = hashlib.blake2b(repr((partition, devices, seed, alpha, shards)).encode(), digest_size=16)
    digest.update(version("flwr-datasets").encode())
    digest.update(np.ascontiguousarray(labels, dtype=np.int64).tobytes())
    if codes is not None:
        digest.update(codes.tobytes())

    def make() -> dict[str, np.ndarray]:
        parts = _deal(labels, partition, devices, seed, alpha, shards, codes)
        return {"rows": np.concatenate(parts), "sizes": np.array([len(part) for part in parts])}

    kept = cached(f"partition-{digest.hexdigest()}", make)
    return np.split(kept["rows"], np.cumsum(kept["sizes"])[:-1])


def check_partition(partition: str, *, alpha: float | None, shards: int | None, column: str | None) -> None:
    """Refuse an unknown partition, and parameters that it lacks, does not take, or that are out of range."""
    if partition not in PARTITIONS:
        raise ValueError(f"partition = {partition!r} is not known; accepted: {', '.join(PARTITIONS)}")
    needed = _NEEDS.get(partition)
    for name, value in {"alpha": alpha, "shards": shards, "column": column}.items():
        if name == needed and value is None:
            raise ValueError(f"partition = {partition!r} needs {name}, which is missing")
        if name != needed and value is not None:
            owner = next(kind for kind, parameter in _NEEDS.items() if parameter == name)
            raise ValueError(f"{name} = {value!r} belongs to partition {owner!r}, not to {partition!r}; remove it")
    if alpha is not None and not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha = {alpha!r} must be a finite number > 0")
    if shards is not None and (isinstance(shards, bool) or not isinstance(shards, int) or shards < 1):
        raise ValueError(f"shards = {shards!r} must be a whole number >= 1")


def _check_sizes(rows: int, devices: int, partition: str, shards: int | None) -> None:
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ValueError(f"devices = {devices!r} must be a whole number >= 1")
    if devices > rows:
        raise ValueError(f"devices = {devices} is more than the {rows} training rows; use at most {rows}")
    if shards is not None and devices * shards > rows:
        raise ValueError(
            f"shards = {shards} for each of devices = {devices} makes {devices * shards} shards of only "
            f"{rows} training rows; use at most {rows // devices} shards"
        )


def _merge_groups(groups: np.ndarray, devices: int) -> np.ndarray:
    """Number the distinct values and merge neighbours, so that exactly ``devices`` groups are left."""
    values, codes = np.unique(groups, return_inverse=True)
    if len(values) < devices:
        raise ValueError(
            f"devices = {devices} is more than the {len(values)} distinct values of the column; "
            f"use at most {len(values)} devices"
        )
    device_of_value = np.repeat(np.arange(devices), _even_sizes(len(values), devices))
    return np.asarray(device_of_value[codes], dtype=np.int64)


def _deal(
    labels: np.ndarray,
    partition: str,
    devices: int,
    seed: int,
    alpha: float | None,
    shards: int | None,
    codes: np.ndarray | None,
) -> list[np.ndarray]:
    from flwr_datasets import partitioner as library  # 3 s to import, so only where the cache has no answer

    rows = len(labels)
    if partition == "iid":
        order = generator(seed, "partition").permutation(rows)
        return [order[part] for part in _run(library.IidPartitioner(devices), devices, rows)]
    if partition == "contiguous":
        return _run(library.SizePartitioner(_even_sizes(rows, devices)), devices, rows)
    if codes is not None:
        # every code is one device's; the plain NaturalIdPartitioner would do, but it prints a progress bar
        by_code = library.GroupedNaturalIdPartitioner("group", group_size=1, sort_unique_ids=True)
        return _run(by_code, devices, rows, group=codes)
    if shards is not None:
        return _deal_shards(library, labels, devices, shards, seed)
    assert alpha is not None
    return _deal_dirichlet(library, labels, devices, alpha, seed)


def _deal_shards(library: Any, labels: np.ndarray, devices: int, shards: int, seed: int) -> list[np.ndarray]:
    """Let the ShardPartitioner deal out whole shards instead of rows.

    Given rows, it cuts shards of floor(n / (devices x shards)) and drops what is left over, up to half of the
    data. Given the shards as its rows, it makes the same random assignment and loses nothing.
    """
    by_label = np.argsort(labels, kind="stable")
    blocks = np.split(by_label, np.cumsum(_even_sizes(len(labels), devices * shards))[:-1])
    dealer = library.ShardPartitioner(
        devices,
        partition_by="row",
        num_shards_per_partition=shards,
        shard_size=1,
        seed=key(seed, "partition"),
    )
    return [np.concatenate([blocks[i] for i in part]) for part in _run(dealer, devices, len(blocks))]


def _deal_dirichlet(library: Any, labels: np.ndarray, devices: int, alpha: float, seed: int) -> list[np.ndarray]:
    """Draw until every device has a row. The library's own repeats can't name the empty device."""
    for draw in range(_DIRICHLET_DRAWS):
        dealer = library.DirichletPartitioner(
            devices, "label", float(alpha), min_partition_size=0, seed=key(seed, "partition", draw)
        )
        parts = []
        for part in _each_part(dealer, devices, len(labels), label=labels):
            if len(part) == 0:
                break
            parts.append(part)
        else:
            return _all_rows_once(parts, len(labels))
    raise ValueError(
        f"device {len(parts)} of {devices} got no row in the last of {_DIRICHLET_DRAWS} draws with "
        f"alpha = {alpha}; raise alpha or use fewer devices"
    )


def _run(partitioner: Any, devices: int, rows: int, **columns: np.ndarray) -> list[np.ndarray]:
    return _all_rows_once(list(_each_part(partitioner, devices, rows, **columns)), rows)


def _each_part(partitioner: Any, devices: int, rows: int, **columns: np.ndarray) -> Iterator[np.ndarray]:
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"row": np.arange(rows), **columns}).with_format("numpy")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # datasets' way of asking pyarrow to sort, not ours to mend
        for device in range(devices):
            yield np.asarray(partitioner.load_partition(device)[:]["row"], dtype=np.int64)


def _all_rows_once(parts: list[np.ndarray], rows: int) -> list[np.ndarray]:
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows)):
        raise RuntimeError("the partitioner did not hand out every row exactly once")
    return parts


def _even_sizes(total: int, pieces: int) -> Sequence[int]:
    """Sizes of ``pieces`` pieces of ``total`` things that differ by one at most, larger ones first."""
    smaller, extra = divmod(total, pieces)
    return [smaller + 1] * extra + [smaller] * (pieces - extra)
