"""The tables of a comparison, for programs, papers and terminals."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from fedmac.record import RecordError
from fedmac.studies.compare.comparison import Comparison, compare
from fedmac.studies.compare.tables import (
    curve_table,
    full_table,
    latex,
    markdown,
    readable_table,
    terminal_table,
    write_tables,
)
from tests.fedmac.recorded_runs import rising, write_run, write_sweep

NASTY = "50%_of & {x} $y$ #1 ~^ \\ |"
VARIANTS: list[dict[str, Any]] = [
    {"name": "rlc"},
    {"name": NASTY.rstrip("\\ |"), "power_control": {"energy_per_round": 65.5}},
]


@pytest.fixture
def found(tmp_path: Path) -> Comparison:
    """Two variants of unequal energy, of which one reaches the target."""
    heights = {"rlc": rising(0.05), VARIANTS[1]["name"]: rising(0.08)}
    folder = write_run(tmp_path / "run", heights, variants=VARIANTS)
    return compare([folder], x="energy", to=("test_accuracy", 0.7))


def shown(comparison: Comparison, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(terminal_table(comparison, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_full_table_keeps_every_digit(found: Comparison) -> None:
    row = full_table(found).iloc[0]
    series = found.series[0]
    assert (row["test_accuracy"], row["test_accuracy_low"], row["test_accuracy_high"]) == (
        series.final.mean,
        series.final.low,
        series.final.high,
    )
    assert (row["seeds"], row["target_reached"], row["budget_examples"]) == (3, 0, 1437)
    assert pd.isna(row["target_cost"])
    assert full_table(found)["unequal"].tolist() == ["", "energy +31 %"]


def test_readable_table_says_it_in_words(found: Comparison) -> None:
    table = readable_table(found)
    assert table["test accuracy"].tolist() == ["0.6010 ± 0.0025", "0.9010 ± 0.0025"]
    assert table["energy (normalised) to 0.7"].tolist() == ["not reached (best 0.602)", "100"]
    assert table["budget"].tolist() == ["equal", "unequal budget: energy +31 %"]


def test_latex_is_escaped_and_has_its_rules(found: Comparison) -> None:
    text = latex(found)
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"0.6010 $\pm$ 0.0025"):
        assert rule in text
    assert r"50\%\_of \& \{x\} \$y\$ \#1 \textasciitilde{}\textasciicircum{} &" in text
    table = text[text.index(r"\begin") :]
    assert table.count(r"\\") == 3
    between = len(readable_table(found).columns) - 1
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    assert {line.count("&") - line.count(r"\&") for line in rows} == {between}


def test_markdown_has_as_many_cells_in_every_row(found: Comparison) -> None:
    rows = [line for line in markdown(found).splitlines() if line.startswith("|")]
    assert len(rows) == 4
    assert {row.count("|") - row.count(r"\|") for row in rows} == {len(readable_table(found).columns) + 1}


@pytest.mark.parametrize("width", [80, 100, 160])
def test_terminal_table_fits_and_keeps_what_matters(found: Comparison, width: int) -> None:
    text = shown(found, width)
    assert max(map(len, text.splitlines())) <= width
    for word in ("rlc", "0.6010 ± 0.0025", "not reached", "unequal budget", "energy +31 %", "95 % confidence"):
        assert word in " ".join(text.split()) or word in text


def test_a_wide_terminal_shows_all_columns(found: Comparison) -> None:
    text = shown(found, 200)
    assert all(word in text for word in ("area", "channel", "clock", "seeds"))


def test_files_read_back_and_do_not_change(found: Comparison, tmp_path: Path) -> None:
    written = write_tables(found, tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "curves.parquet", "table.csv", "table.md", "table.parquet", "table.tex",
    ]  # fmt: skip
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_tables(found, tmp_path / "out")] == first
    assert sorted((tmp_path / "out").iterdir()) == sorted(written)
    full = full_table(found)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "table.parquet"), full)
    csv = pd.read_csv(tmp_path / "out" / "table.csv")
    assert csv["test_accuracy"].tolist() == full["test_accuracy"].tolist()


def test_curve_table_has_every_point_of_every_curve(found: Comparison) -> None:
    table = curve_table(found)
    assert len(table) == sum(len(curve.x) for series in found.series for curve in series.curves.values())
    energy = table[(table["series"] == "rlc") & (table["axis"] == "energy")]
    curve = found.series[0].curves["energy"]
    assert curve.half_width is not None
    assert energy["low"].tolist() == (curve.mean - curve.half_width).tolist()


def test_one_seed_has_empty_ends(tmp_path: Path) -> None:
    found = compare([write_run(tmp_path / "run", {"rlc": rising(0.05)}, seeds=[0])])
    assert full_table(found)[["test_accuracy_low", "test_accuracy_high"]].isna().all(axis=None)
    assert curve_table(found)["low"].isna().all()
    assert readable_table(found)["test accuracy"].tolist() == ["0.6"]
    assert "±" not in shown(found, 80)


def test_swept_keys_have_columns_of_their_own(tmp_path: Path) -> None:
    grid = {"training.learning_rate": [0.1, 1], "training.full_batch": [True]}
    found = compare([write_sweep(tmp_path / "sweep", grid, lambda _: {"rlc": rising(0.05), "ideal": rising(0.08)})])
    table = readable_table(found)
    assert list(table.columns[:4]) == ["training.learning_rate", "training.full_batch", "variant", "seeds"]
    assert table["training.full_batch"].tolist() == ["true"] * 4
    assert full_table(found)["training.learning_rate"].tolist() == [0.1, 0.1, 1.0, 1.0]
    assert max(map(len, shown(found, 80).splitlines())) <= 80


def test_values_of_several_kinds_are_written_as_text(tmp_path: Path) -> None:
    grid = {"uplink.kind": ["over-the-air"], "data.shuffle_seed": [0, 1], "training.learning_rate": [0.1]}
    found = compare([write_sweep(tmp_path / "sweep", grid, lambda _: {"rlc": rising(0.05)})])
    mixed = tuple(
        type(series)(**{**series.__dict__, "settings": {"key": value}})
        for series, value in zip(found.series, ("auto", 3), strict=True)
    )
    found = type(found)(**{**found.__dict__, "series": mixed})
    write_tables(found, tmp_path / "out")
    assert pd.read_parquet(tmp_path / "out" / "table.parquet")["key"].tolist() == ["auto", "3"]


def test_a_place_that_cannot_be_written_is_named(found: Comparison, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="file: cannot be written"):
        write_tables(found, tmp_path / "file")
