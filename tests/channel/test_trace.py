"""A recorded channel comes back as it was recorded, and what cannot be one is refused by file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from channel.channel import Channel
from channel.fading import Rayleigh
from channel.trace import GainTrace, write_trace

HEADER = "round,device,real,imag\n"


def draw(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.complex128]:
    rng = np.random.default_rng(seed)
    return np.asarray(1e-5 * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)))


def csv(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "trace.csv"
    path.write_text(header + rows, encoding="utf-8")
    return path


def replay(trace: GainTrace, subbands: int = 1, antennas: int = 1) -> NDArray[np.complex128]:
    rounds = range(1, trace.rounds + 1)
    return np.stack([trace.response(t, trace.devices, subbands, antennas, 0) for t in rounds])


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    left_out=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4),
    seed=st.integers(0, 99),
)
def test_csv_and_npz_give_back_what_was_written_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int, int],
    left_out: list[tuple[int, int]],
    seed: int,
) -> None:
    folder = tmp_path_factory.mktemp("traces")
    gains, reachable = draw(shape, seed), np.ones((shape[0], shape[2]), dtype=np.bool_)
    for round, device in left_out:
        # of the first and last round, and of each device, something must be there
        if 0 < round < shape[0] - 1 and device < shape[2]:
            reachable[round, device] = False
    expected = np.where(reachable[:, None, :, None], gains, 0)
    for name in ("trace.csv", "trace.npz"):
        write_trace(folder / name, gains, reachable)
        trace = GainTrace(folder / name)
        np.testing.assert_array_equal(replay(trace, shape[1], shape[3]), expected)
        for t in range(shape[0]):
            np.testing.assert_array_equal(trace.reachable(t + 1, shape[2], 0), reachable[t])


def test_gains_of_a_flat_channel_are_written_as_four_columns_and_read_from_any_form(tmp_path: Path) -> None:
    gains = draw((5, 3))
    write_trace(tmp_path / "flat.csv", gains)
    lines = (tmp_path / "flat.csv").read_text().splitlines()
    assert lines[0] + "\n" == HEADER
    assert len(lines) == 16
    assert lines[1].startswith("1,0,")  # exchanges count from 1, devices from 0
    write_trace(tmp_path / "flat.npz", gains)
    rounds, devices = np.indices((5, 3))
    np.savez(
        tmp_path / "rows.npz",
        round=rounds.ravel(),
        device=devices.ravel(),
        real=gains.real.ravel(),
        imag=gains.imag.ravel(),
    )
    np.savez(tmp_path / "array.npz", gains=gains)
    for name in ("flat.csv", "flat.npz", "rows.npz", "array.npz"):
        trace = GainTrace(tmp_path / name)
        np.testing.assert_array_equal(replay(trace)[:, 0, :, 0], gains)
        np.testing.assert_array_equal(trace.coefficients(2, 3, seed=9), gains[1])


def test_rows_may_come_in_any_order_with_blank_lines_and_spaces(tmp_path: Path) -> None:
    trace = GainTrace(csv(tmp_path, "2, 0, 3, 4\n\n1, 0, 1, 2\n\n", "round, device, real, imag\n"))
    np.testing.assert_array_equal(replay(trace).ravel(), [1 + 2j, 3 + 4j])


@pytest.mark.parametrize("first", [0, 1])
def test_the_runs_first_exchange_is_the_files_round_zero_or_one(tmp_path: Path, first: int) -> None:
    trace = GainTrace(csv(tmp_path, f"{first},0,1,0\n{first + 1},0,2,0\n"))
    assert trace.rounds == 2
    assert trace.response(1, 1, 1, 1, 0)[0, 0, 0] == 1.0


def test_a_run_may_begin_in_the_middle_or_before_the_first_gain(tmp_path: Path) -> None:
    path = csv(tmp_path, "100,0,1,0\n101,0,2,0\n")
    with pytest.raises(ValueError, match="rounds begin with 100; accepted: 0 or 1, or first_round"):
        GainTrace(path)
    assert replay(GainTrace(path, first_round=101)).ravel().tolist() == [2]
    assert replay(GainTrace(path, first_round=98)).ravel().tolist() == [0, 0, 1, 2]
    for wrong in (102, -1):
        with pytest.raises(ValueError, match=f"first_round is {wrong}; accepted: 0 to 101"):
            GainTrace(path, first_round=wrong)


def test_a_row_left_out_is_a_device_out_of_reach(tmp_path: Path) -> None:
    trace = GainTrace(csv(tmp_path, "1,0,1,0\n1,1,0,2\n3,0,3,0\n"))
    assert trace.rounds == 3
    np.testing.assert_array_equal(replay(trace)[:, 0, :, 0], [[1, 2j], [0, 0], [3, 0]])
    np.testing.assert_array_equal([trace.reachable(t, 2, 0) for t in (1, 2, 3)], [[1, 1], [0, 0], [1, 0]])
    np.testing.assert_allclose(trace.mean_power(1, 2, 0), [5.0, 4.0])  # over the rounds in which it was there


def test_mean_power_is_the_mean_over_rounds_subbands_and_antennas(tmp_path: Path) -> None:
    gains = draw((6, 3, 4, 2))
    write_trace(tmp_path / "trace.npz", gains)
    measured = GainTrace(tmp_path / "trace.npz").mean_power(2, 4, 0)
    np.testing.assert_allclose(measured, np.mean(np.abs(gains) ** 2, axis=(0, 1, 3)))


def test_a_flat_trace_serves_any_number_of_subbands_and_the_first_devices_a_smaller_run(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.npz", draw((2, 5)))
    response = GainTrace(tmp_path / "trace.npz").response(1, 3, 4, 1, 0)
    assert response.shape == (4, 3, 1)
    np.testing.assert_array_equal(response, np.broadcast_to(draw((2, 5))[0, None, :3, None], (4, 3, 1)))
    response[:] = 0  # the caller's own
    assert GainTrace(tmp_path / "trace.npz").response(1, 3, 4, 1, 0).all()


def test_replaying_a_simulated_channel_is_that_channel(tmp_path: Path) -> None:
    simulated = Channel(fading=Rayleigh(), power_gain=np.linspace(0.1, 1.0, 8))
    states = [simulated.state(t, np.arange(8), 8, seed=3) for t in range(1, 6)]
    write_trace(tmp_path / "trace.csv", [state.gains for state in states])
    replayed = Channel(fading=GainTrace(tmp_path / "trace.csv"))
    for t in range(1, 6):
        np.testing.assert_array_equal(replayed.state(t, [5, 2], 8, seed=0).gains, states[t - 1].gains[[5, 2]])


def test_samples_are_recorded_rounds_from_all_over_the_trace(tmp_path: Path) -> None:
    gains = draw((10, 2))
    write_trace(tmp_path / "trace.npz", gains)
    sampled = [r[0, :, 0] for r in GainTrace(tmp_path / "trace.npz").sample(5, 2, 1, 1, 0)]
    np.testing.assert_array_equal(sampled, gains[::2])


def test_a_trace_too_small_for_the_run_is_refused(tmp_path: Path) -> None:
    write_trace(tmp_path / "trace.npz", draw((3, 2, 4, 1)))
    trace = GainTrace(tmp_path / "trace.npz")
    trace.check(3, 4, 2, 1)
    for sizes, named in (
        ((4, 4, 2, 1), "the trace has 3 rounds; accepted: 4 or more"),
        ((3, 5, 2, 1), "the trace has 4 devices; accepted: 5 or more"),
        ((3, 4, 3, 1), "subbands is 3; accepted: 2"),
        ((3, 4, 2, 2), "antennas is 2; accepted: 1"),
    ):
        with pytest.raises(ValueError, match=named):
            trace.check(*sizes)
        with pytest.raises(ValueError, match=named):
            trace.response(*sizes, 0)
    with pytest.raises(ValueError, match="round is 0; accepted: exchanges of a run, which count from 1"):
        trace.response(0, 4, 2, 1, 0)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ("1,0,nan,1\n", r"trace\.csv, line 2: real is 'nan'; accepted: a number; leave the row out"),
        ("1,0,1,1\n2,0,1,\n", r"line 3: imag is ''"),
        ("1,0,1,1\n\n2,0,1,x\n", r"line 4: imag is 'x'"),
        ("1,0,inf,1\n", r"line 2: real is inf; accepted: a finite number"),
        ("1,0,1,1\n2,0,0,-0.0\n", r"line 3: gain is 0; .* leave the row out"),
        ("1,0,1,1\n1,0,1,1\n", r"line 3: device is 0; .* second of the same"),
        ("1,-1,1,1\n", r"line 2: device is -1; accepted: a whole number >= 0"),
        ("1.5,0,1,1\n", r"line 2: round is 1\.5; accepted: a whole number"),
        ("1,0,1,1\n1,2,1,1\n", r"device 1 of 0 to 2 is never reached"),
        ("1,1,1,1\n", r"device 0 of 0 to 1 is never reached; accepted: devices that count from 0"),
        ("1,0,1,1,7\n", r"cannot be read as CSV"),
        ("1,0,1,1\n1,999999999,1,1\n", r"at most \d+ coefficients"),
        ("", "has no rows"),
    ],
)
def test_a_bad_row_is_refused_by_its_line(tmp_path: Path, rows: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GainTrace(csv(tmp_path, rows))


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("round,device,real\n", "missing: imag"),
        ("round,device,real,imag,snr\n", "unknown: snr"),
        ("", "cannot be read as CSV"),
    ],
)
def test_a_header_that_is_not_a_traces_is_refused(tmp_path: Path, header: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GainTrace(csv(tmp_path, "", header))


def test_a_device_heard_by_some_antennas_only_is_refused(tmp_path: Path) -> None:
    rows = "1,0,1,1,0,0\n1,0,1,1,0,1\n2,0,1,1,0,0\n"
    with pytest.raises(ValueError, match=r"line 4: device is 0; .* 1 subbands and 2 antennas"):
        GainTrace(csv(tmp_path, rows, "round,device,real,imag,subband,antenna\n"))


def good(**changed: Any) -> dict[str, Any]:
    return {"round": [1, 2], "device": [0, 0], "real": [1.0, 2.0], "imag": [0.0, 1.0]} | changed


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        (good(real=[1.0, np.nan]), r"trace\.npz, index 1: real is nan"),
        (good(real=[0.0, 1.0]), r"index 0: gain is 0"),
        (good(round=[1, 1]), r"index 1: device is 0; .* second of the same"),
        (good(round=[1, -2]), r"index 1: round is -2"),
        (good(real=[1.0]), r"real has shape \(1,\)"),
        (good(real=["1", "2"]), "real has shape .* type <U1"),
        ({"h": [1.0]}, "missing: round, device, real, imag; unknown: h"),
        ({"gains": np.array([[1, np.nan]])}, r"trace\.npz, index \(0, 1\): gain is"),
        ({"gains": np.array([[1.0], [0.0]])}, r"index \(1, 0\): gain is 0j; .* reachable\[round, device\] is False"),
        ({"gains": np.ones(3)}, r"gains has shape \(3,\)"),
        ({"gains": np.ones((2, 2)), "reachable": np.ones((2, 3), dtype=bool)}, r"reachable has shape \(2, 3\)"),
        ({"gains": np.ones((2, 2)), "reachable": np.ones((2, 2))}, "reachable has .* type float64"),
        ({"gains": np.ones((2, 2)), "round": [1]}, "gains and round; accepted: gains"),
        ({"gains": np.ones((1, 2)), "reachable": np.array([[True, False]])}, "device 1 of 0 to 1 is never reached"),
        ({"gains": np.array([[object()]])}, "cannot be read as NPZ"),
    ],
)
def test_bad_arrays_are_refused_by_their_index(tmp_path: Path, arrays: dict[str, Any], named: str) -> None:
    np.savez(tmp_path / "trace.npz", **arrays)
    with pytest.raises(ValueError, match=named):
        GainTrace(tmp_path / "trace.npz")


def test_files_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trace.npz").write_bytes(b"not a zip")
    with pytest.raises(ValueError, match="cannot be read as NPZ"):
        GainTrace(tmp_path / "trace.npz")
    with pytest.raises(ValueError, match=r"accepted: a gain trace, whose name ends in \.csv or \.npz"):
        GainTrace(tmp_path / "trace.txt")
    with pytest.raises(FileNotFoundError):
        GainTrace(tmp_path / "missing.csv")


def test_what_cannot_be_replayed_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.csv or \.npz"):
        write_trace(tmp_path / "trace.txt", draw((2, 2)))
    with pytest.raises(ValueError, match=r"index \(0, 1\): gain is 0j"):
        write_trace(tmp_path / "trace.csv", [[1.0, 0.0]])
    with pytest.raises(ValueError, match="nobody was reached in the last round"):
        write_trace(tmp_path / "trace.csv", np.ones((2, 1)), np.array([[True], [False]]))
    assert not list(tmp_path.iterdir())
