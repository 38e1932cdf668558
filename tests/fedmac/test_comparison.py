"""Comparisons of recorded runs: what is read, what is left out and said, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmac.axes import label
from fedmac.record import NoRunHere, RecordError
from fedmac.scenario_errors import ScenarioError
from fedmac.studies.compare.comparison import Comparison, Series, compare
from fedmac.studies.compare.readable_table import readable_table
from fedmac.studies.compare.statistics import Estimate, estimate
from tests.fedmac.recorded_runs import Height, lines, rising, write_rounds, write_run, write_sweep

BOTH: Mapping[str, Height] = {"rlc": rising(0.05), "ideal": rising(0.08)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two variants, three seeds, ten rounds."""
    return write_run(tmp_path / "run", BOTH)


def named(comparison: Comparison, name: str) -> Series:
    return next(series for series in comparison.series if series.name == name)


def test_final_values_costs_and_curves_are_those_of_the_record(run: Path) -> None:
    found = compare([run], x="energy")
    assert [s.name for s in found.series] == ["rlc", "ideal"]
    rlc = named(found, "rlc")
    assert rlc.final == estimate([0.6, 0.601, 0.602])
    assert rlc.costs["energy"] == Estimate(125.0, 0.0, 3)
    assert rlc.costs["channel_uses"].mean == 1000.0
    assert rlc.seeds == (0, 1, 2)
    curve = rlc.curves["energy"]
    assert curve.x == pytest.approx(12.5 * np.arange(11))
    assert curve.mean == pytest.approx(0.101 + 0.05 * np.arange(11))
    assert found.notices == ()


def test_area_of_a_line_is_its_middle(run: Path) -> None:
    found = compare([run], x="clock")
    assert found.shared == pytest.approx((0.0, 0.01))
    area = named(found, "rlc").area
    assert area is not None
    assert area.mean == pytest.approx(0.101 + 0.25)


def test_area_is_over_the_range_that_all_share(tmp_path: Path) -> None:
    short = write_run(tmp_path / "short", {"rlc": rising(0.05)}, energy=5.0)
    long = write_run(tmp_path / "long", {"rlc": rising(0.05)}, energy=10.0)
    found = compare([short, long], x="energy")
    assert found.shared == (0.0, 50.0)
    areas = [series.area.mean for series in found.series if series.area]
    assert areas == pytest.approx([0.101 + 0.25, 0.101 + 0.125])


def test_axes_are_those_that_the_records_have(run: Path) -> None:
    found = compare([run], x="clock")
    assert found.axes == ("clock", "round", "exchange", "channel_uses", "energy", "air_time", "wall")  # no bits sent
    assert found.labels["energy"] == "energy per device (normalised)"
    assert found.labels["test_accuracy"] == "test accuracy"
    with pytest.raises(ScenarioError, match=r"x = 'bits': test_accuracy is recorded at one bits .* accepted: round, "):
        compare([run], x="bits")
    with pytest.raises(ScenarioError, match=r"x = 'enrgy': no such axis; did you mean energy\? accepted: round, "):
        compare([run], x="enrgy")


def test_any_number_in_the_record_can_be_compared(run: Path) -> None:
    found = compare([run], y="train_loss")
    assert named(found, "rlc").final.mean == pytest.approx(0.2)
    assert named(found, "rlc").curves["round"].x[0] == 1.0
    with pytest.raises(ScenarioError, match=r"y = 'test_acuracy': not recorded; did you mean test_accuracy\?"):
        compare([run], y="test_acuracy")
    with pytest.raises(ScenarioError, match="y = 'devices': not recorded"):
        compare([run], y="devices")


def test_the_objective_gap_can_be_compared_and_a_target_is_reached_from_above(run: Path) -> None:
    for name, rate in (("rlc", 1), ("ideal", 2)):
        path = run / name / "rounds.jsonl"
        rows = [json.loads(text) for text in path.read_text().splitlines()]
        write_rounds(run / name, [row | {"objective_gap": 10.0 ** (-rate * row["round"] / 2)} for row in rows])
    found = compare([run], y="objective_gap", to=("objective_gap", 0.01))
    costs = [series.target.cost for series in found.series if series.target]
    assert costs == [Estimate(4.0, 0.0, 3), Estimate(2.0, 0.0, 3)]
    assert found.labels["objective_gap"] == "objective gap"
    assert readable_table(found)["objective gap"].tolist() == ["1e-05", "1e-10"]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train_objective", "training objective"),
        ("train_gradient_norm", "gradient norm"),
        ("train_loss", "training loss"),
    ],
)
def test_figures_are_called_what_the_field_calls_them(key: str, words: str) -> None:
    assert label(key) == words


def test_the_order_of_folders_changes_nothing_but_the_order(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, {"rlc": rising(slope)}) for name, slope in (("a", 0.05), ("b", 0.08))]
    one = compare(folders, baseline="a", to=("test_accuracy", 0.5))
    other = compare(folders[::-1], baseline="a", to=("test_accuracy", 0.5))
    for series in one.series:
        mirrored = named(other, series.name)
        assert (series.final, series.target, series.area) == (mirrored.final, mirrored.target, mirrored.area)
    assert one.pairs == other.pairs


def test_the_order_of_lines_changes_nothing(run: Path) -> None:
    before = compare([run])
    path = run / "rlc" / "rounds.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    after = compare([run])
    assert [replace(s, curves={}) for s in before.series] == [replace(s, curves={}) for s in after.series]


def test_cost_to_target_names_who_reached_it(run: Path) -> None:
    found = compare([run], x="energy", to=("test_accuracy", 0.602))
    rlc, ideal = (named(found, name).target for name in ("rlc", "ideal"))
    assert rlc is not None
    assert ideal is not None
    assert (rlc.reached, rlc.seeds, rlc.best) == (1, 3, pytest.approx(0.602))
    assert rlc.cost == Estimate(125.0, None, 1)
    assert ideal.reached == 3
    assert ideal.cost == Estimate(12.5 * 7, 0.0, 3)
    nobody = named(compare([run], to=("test_accuracy", 0.99)), "rlc").target
    assert nobody is not None
    assert (nobody.cost, nobody.reached) == (None, 0)
    assert compare([run], to=("train_loss", 0.25)).series[0].target == replace(
        nobody, cost=Estimate(8.0, 0.0, 3), reached=3, best=0.2
    )
    with pytest.raises(ScenarioError, match="to = 'accuracy': not recorded; did you mean test_accuracy"):
        compare([run], to=("accuracy", 0.9))
    with pytest.raises(ScenarioError, match="accepted: a finite number"):
        compare([run], to=("test_accuracy", float("nan")))


def test_pairs_are_against_the_baseline(run: Path) -> None:
    found = compare([run])
    assert (found.baseline, [pair.name for pair in found.pairs]) == ("rlc", ["ideal"])
    assert [series.is_baseline for series in found.series] == [True, False]
    other = compare([run], baseline="ideal")
    assert other.pairs[0].difference.mean == pytest.approx(-found.pairs[0].difference.mean)
    with pytest.raises(
        ScenarioError, match=r"baseline = 'idael': no such series; did you mean ideal\? accepted: rlc, "
    ):
        compare([run], baseline="idael")


def test_only_some_can_be_compared(run: Path) -> None:
    assert [s.name for s in compare([run], only=["ideal"]).series] == ["ideal"]
    with pytest.raises(ScenarioError, match=r"only = 'rcl': no such series; did you mean rlc\?"):
        compare([run], only=["rcl"])


def test_one_seed_has_no_band_and_says_so(tmp_path: Path) -> None:
    found = compare([write_run(tmp_path / "run", BOTH, seeds=[0])])
    assert found.notices == ("one seed: no band, no test; run with --seeds 5",)
    assert all(s.final.half_width is None and s.curves["round"].half_width is None for s in found.series)
    assert found.pairs[0].t_p is None


def test_unequal_budgets_are_labelled_unless_wanted(tmp_path: Path) -> None:
    variants = [{"name": "rlc"}, {"name": "double", "power_control": {"energy_per_round": 100.0}}]
    heights = {"rlc": rising(0.05), "double": rising(0.06)}
    folder = write_run(tmp_path / "run", heights, variants=variants)
    found = compare([folder])
    assert not found.equal
    assert [s.unequal for s in found.series] == [(), ("energy +100 %",)]
    wanted = compare([folder], unequal=True)
    assert not wanted.equal
    assert [s.unequal for s in wanted.series] == [(), ()]
    assert [s.budget.examples for s in found.series] == [1437, 1437]


def test_equal_budgets_are_equal(run: Path) -> None:
    found = compare([run], only=["rlc"])
    assert found.equal
    assert found.series[0].budget.channel_uses == 10 * round(0.25 * 650)


def test_energies_in_different_units_are_not_compared(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "plain", {"rlc": rising(0.05)})
    units = {"channel.units": "physical", "power_control.energy_per_round": 1e-6}
    physical = write_run(tmp_path / "physical", {"rlc": rising(0.05)}, changes=units, energy=1e-7)
    found = compare([plain, physical])
    assert "energy" not in found.axes
    assert all("energy" not in s.curves and s.unequal == () for s in found.series)
    assert any("their energies cannot be compared" in notice for notice in found.notices)
    with pytest.raises(ScenarioError, match=r"x = 'energy': some runs are in physical units"):
        compare([plain, physical], x="energy")
    assert compare([physical], x="energy").labels["energy"] == "energy per device (J)"


def test_runs_of_other_data_are_refused(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / name, {"rlc": rising(0.05)}, changes={"data.devices": devices})
        for name, devices in (("four", 4), ("five", 5))
    ]
    with pytest.raises(ScenarioError, match=r"data\.devices = 4 in four, 5 in five; accepted: runs of the same"):
        compare(folders)


def test_a_series_that_spends_nothing_is_left_out_of_that_axis(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", BOTH)
    write_rounds(folder / "ideal", lines("ideal", rising(0.08), seeds=(0, 1, 2), rounds=10, energy=0.0))
    found = compare([folder], x="energy", to=("test_accuracy", 0.5))
    ideal = named(found, "ideal")
    assert "energy" not in ideal.curves
    assert ideal.area is None
    assert ideal.target is not None
    assert ideal.target.cost == Estimate(0.0, 0.0, 3)
    assert any(n.startswith("ideal: not drawn over energy per device (normalised)") for n in found.notices)


def test_a_diverged_seed_is_left_out_and_named(tmp_path: Path) -> None:
    def falling(seed: int, number: int) -> float | None:
        return None if seed == 1 and number > 4 else 0.1 + 0.1 * number

    found = compare([write_run(tmp_path / "run", {"rlc": falling, "ideal": rising(0.08)})], to=("test_accuracy", 0.3))
    rlc = named(found, "rlc")
    assert rlc.final.n == rlc.curves["round"].seeds == 2
    assert rlc.target is not None
    assert (rlc.target.reached, rlc.target.seeds) == (2, 3)  # though seed 1 was there before it diverged
    assert found.pairs[0].difference.n == 2
    assert "rlc: seed 1 diverged (test accuracy not finite), left out" in found.notices


def test_unfinished_seeds_are_left_out_and_a_cut_line_is_named(run: Path) -> None:
    path = run / "rlc" / "rounds.jsonl"
    path.write_text(path.read_text()[:-500])
    found = compare([run])
    assert named(found, "rlc").seeds == (0, 1)
    assert any(n.endswith("rounds.jsonl: the last line is cut short") for n in found.notices)
    assert any(n.startswith("rlc: unfinished, left out (seed 2 at round ") for n in found.notices)


def test_a_run_that_goes_on_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", BOTH)
    write_rounds(folder / "rlc", lines("rlc", rising(0.05), seeds=[0], rounds=4))
    found = compare([folder])
    assert named(found, "rlc").final.mean == pytest.approx(0.3)
    assert "rlc: unfinished, compared as far as they go (seed 0 at round 4 of 10)" in found.notices


def test_a_strategy_that_stops_by_itself_has_finished(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", BOTH)
    write_rounds(folder / "rlc", lines("rlc", rising(0.05), seeds=[0], rounds=4))
    (folder / "rlc" / "model.safetensors").touch()
    found = compare([folder])
    assert named(found, "rlc").seeds == (0,)
    assert not any("unfinished" in notice for notice in found.notices)


def test_folders_that_hold_no_runs_are_refused(tmp_path: Path, run: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoRunHere, match="no run or sweep here; accepted: a run folder, a sweep folder, or a folder of"):
        compare([tmp_path / "empty"])
    with pytest.raises(NoRunHere, match="no such folder"):
        compare([tmp_path / "nowhere"])
    for rounds in run.rglob("rounds.jsonl"):
        rounds.unlink()
    with pytest.raises(ScenarioError, match="no round is recorded yet"):
        compare([run])
    write_rounds(run / "rlc", [{"variant": "rlc"}])
    with pytest.raises(RecordError, match="a line without seed and round"):
        compare([run])


def test_a_folder_of_runs_is_all_of_them(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_run(tmp_path / "study" / name, BOTH)
    found = compare([tmp_path / "study"])
    assert [s.name for s in found.series] == ["a: rlc", "a: ideal", "b: rlc", "b: ideal"]
    assert [source.name for source in found.sources] == ["a", "b"]
    assert found.sources[0].environment == {"versions": {"fedmac": "0.1.0"}}
    assert 'name = "small"' in found.sources[0].scenario
    assert "a folder was given twice: it counts once" in compare([tmp_path / "study", tmp_path / "study" / "a"]).notices


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place / "run", {"rlc": rising(0.05)}) for place in ("x", "y")]
    assert [s.name for s in compare(folders).series] == ["x/run", "y/run"]


RATIO: dict[str, list[Any]] = {"uplink.ratio": [0.25, 0.5], "training.learning_rate": [0.1, 0.2]}


def test_a_sweep_is_compared_cell_by_cell(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", RATIO, lambda settings: {"rlc": rising(0.1 * settings["uplink.ratio"])})
    found = compare([sweep])
    assert [s.name for s in found.series] == [
        "ratio=0.25, learning_rate=0.1",
        "ratio=0.25, learning_rate=0.2",
        "ratio=0.5, learning_rate=0.1",
        "ratio=0.5, learning_rate=0.2",
    ]
    assert found.series[2].settings == {"uplink.ratio": 0.5, "training.learning_rate": 0.1}
    assert found.series[2].seeds == (0, 1)
    assert found.series[2].unequal == ("channel uses +101 %",)
    assert found.baseline == "ratio=0.25, learning_rate=0.1"
    assert found.notices == ()


def test_in_a_sweep_of_variants_each_cell_has_its_own_baseline(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", {"uplink.ratio": [0.25, 0.5]}, lambda _: BOTH)
    found = compare([sweep])
    assert found.baseline == "rlc"
    assert [s.name for s in found.series if s.is_baseline] == ["ratio=0.25: rlc", "ratio=0.5: rlc"]
    against = {pair.name: pair.baseline for pair in found.pairs}
    assert against == {"ratio=0.25: ideal": "ratio=0.25: rlc", "ratio=0.5: ideal": "ratio=0.5: rlc"}
    differ = "budgets are measured within each cell; from cell to cell they differ (channel uses)"
    assert found.notices == (differ,)
    single = compare([sweep], baseline="ratio=0.5: ideal")
    assert single.notices == ()
    assert {series.unequal != () for series in single.series if "0.25" in series.name} == {True}
    assert {pair.baseline for pair in single.pairs} == {"ratio=0.5: ideal"}
    with pytest.raises(ScenarioError, match=r"baseline = 'ideal': ratio=0\.25: rlc has none beside it"):
        compare([sweep], only=["ratio=0.25: rlc", "ratio=0.5: ideal"], baseline="ideal")


def test_what_a_sweep_lacks_is_named(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", {"uplink.ratio": [0.25, 0.5]}, lambda _: {"rlc": rising(0.05)})
    cell = sweep / "cells" / "uplink.ratio=0.5"
    for path in sorted((cell / "seed-1").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (cell / "seed-1").rmdir()
    (cell / "seed-1.failed").write_text("killed by signal 9")
    found = compare([sweep])
    assert named(found, "ratio=0.5").seeds == (0,)
    assert "sweep: 1 of 4 runs failed: uplink.ratio=0.5 seed 1" in found.notices
    assert "ratio=0.5: one seed: no band, no test; run with --seeds 5" in found.notices


def test_swept_data_is_no_difference_between_folders(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep", {"data.devices": [3, 4]}, lambda _: {"rlc": rising(0.05)})
    run = write_run(tmp_path / "run", {"rlc": rising(0.05)})
    assert [s.name for s in compare([sweep, run]).series] == ["devices=3: rlc", "devices=4: rlc", "rlc"]


def test_pareto_front_over_costs_and_figures(run: Path) -> None:
    found = compare([run], x="energy", to=("test_accuracy", 0.5), pareto=["target", "test_accuracy", "train_loss"])
    assert found.pareto is not None
    assert found.pareto.best == ("low", "high", "low")
    assert found.pareto.points["on_front"].tolist() == [False, True]
    assert found.labels["target"] == "energy per device (normalised) to test accuracy 0.5"
    for columns in (["energy"], ["energy", "energy"], ["energy", "area", "round", "wall"]):
        with pytest.raises(ScenarioError, match="accepted: two or three different columns"):
            compare([run], pareto=columns)
    with pytest.raises(ScenarioError, match=r"pareto = 'enery': not recorded; did you mean energy\?"):
        compare([run], pareto=["enery", "area"])


def test_records_without_the_newer_costs_are_read(run: Path) -> None:
    for path in run.rglob("rounds.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        old = ("clock_s", "bits_per_device_mean", "training_examples")
        write_rounds(path.parent, [{k: v for k, v in row.items() if k not in old} for row in rows])
    found = compare([run])
    assert "clock" not in found.axes
    assert {s.budget.examples for s in found.series} == {None}
