"""Partitions: every row once, every device something, the skew that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import disk_cache
from clients.partition import PARTITIONS, partition_rows

LABELS = np.random.default_rng(0).integers(0, 10, 1000)
ARGUMENTS = {
    "iid": {},
    "dirichlet": {"alpha": 1.0},
    "shards": {"shards": 2},
    "contiguous": {},
    "column": {"groups": LABELS},
}


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_every_partition_is_covered_here() -> None:
    assert set(ARGUMENTS) == set(PARTITIONS)


@settings(max_examples=30, deadline=None)
@given(
    partition=st.sampled_from(["iid", "contiguous", "shards", "dirichlet", "column"]),
    rows=st.integers(40, 120),
    devices=st.integers(1, 8),
    shards=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_every_row_is_on_exactly_one_device(partition: str, rows: int, devices: int, shards: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 5, rows)
    arguments = {
        "shards": {"shards": shards},
        "dirichlet": {"alpha": 5.0},
        "column": {"groups": np.arange(rows) % 9},
    }
    parts = partition_rows(labels, partition=partition, devices=devices, seed=seed, **arguments.get(partition, {}))  # type: ignore[arg-type]
    assert len(parts) == devices
    assert min(len(part) for part in parts) >= 1
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(rows))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_same_seed_gives_the_same_partition_with_and_without_cache(
    partition: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deal() -> list[list[int]]:
        disk_cache.forget()
        parts = partition_rows(LABELS, partition=partition, devices=5, seed=3, **ARGUMENTS[partition])  # type: ignore[arg-type]
        return [part.tolist() for part in parts]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = deal()
    assert list((tmp_path / "fedmac").glob("partition-*.npz"))
    read_back = deal()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert made == read_back == deal()


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "shards"])
def test_another_seed_gives_another_partition(partition: str) -> None:
    first, second = (
        partition_rows(LABELS, partition=partition, devices=5, seed=seed, **ARGUMENTS[partition])  # type: ignore[arg-type]
        for seed in (0, 1)
    )
    assert [part.tolist() for part in first] != [part.tolist() for part in second]


def test_shards_bound_the_number_of_labels_on_a_device() -> None:
    labels = np.repeat(np.arange(10), 80)  # 40 shards of 20 rows: no shard crosses a label
    for part in partition_rows(labels, partition="shards", devices=20, shards=2):
        assert len(part) == 40
        assert len(np.unique(labels[part])) <= 2


def test_shards_lose_no_row_where_the_library_alone_would() -> None:
    # floor(100 / 40) = 2 rows a shard would hand out 80 of 100 rows
    parts = partition_rows(LABELS[:100], partition="shards", devices=20, shards=2)
    assert sum(len(part) for part in parts) == 100
    assert {len(part) for part in parts} <= {4, 5, 6}


def test_large_alpha_gives_every_device_the_label_histogram_of_the_whole() -> None:
    labels = np.repeat(np.arange(10), 500)
    for part in partition_rows(labels, partition="dirichlet", devices=5, alpha=1e5):
        # share of a label: 1/5 with standard deviation sqrt(.16 / 5e5) = 6e-4, and rounding of one row in 500
        np.testing.assert_allclose(np.bincount(labels[part], minlength=10), 100, atol=3)


def test_small_alpha_concentrates_labels() -> None:
    labels = np.repeat(np.arange(10), 500)
    parts = partition_rows(labels, partition="dirichlet", devices=5, alpha=0.1)
    largest = [np.bincount(labels[part]).max() / len(part) for part in parts]
    assert np.mean(largest) > 0.3  # .1 when even


def test_contiguous_keeps_the_order_of_the_rows() -> None:
    parts = partition_rows(LABELS[:10], partition="contiguous", devices=3)
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_iid_parts_are_even_and_shuffled() -> None:
    parts = partition_rows(LABELS, partition="iid", devices=7)
    assert sorted({len(part) for part in parts}) == [142, 143]
    assert np.any(np.diff(parts[0]) < 0)


def test_rows_of_one_column_value_stay_together() -> None:
    writers = np.array(["d", "a", "c", "b", "a", "e", "d"])
    parts = partition_rows(np.zeros(7, int), partition="column", devices=2, groups=writers)
    assert [sorted(set(writers[part])) for part in parts] == [["a", "b", "c"], ["d", "e"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"partition": "random"}, r"partition = 'random' is not known; accepted: iid, dirichlet"),
        ({"partition": "iid", "devices": 1001}, r"devices = 1001 is more than the 1000 training rows"),
        ({"partition": "iid", "devices": 0}, r"devices = 0 must be a whole number >= 1"),
        ({"partition": "dirichlet"}, r"needs alpha"),
        ({"partition": "dirichlet", "alpha": 0.0}, r"alpha = 0.0 must be a finite number > 0"),
        ({"partition": "dirichlet", "alpha": float("nan")}, r"alpha = nan"),
        ({"partition": "shards"}, r"needs shards"),
        ({"partition": "shards", "shards": 0}, r"shards = 0 must be a whole number"),
        ({"partition": "shards", "shards": 300}, r"1500 shards of only 1000 training rows; use at most 200"),
        ({"partition": "column"}, r"needs column"),
        ({"partition": "column", "groups": LABELS % 3}, r"more than the 3 distinct values"),
        ({"partition": "iid", "alpha": 0.5}, r"alpha = 0.5 belongs to partition 'dirichlet'"),
    ],
)
def test_bad_input_is_refused_with_its_name_and_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition_rows(LABELS, **{"devices": 5, **arguments})  # type: ignore[arg-type]


def test_a_device_left_empty_by_dirichlet_is_named() -> None:
    with pytest.raises(ValueError, match=r"device \d+ of 30 got no row .* raise alpha or use fewer devices"):
        partition_rows(LABELS[:40], partition="dirichlet", devices=30, alpha=0.01)


def test_a_damaged_or_unwritable_cache_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    disk_cache.forget()
    made = partition_rows(LABELS, partition="contiguous", devices=4)
    (file,) = (tmp_path / "fedmac").glob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    disk_cache.forget()
    assert np.array_equal(partition_rows(LABELS, partition="contiguous", devices=4)[3], made[3])
    (tmp_path / "blocked").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    disk_cache.forget()
    assert np.array_equal(partition_rows(LABELS, partition="contiguous", devices=4)[3], made[3])
    assert not list((tmp_path / "fedmac").glob("*.tmp"))
