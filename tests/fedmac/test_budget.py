"""What a scenario may spend: budgets, and the signal-to-noise ratio that sets them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import fedmac
from fedmac.budget import Budget, budget_of
from fedmac.build import build_uplink
from fedmac.scenario import Scenario
from tests.fedmac.small_scenario import VARIANTS, small

# 64 x 10 + 10 entries, of which the code sends a quarter.
PARAMETERS, USES = 650, 162
SNR = {"uplink.code": "random-linear", "channel.snr_db": 3.0}


def limit(changes: dict[str, Any]) -> float:
    """The power limit that a device works under."""
    scenario = Scenario.load(small(changes))
    return build_uplink(scenario, 0).grant(PARAMETERS).energy / USES


def test_the_budget_is_what_full_power_spends(tmp_path: Path) -> None:
    changes = {"power_control.name": "full-power", "strategy.fraction_train": 0.5}
    run = fedmac.run(small(changes, variants=VARIANTS), out=tmp_path / "r")
    for row, variant in zip(run.summary["variants"], run.scenario.resolve(), strict=True):
        budget = budget_of(variant.scenario, row["parameters"], row["training_examples"])
        if row["name"] == "rlc":
            assert budget.channel_uses == row["channel_uses"] == 3 * USES
        assert budget.energy == pytest.approx(row["energy_j_per_device_mean"])
        assert budget.energy == pytest.approx(3 * 50.0 / 2), "half of the devices send in a round"
        assert budget.examples == row["training_examples"] == 1438, "four fifths of the 1,797 digits"


@pytest.mark.parametrize("noise_power", [0.5, 1.0, 4.0])
def test_the_signal_to_noise_ratio_sets_the_power_limit(noise_power: float) -> None:
    assert limit(SNR | {"channel.noise_power": noise_power}) == pytest.approx(noise_power * 10**0.3)


def test_a_ratio_of_one_is_the_same_run_as_the_power_it_stands_for(tmp_path: Path) -> None:
    by_ratio = fedmac.run(small({"channel.snr_db": 0.0}), out=tmp_path / "ratio")
    by_power = fedmac.run(small({"power_control.power": 1.0}), out=tmp_path / "power")
    assert by_ratio.rounds["test_loss"].tolist() == by_power.rounds["test_loss"].tolist()


def test_setting_the_ratio_lets_go_of_the_limit_and_the_other_way_round() -> None:
    by_energy, by_ratio = small(), small({"channel.snr_db": 3.0})
    assert Scenario.load(by_energy, {"channel.snr_db": 3.0}).power_control.energy_per_round is None
    assert Scenario.load(by_ratio, {"power_control.power": 2.0}).channel.snr_db is None


def test_a_ratio_set_from_outside_holds_in_variants_that_have_a_limit_of_their_own() -> None:
    variants = [{"name": "a", "power_control": {"energy_per_round": 9.0}}, {"name": "b", "channel": {"snr_db": 1.0}}]
    outside = Scenario.load(small(variants=variants), {"channel.snr_db": 3.0}).resolve()
    assert [v.scenario.channel.snr_db for v in outside] == [3.0, 3.0]
    inside = Scenario.load(small(variants=variants)).resolve()
    assert [v.scenario.channel.snr_db for v in inside] == [None, 1.0]
    assert [v.scenario.power_control.energy_per_round for v in inside] == [9.0, None]


def test_no_limit_means_a_power_of_one() -> None:
    content = small()
    del content["power_control"]
    uplink = build_uplink(Scenario.load(content), 0)
    assert uplink.grant(PARAMETERS).energy == pytest.approx(USES)
    assert math.isfinite(uplink.grant(PARAMETERS).energy)


def test_what_depends_on_the_run_is_no_budget_and_is_compared_by_what_it_cost(tmp_path: Path) -> None:
    changes = {"training.l2": 1e-3, "training.dtype": "float64", "strategy.name": "dingo", "uplink.kind": "ideal"}
    run = fedmac.run(small(changes), out=tmp_path / "dingo", report=False)
    (variant,) = run.scenario.resolve()
    assert budget_of(variant.scenario, PARAMETERS) == Budget(None, None)
    (series,) = fedmac.compare([run.folder], y="objective").series
    assert series.budget.channel_uses == run.summary["variants"][0]["channel_uses"]
    assert series.budget.energy == pytest.approx(run.summary["variants"][0]["energy_j_per_device_mean"])
