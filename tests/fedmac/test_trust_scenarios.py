"""The table `trust` of a scenario, and that it says what the air believes."""

from __future__ import annotations

from typing import Any

import pytest

from clients.app import Workplace, client_app
from fedmac.build_devices import build_workplace
from fedmac.engines.local import LocalGrid
from fedmac.learn import learn
from fedmac.learning_task import LearningTask
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from strategies.over_the_air import OverTheAir
from strategies.trust import Trust
from tests.fedmac.small_scenario import small


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("bad_replies", -1, "an integer >= 0"),
        ("bad_replies", 1.5, "an integer >= 0"),
        ("within_rounds", 0, "an integer >= 1"),
        ("quarantine_rounds", 0, "an integer >= 1"),
        ("largest_weight_share", 0.0, "a number > 0 and <= 1"),
        ("largest_weight_share", 1.1, "a number > 0 and <= 1"),
        ("largest_norm_ratio", 1.0, "a number > 1"),
        ("largest_norm_ratio", float("nan"), "a number > 1"),
        ("quarantine", 3, "unknown key; did you mean"),
    ],
)
def test_what_has_no_meaning_is_refused_by_key_and_value(key: str, value: Any, accepted: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        Scenario.load(small({f"trust.{key}": value}))
    assert f"trust.{key} = {value}" in str(refused.value)
    assert accepted in str(refused.value)


def grid_of(work: Workplace) -> LocalGrid:
    """The devices in this process."""
    return LocalGrid(work, client_app(lambda _context, _config: work))


def test_the_defaults_are_those_of_the_code() -> None:
    assert Scenario.load(small()).trust.of(4) == Trust(devices=4)


def test_a_run_believes_as_much_as_its_scenario_says(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[OverTheAir] = []
    begin = OverTheAir.start

    def start(self: OverTheAir, *arguments: Any, **more: Any) -> Any:
        started.append(self)
        return begin(self, *arguments, **more)

    monkeypatch.setattr(OverTheAir, "start", start)
    scenario = Scenario.load(small({"trust.bad_replies": 7, "trust.largest_norm_ratio": float("inf")}, rounds=1))
    (variant,) = scenario.resolve()
    work = build_workplace(scenario, 0)
    with grid_of(work) as grid:
        learn(LearningTask(variant, 0, work, lambda _: None), grid)
    (strategy,) = started
    assert strategy.air is not None
    assert strategy.air.trust == Trust(bad_replies=7, largest_norm_ratio=float("inf"), devices=4)


def test_a_cap_on_shares_holds_for_devices_that_train_in_place() -> None:
    records: list[dict[str, Any]] = []
    for share in (1.0, 0.3):
        content = small(
            {"trust.largest_weight_share": share, "data.partition": "dirichlet", "data.alpha": 0.3}, rounds=1
        )
        scenario = Scenario.load(content)
        (variant,) = scenario.resolve()
        work = build_workplace(scenario, 0)
        with grid_of(work) as grid:
            learn(LearningTask(variant, 0, work, records.append), grid)
    said, capped = (record["weights"] for record in records if record["round"] == 1)
    assert max(said) > 0.3
    assert max(capped) == pytest.approx(0.3, rel=1e-12)
    assert sum(capped) == pytest.approx(1.0, rel=1e-12)
