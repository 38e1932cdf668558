"""Sionna's block error tables: read as Sionna reads them, and the closed form held to them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq

from channel.links import McsLink
from channel.links.block_errors import NormalApproximation, SionnaTables, _curves, _table_path

INSTALLED = find_spec("sionna") is not None
needs_sionna = pytest.mark.skipif(not INSTALLED, reason="needs fedmac[3gpp]")


@pytest.fixture
def small_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package of Sionna's shape with two schemes, two sizes and three SNRs."""
    steep = {"SNR_db": [-5.0, 0.0, 5.0], "CBS": {"100": {"BLER": [1.0, 0.1, 0.01]}, "200": {"BLER": [1.0, 0.01, 0.0]}}}
    late = {"SNR_db": [-5.0, 0.0, 5.0], "CBS": {"100": {"BLER": [1.0, 1.0, 0.5]}, "200": {"BLER": [1.0, 1.0, 0.5]}}}
    folder = tmp_path / "sionna" / "sys" / "bler_tables"
    folder.mkdir(parents=True)
    (tmp_path / "sionna" / "__init__.py").write_text("", encoding="utf-8")
    table = {"category": {"0": {"index": {"1": {"MCS": {"3": steep, "17": late}}}}}}
    (folder / "PUSCH_table1.json").write_text(json.dumps(table), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sionna"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    _curves.cache_clear()
    yield
    _curves.cache_clear()


def errors(snr_db: float, size: float) -> NDArray[np.float64]:
    return SionnaTables()(np.array([[10 ** (snr_db / 10)]]), np.full((1, 29), size))[0]


@pytest.mark.usefixtures("small_table")
def test_errors_are_log_linear_between_the_points_of_the_table() -> None:
    assert errors(0.0, 100)[3] == pytest.approx(0.1)
    assert errors(2.5, 100)[3] == pytest.approx(10**-1.5)
    assert errors(0.0, 150)[3] == pytest.approx(10**-1.5)
    assert errors(-2.5, 100)[3] == pytest.approx(10**-0.5)


@pytest.mark.usefixtures("small_table")
def test_an_error_never_seen_is_none_and_edges_hold_beyond_the_table() -> None:
    assert errors(5.0, 200)[3] == 0.0
    assert errors(-20.0, 5000)[3] == pytest.approx(1.0)
    assert errors(30.0, 24)[3] == pytest.approx(0.01)


@pytest.mark.usefixtures("small_table")
def test_curves_stand_at_their_modulation_and_code_rate_and_unknown_schemes_are_not_taken() -> None:
    known = np.flatnonzero(errors(20.0, 100) < 1.0)
    assert known.tolist() == [3, 18]  # 17 of table 6.1.4.1-1 is 64-QAM at 466/1024: 18 of 5.1.3.1-1
    link = McsLink(block_errors="sionna", block_error_target=0.6)
    chosen = link.format(10 ** (np.array([-10.0, 1.0, 6.0]) / 10), 100)
    np.testing.assert_allclose(chosen.bits_per_use, [2 * 251 / 1024, 2 * 251 / 1024, 6 * 466 / 1024])


def test_without_sionna_the_error_names_the_extra_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("channel.links.block_errors.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"fedmac\[3gpp\].*normal-approximation"):
        _table_path()


@needs_sionna
def test_errors_are_those_of_sionnas_phy_abstraction() -> None:
    torch: Any = importlib.import_module("torch")
    system: Any = importlib.import_module("sionna.sys")
    abstraction = system.PHYAbstraction(load_bler_tables_from=str(_table_path()))
    rng = np.random.default_rng(0)
    for index in (3, 10, 16, 17, 27):
        steps, sizes = rng.integers(0, 250, 40), 24 + 100 * rng.integers(0, 25, 40)  # points of its own grid
        snr_db = -5.0 + 0.1 * steps
        snr = torch.tensor(10 ** (snr_db / 10), dtype=torch.float32)
        theirs = abstraction.get_bler(index, 1, 0, torch.tensor(sizes), snr).numpy()
        mcs = index if index < 17 else index + 1
        ours = SionnaTables()(10 ** (snr_db[:, None] / 10), np.tile(sizes[:, None], 29).astype(float))[:, mcs]
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=4e-4)  # single precision, and one block in 3000


@needs_sionna
def test_the_closed_form_meets_the_simulated_points_of_the_tables() -> None:
    table = json.loads(_table_path().read_text(encoding="utf-8"))["category"]["0"]["index"]["1"]["MCS"]
    off = []
    for index, entry in table.items():
        mcs = int(index) if int(index) < 17 else int(index) + 1
        for size in ("500", "1000", "2000"):
            for snr_db, lost in zip(entry["SNR_db"], entry["CBS"][size]["BLER"], strict=True):
                if 0.01 <= lost <= 0.99:  # elsewhere a point says little about where the curve falls
                    off.append(_snr_db_at(mcs, float(size), lost) - snr_db)
    assert len(off) > 50
    assert np.median(np.abs(off)) < 0.03
    assert np.max(np.abs(off)) < 0.45


def _snr_db_at(mcs: int, size: float, wanted: float) -> float:
    sizes, model = np.full((1, 29), size), NormalApproximation()
    return float(brentq(lambda x: float(model(np.array([[10 ** (x / 10)]]), sizes)[0, mcs]) - wanted, -12.0, 30.0))
