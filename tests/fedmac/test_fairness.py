"""What may be compared with what, and what is said where budgets differ."""

from __future__ import annotations

from typing import Any

import pytest

from fedmac.budget import Budget
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.studies.compare.fairness import require_same_task, unequal_budgets
from tests.fedmac.small_scenario import small

BASE = Budget(channel_uses=10_000, energy=100.0, examples=1000)


def of(changes: dict[str, Any] | None = None, **top: Any) -> Scenario:
    return Scenario.load(small(changes, **top))


@pytest.mark.parametrize(
    ("energy", "words"),
    [(102.0, ()), (98.0, ()), (102.1, ("energy +2.1 %",)), (131.0, ("energy +31 %",))],
)
def test_two_per_cent_is_equal_and_more_is_not(energy: float, words: tuple[str, ...]) -> None:
    assert unequal_budgets(Budget(10_000, energy, 1000), BASE) == words


@pytest.mark.parametrize("scale", [1e-12, 0.3, 1.0, 7.7e9])
def test_the_edge_does_not_depend_on_the_unit(scale: float) -> None:
    base = Budget(100, 1.0 * scale)
    assert unequal_budgets(Budget(100, 1.02 * scale), base) == ()
    assert unequal_budgets(Budget(100, 1.0201 * scale), base) == ("energy +2 %",)


def test_each_quantity_is_named_with_its_change() -> None:
    found = unequal_budgets(Budget(5_000, 1000.0, 900), BASE)
    assert found == ("energy 10 times", "channel uses −50 %", "examples −10 %")  # noqa: RUF001


def test_what_is_not_known_or_not_in_the_same_unit_is_not_compared() -> None:
    assert unequal_budgets(Budget(10_000, 100.0, None), BASE) == ()
    assert unequal_budgets(Budget(10_000, 1e-6, 1000), BASE, energy=False) == ()


def test_a_baseline_that_spends_nothing_has_no_percentage() -> None:
    assert unequal_budgets(Budget(0, 5.0), Budget(0, 0.0)) == ("energy 5 against none",)


def test_the_same_task_may_be_compared() -> None:
    require_same_task({"a": [of()], "b": [of({"uplink.ratio": 0.5}, rounds=9, seed=4)]})


def test_other_data_or_another_model_is_refused_with_the_difference() -> None:
    other = of({"data.devices": 5, "model.name": "mlp", "model.hidden": 16})
    with pytest.raises(ScenarioError) as refused:
        require_same_task({"a": [of()], "b": [of()], "c": [other]})
    lines = str(refused.value).splitlines()
    assert "data.devices = 4 in a, 5 in c" in lines
    assert "model.name = 'softmax' in a, 'mlp' in c" in lines
    assert "model.hidden = not set in a, 16 in c" in str(refused.value)
    assert "accepted: runs of the same data and model" in lines[-1]


def test_swept_keys_may_differ() -> None:
    require_same_task({"a": [of({"data.devices": 4}), of({"data.devices": 8})], "b": [of()]}, swept={"data.devices"})


def test_variants_of_one_scenario_may_differ() -> None:
    both = [of({"data.devices": 4}), of({"data.devices": 8})]
    require_same_task({"a": both})
    require_same_task({"a": both, "b": both[::-1]})
    with pytest.raises(ScenarioError, match=r"data\.devices = 4 or 8 in a, 8 in b"):
        require_same_task({"a": both, "b": both[1:]})
