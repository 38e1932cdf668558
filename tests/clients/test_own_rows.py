"""A device's own rows: kept whole, mapped to the bit, made anew where they are damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clients.data import Split, load
from clients.disk_cache import cache_folder
from clients.own_rows import OwnRows, keep_rows, kept_rows, mapped, rows_name


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMAC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def some(rows: int = 7, dtype: torch.dtype = torch.float32) -> Split:
    draws = torch.Generator().manual_seed(0)
    return Split(torch.randn(rows, 2, 3, generator=draws, dtype=dtype), torch.arange(rows) % 3)


def file_in(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kept_rows_are_the_same_to_the_bit(dtype: torch.dtype) -> None:
    rows = some(dtype=dtype)
    keep_rows("mine", rows, 4)
    kept = kept_rows("mine", 5)
    assert kept is not None
    assert torch.equal(kept.device(5).inputs, rows.inputs)
    assert torch.equal(kept.device(5).targets, rows.targets)
    assert (kept.input_shape, kept.num_classes, kept.device(5).inputs.dtype) == ((2, 3), 4, dtype)
    assert (len(kept.validation), len(kept.test)) == (0, 0)


def test_rows_are_mapped_and_not_read() -> None:
    rows = Split(torch.zeros(200_000, 20), torch.zeros(200_000, dtype=torch.int64))
    keep_rows("large", rows, 2)
    kept = kept_rows("large", 0)
    assert kept is not None
    start = kept.train.inputs.data_ptr()
    areas = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    (backed,) = {
        words[-1] for words in areas if int(words[0].split("-")[0], 16) <= start < int(words[0].split("-")[1], 16)
    }
    assert backed.endswith("large.safetensors")


def test_who_changes_the_rows_does_not_change_the_file() -> None:
    keep_rows("mine", some(), 3)
    first, second = kept_rows("mine", 0), kept_rows("mine", 0)
    assert first is not None
    assert second is not None
    first.device(0).inputs.fill_(9.0)
    assert torch.equal(second.device(0).inputs, some().inputs)


def test_only_the_user_can_read_what_a_device_keeps(folder: Path) -> None:
    keep_rows("mine", some(), 3)
    assert stat.S_IMODE(file_in(folder).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]


@pytest.mark.parametrize("place", [0.0, 0.02, 0.5, 0.999])
def test_a_damaged_file_is_made_anew(folder: Path, place: float) -> None:
    rows = some(100)
    keep_rows("mine", rows, 3)
    content = bytearray(file_in(folder).read_bytes())
    content[int(place * len(content))] ^= 0x10
    file_in(folder).write_bytes(content)
    assert kept_rows("mine", 0) is None
    again = mapped("mine", 0, lambda: (rows, 3))
    assert torch.equal(again.device(0).inputs, rows.inputs)
    assert kept_rows("mine", 0) is not None


@given(length=st.integers(0, 400))
def test_a_file_cut_short_anywhere_counts_as_none(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDMAC_CACHE", str(tmp_path_factory.getbasetemp() / "cut"))
        keep_rows("mine", some(), 3)
        file = file_in(tmp_path_factory.getbasetemp() / "cut")
        content = file.read_bytes()
        file.write_bytes(content[: min(length, len(content) - 1)])
        assert kept_rows("mine", 0) is None


def test_rows_are_made_once() -> None:
    made = 0

    def make() -> tuple[Split, int]:
        nonlocal made
        made += 1
        return some(), 3

    name = rows_name("digits", 0, 1)
    first, second = mapped(name, 1, make), mapped(name, 1, make)
    assert made == 1
    assert torch.equal(first.device(1).inputs, second.device(1).inputs)


def test_the_name_changes_with_everything_that_determines_the_rows() -> None:
    names = {rows_name({"source": "digits", "alpha": 0.1}, seed, device) for seed in range(3) for device in range(3)}
    names |= {rows_name({"source": "digits", "alpha": 0.2}, 0, 0), rows_name({"source": "digits"}, 0, 0)}
    assert len(names) == 11


def test_nobody_elses_rows_are_there() -> None:
    own = OwnRows.of(some(), 2, 3)
    with pytest.raises(ValueError, match="device = 1: only the rows of device 2 are here"):
        own.device(1)


def test_a_device_has_the_same_rows_by_itself_as_among_all() -> None:
    whole = load("digits", devices=3, partition="shards", shards=2).grouped()
    keep_rows("second", whole.device(1), whole.num_classes)
    own = kept_rows("second", 1)
    assert own is not None
    assert torch.equal(own.device(1).inputs, whole.device(1).inputs)
    assert (own.input_shape, own.num_classes) == (whole.input_shape, whole.num_classes)
    targets = own.with_inputs_as_targets().device(1).targets
    assert torch.equal(targets, whole.with_inputs_as_targets().device(1).targets)


def test_a_disk_that_takes_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("FEDMAC_CACHE", str(blocked))
    keep_rows("mine", some(), 3)
    assert kept_rows("mine", 0) is None


def test_the_folder_is_the_one_named_else_the_users_else_flowers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("FLWR_HOME", "/flower")
    monkeypatch.setenv("FEDMAC_CACHE", "/own")
    assert cache_folder() == Path("/own")
    monkeypatch.delenv("FEDMAC_CACHE")
    assert cache_folder() == Path("/xdg/fedmac")
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() == Path("/flower/cache")
    monkeypatch.delenv("FLWR_HOME")
    assert cache_folder() is None


def test_no_pickle_is_in_the_file(folder: Path) -> None:
    keep_rows("mine", some(), 3)
    content = file_in(folder).read_bytes()
    header = int(np.frombuffer(content[:8], dtype="<u8")[0])
    assert content[8 : 8 + header].lstrip().startswith(b"{")
    assert len(content) == 8 + header + 7 * 6 * 4 + 7 * 8
