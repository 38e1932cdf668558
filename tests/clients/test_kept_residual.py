"""What error feedback keeps on disk: whole or not at all, no more than is needed, and nowhere else."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, RecordDict

from clients.kept_residual import MOST_FILES, MOST_RUNS, KeptResiduals
from clients.residual import RESIDUAL_KEY, keep_residual, keep_sent, residual_in

RUN = "0123456789abcdef" * 2


def state_of(*values: float) -> RecordDict:
    state = RecordDict()
    keep_residual(state, torch.tensor(values, dtype=torch.float64))
    return state


def residual(state: RecordDict) -> list[float] | None:
    found = residual_in(state)
    return None if found is None else found.tolist()


def test_what_is_kept_comes_back_with_all_its_bits(tmp_path: Path) -> None:
    kept, state = KeptResiduals(tmp_path, RUN, 3), state_of(0.1, -1e-300)
    keep_sent(state, torch.tensor([1 / 3], dtype=torch.float32), 2**62 + 1)
    kept.keep(1, 0, state)
    found = RecordDict()
    kept.load(1, found)
    assert {name: dict(record) for name, record in found.array_records.items()}.keys() == state.array_records.keys()
    for name, record in state.array_records.items():
        for key, array in record.items():
            np.testing.assert_array_equal(found.array_records[name][key].numpy(), array.numpy(), strict=True)


def test_the_latest_up_to_the_checkpoint_is_gone_on_from_and_what_came_after_is_dropped(tmp_path: Path) -> None:
    kept = KeptResiduals(tmp_path, RUN, 0)
    for number in (1, 2, 4, 5):
        kept.keep(number, 0, state_of(number))
    state = state_of(99.0)
    kept.load(3, state)
    assert residual(state) == [2.0]
    assert kept.numbers() == [1, 2]


def test_where_nothing_was_kept_nothing_is_left_over(tmp_path: Path) -> None:
    state = state_of(99.0)
    KeptResiduals(tmp_path, RUN, 0).load(3, state)
    assert residual(state) is None


def test_a_damaged_file_is_told_and_nothing_is_left_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = KeptResiduals(tmp_path, RUN, 0)
    kept.keep(1, 0, state_of(1.0))
    (kept.path / "1.safetensors").write_bytes(b"\xff" * 40)
    state = RecordDict()
    with caplog.at_level(logging.WARNING, "fedmac"):
        kept.load(1, state)
    assert residual(state) is None
    assert "error feedback starts at zero" in caplog.text


def test_a_checkpoint_lets_go_of_all_before_the_latest_that_it_stands_for(tmp_path: Path) -> None:
    kept = KeptResiduals(tmp_path, RUN, 0)
    for number, safe in ((1, 0), (2, 0), (3, 0), (5, 3)):
        kept.keep(number, safe, state_of(number))
    assert kept.numbers() == [3, 5]
    kept.keep(7, 6, state_of(7))
    assert kept.numbers() == [5, 7]


def test_without_checkpoints_only_the_latest_are_kept(tmp_path: Path) -> None:
    kept = KeptResiduals(tmp_path, RUN, 0)
    for number in range(1, MOST_FILES + 6):
        kept.keep(number, 0, state_of(number))
    assert kept.numbers() == list(range(6, MOST_FILES + 6))


def test_of_old_runs_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "somebody else's").mkdir()
    for number in range(MOST_RUNS + 2):
        KeptResiduals(tmp_path, f"{number:032x}", 0).keep(1, 0, state_of(1.0))
        os.utime(tmp_path / f"{number:032x}", (number, number))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"somebody else's"} | {f"{number:032x}" for number in range(2, MOST_RUNS + 2)}


@pytest.mark.parametrize("run", ["", "../../etc", RUN[:-1], RUN.upper(), RUN + "\n"])
def test_a_run_s_name_leads_nowhere_else(run: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accepted: 32 hexadecimal digits"):
        KeptResiduals(tmp_path, run, 0)


def test_a_disk_that_cannot_be_written_costs_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "fedmac"):
        KeptResiduals(tmp_path / "file", RUN, 0).keep(1, 0, state_of(1.0))
    assert "not kept" in caplog.text


def test_only_what_belongs_to_error_feedback_is_written(tmp_path: Path) -> None:
    kept, state = KeptResiduals(tmp_path, RUN, 0), state_of(1.0)
    state["iterate"] = ArrayRecord({"w": Array(np.ones(3))})
    kept.keep(1, 0, state)
    found = RecordDict()
    kept.load(1, found)
    assert list(found) == [RESIDUAL_KEY]


def test_only_the_owner_may_read_what_is_kept(tmp_path: Path) -> None:
    kept = KeptResiduals(tmp_path, RUN, 0)
    kept.keep(1, 0, state_of(1.0))
    assert (kept.path / "1.safetensors").stat().st_mode & 0o077 == 0
