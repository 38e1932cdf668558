"""The reproduced rule keeps the bounds it is named for, and its script has a row for every rule."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "scenarios/reproduce"
LIMIT, NOISE = 1.0, 0.05


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("power_efficient_beamforming")


def instance(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    gains = (rng.standard_normal((6, 4)) + 1j * rng.standard_normal((6, 4))) / np.sqrt(2)
    return gains, rng.dirichlet(np.full(6, 5.0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("alpha", "delta", "eta"), [(0.55, 6.0, 0.0), (0.2, 1.5, 0.0), (math.inf, 0.0, 1.0)])
def test_bias_and_error_stay_within_their_bounds_and_the_error_uses_its_up(
    script: ModuleType, seed: int, alpha: float, delta: float, eta: float
) -> None:
    gains, weights = instance(seed)
    combiner, sent = script.BoundedPower(alpha, delta, eta).solve(gains, weights, LIMIT, NOISE)
    arriving = (gains @ combiner.conj()) * sent
    np.testing.assert_allclose(arriving.imag, 0.0, atol=1e-9)
    bias = np.abs(weights - arriving.real).sum()
    assert bias <= alpha * weights.sum() * (1 + 1e-6)
    error = bias**2 + NOISE * np.linalg.norm(combiner) ** 2
    assert error == pytest.approx(delta * weights.sum() ** 2 + eta, rel=1e-6)
    assert (np.abs(sent) ** 2 <= LIMIT * (1 + 1e-9)).all()


def test_a_looser_bound_takes_less_power(script: ModuleType) -> None:
    gains, weights = instance(3)
    spent = [
        np.sum(np.abs(script.BoundedPower(0.5, delta, 0.0).solve(gains, weights, LIMIT, NOISE)[1]) ** 2)
        for delta in (1.0, 3.0, 9.0)
    ]
    assert spent[0] > spent[1] > spent[2]


def test_the_least_amplitudes_fall_short_by_exactly_what_is_allowed(script: ModuleType) -> None:
    gains, weights = instance(4)
    heard = gains[:, 0]
    sent = sys.modules["power_bounded_beamforming"].least_amplitudes(heard, weights, LIMIT, 0.3)
    arriving = np.real(heard * sent)
    assert (arriving <= weights * (1 + 1e-12)).all()
    assert np.sum(weights - arriving) == pytest.approx(0.3, rel=1e-9)


def test_cost_hata_is_that_of_the_published_set_up(script: ModuleType) -> None:
    km = 0.05
    mobile = 3.2 * np.log10(11.75) ** 2 - 4.97
    loss = 46.3 + 33.9 * np.log10(2000) - 13.82 * np.log10(30) - mobile + (44.9 - 6.55 * np.log10(30)) * np.log10(km)
    assert -10 * np.log10(script.COST_HATA.power_gain([1e3 * km], 0)[0]) == pytest.approx(loss, abs=1e-9)
    assert 10 * np.log10(2 * script.NOISE_POWER) + 30 == pytest.approx(-74.0, abs=1e-9)


def test_the_script_has_a_row_for_every_rule(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", "--seeds", "1", "--rounds", "1", "--target", "0"])
    script.main()
    rows = capsys.readouterr().out.splitlines()[4:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["without noise", *script.rules(7850)]
    assert all("| 1/1 | 1 |" in row for row in rows)
