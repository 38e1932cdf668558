"""A device's own file: read as it is, and refused in its words."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients import own_file
from clients.own_file import rows_of_file


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMAC_CACHE", str(tmp_path / "cache"))


def archive(path: Path, **arrays: Any) -> Path:
    np.savez(path / "own.npz", **arrays)
    return path / "own.npz"


def table(path: Path, text: str) -> Path:
    (path / "own.csv").write_text(text)
    return path / "own.csv"


def test_an_archive_gives_its_rows(tmp_path: Path) -> None:
    inputs = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    rows = rows_of_file(archive(tmp_path, inputs=inputs, targets=np.array([0, 2, 1, 0])), 3)
    assert np.array_equal(rows.device(3).inputs.numpy(), inputs.astype(np.float32))
    assert rows.device(3).targets.tolist() == [0, 2, 1, 0]
    assert (rows.num_classes, rows.input_shape, rows.device(3).inputs.dtype) == (3, (2, 3), torch.float32)


def test_a_table_gives_the_same_rows_with_and_without_a_line_of_names(tmp_path: Path) -> None:
    plain = rows_of_file(table(tmp_path, "1,2.5,0\n3,4,1\n"), 0, dtype=torch.float64).device(0)
    named = rows_of_file(table(tmp_path, "a,b,label\n1,2.5,0\n3,4,1\n"), 0, dtype=torch.float64).device(0)
    for rows in (plain, named):
        assert rows.inputs.tolist() == [[1.0, 2.5], [3.0, 4.0]]
        assert rows.targets.tolist() == [0, 1]


def test_classes_that_the_device_has_not_seen_are_told(tmp_path: Path) -> None:
    inputs, targets = np.zeros((2, 5)), np.array([0, 1])
    assert rows_of_file(archive(tmp_path, inputs=inputs, targets=targets, classes=10), 0).num_classes == 10
    assert rows_of_file(archive(tmp_path, inputs=inputs, targets=targets), 0, classes=7).num_classes == 7


def test_a_file_is_parsed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "1,0\n2,1\n")
    first = rows_of_file(path, 0).device(0)
    read = own_file._read
    monkeypatch.setattr(own_file, "_read", lambda *_: pytest.fail("parsed again"))
    assert torch.equal(rows_of_file(path, 0).device(0).inputs, first.inputs)
    monkeypatch.setattr(own_file, "_read", read)
    table(tmp_path, "5,0\n2,1\n")
    os.utime(path, ns=(1, 1))  # a clock too coarse to tell the two writes apart must not matter
    assert rows_of_file(path, 0).device(0).inputs.tolist() == [[5.0], [2.0]]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"inputs": np.zeros((2, 3))}, "has no array 'targets'"),
        ({"inputs": np.zeros((2, 3)), "targets": np.zeros(3)}, r"shape \(2, 3\) and targets of shape \(3,\)"),
        ({"inputs": np.zeros(2), "targets": np.zeros(2)}, r"inputs of shape \(2,\)"),
        ({"inputs": np.zeros((0, 3)), "targets": np.zeros(0)}, "n >= 1"),
        ({"inputs": np.array([[np.nan]]), "targets": np.zeros(1)}, "not finite"),
        ({"inputs": np.array([["a"]]), "targets": np.zeros(1)}, "type <U1"),
        ({"inputs": np.zeros((1, 1)), "targets": np.array([0.5])}, "not all classes"),
        ({"inputs": np.zeros((1, 1)), "targets": np.array([-1])}, "not all classes"),
        ({"inputs": np.zeros((1, 1)), "targets": np.array([np.nan])}, "not all classes"),
        ({"inputs": np.zeros((1, 1)), "targets": np.array([4]), "classes": 4}, "target 4 is none of 4 classes"),
        ({"inputs": np.array([[{}]], dtype=object), "targets": np.zeros(1)}, "cannot be read"),  # would need pickle
    ],
)
def test_an_archive_that_is_no_data_is_refused_in_words(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"node_config data = .*own.npz.*{said}"):
        rows_of_file(archive(tmp_path, **arrays), 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "has 1 columns"), ("1\n2\n", "has 1 columns"), ("1,2,0\n1,x,0\n", "cannot be read")],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_table_that_is_no_data_is_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"node_config data = .*own.csv.*{said}"):
        rows_of_file(table(tmp_path, text), 0)


def test_a_missing_file_another_ending_and_bytes_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"own\.npz.*No such file"):
        rows_of_file(tmp_path / "own.npz", 0)
    with pytest.raises(ValueError, match=r"own\.pt.*ends in \.npz or \.csv"):
        rows_of_file(tmp_path / "own.pt", 0)
    (tmp_path / "own.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="cannot be read"):
        rows_of_file(tmp_path / "own.npz", 0)
