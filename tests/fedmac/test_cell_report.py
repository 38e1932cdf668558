"""Where devices are: placed by the channel, recorded once a run, and shown with who was heard and what it cost."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import fedmac as product
from channel.channel import Channel
from channel.propagation import around_receiver, uniform_disc
from fedmac.build_channel import build_channel
from fedmac.report import write_report
from fedmac.report.cell_figures import RINGS, distance_figure
from fedmac.report.folder import read_run
from fedmac.report.placement import noise_level_db, placement_tables
from fedmac.scenario import Scenario
from tests.fedmac.report_pages import body, decoded, views
from tests.fedmac.small_scenario import small
from tests.fedmac.synthetic_cells import placed_rows
from tests.fedmac.synthetic_runs import write_run

ROOT = Path(__file__).resolve().parents[2]
DISC: dict[str, Any] = {
    "channel": {
        "units": "physical",
        "tx_power_dbm": 10.0,
        "path_loss": "log-distance",
        "cell_radius_m": 300.0,
        "shadowing_db": 6.0,
    },
    "power_control": {"name": "truncated-inversion", "threshold": 1e-9},
}


def rounds_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def on_map(page: str) -> list[dict[str, Any]]:
    """The traces of the first map, less those that stand in the legend only."""
    return [trace for trace in views(page, "cell-map")[0]["data"] if trace.get("hoverinfo") != "skip"]


def test_directions_are_uniform_and_leave_distances_as_they_were() -> None:
    distances = uniform_disc(4000, 100.0, 10.0, seed=3)
    places = around_receiver(distances, seed=3)
    np.testing.assert_allclose(np.hypot(*places.T), distances, rtol=1e-12)
    # A mean of 4,000 unit vectors has a standard deviation of .011 in each coordinate.
    assert np.abs((places / distances[:, None]).mean(axis=0)).max() < 0.05
    assert not np.array_equal(places, around_receiver(distances, seed=4))


def test_path_loss_places_devices_at_the_distances_that_its_gains_come_from() -> None:
    scenario = Scenario.load(small(**DISC))
    channel = build_channel(scenario, seed=5)
    places = channel.positions(0, 4, 5)
    assert places is not None
    np.testing.assert_allclose(np.hypot(*places.T), uniform_disc(4, 300.0, 1.0, 5), rtol=1e-12)
    np.testing.assert_array_equal(channel.mean_power(0, 4, 5), channel.power_gain)
    assert channel.fading.line_of_sight(0, 4, 5) is None


def test_a_channel_without_places_has_no_positions() -> None:
    assert Channel().positions(0, 3, 0) is None


def test_places_of_another_number_of_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"places has shape \(2, 2\); accepted: \(3, 2\)"):
        Channel(places=np.zeros((2, 2))).positions(0, 3, 0)


def test_the_record_says_once_a_seed_where_devices_are(tmp_path: Path) -> None:
    product.run(small(seeds=2, **DISC), out=tmp_path / "run")
    rows = rounds_of(tmp_path / "run")
    placed = [(row["seed"], row["round"]) for row in rows if "placement" in row]
    assert placed == [(0, 0), (1, 0)]
    for row in rows:
        if "placement" in row:
            placement, distances = row["placement"], uniform_disc(4, 300.0, 1.0, row["seed"])
            np.testing.assert_allclose(np.hypot(placement["x_m"], placement["y_m"]), distances, rtol=1e-12)
            assert placement["line_of_sight"] is None
    page = body(tmp_path / "run" / "report.html")
    assert [trace["name"] for trace in on_map(page)] == ["device", "base station"]


def test_a_run_without_places_has_no_cell_in_its_report(tmp_path: Path) -> None:
    product.run(small(), out=tmp_path / "run")
    assert "placement" not in rounds_of(tmp_path / "run")[0]
    assert "The cell" not in body(tmp_path / "run" / "report.html")


def test_what_became_of_each_device_stands_beside_where_it_is(tmp_path: Path) -> None:
    record = read_run(write_run(tmp_path, [placed_rows(6, [True, False] * 3)]))
    table = placement_tables(record.rounds)["rlc"]
    np.testing.assert_allclose(table["distance_m"], np.arange(1.0, 7.0))
    np.testing.assert_array_equal(table["line_of_sight"], [1, 0] * 3)
    np.testing.assert_array_equal(table["heard"], [0, 1, 1, 1, 1, 1])
    first = record.rounds[(record.rounds["seed"] == 0) & (record.rounds["round"] > 0)]
    np.testing.assert_allclose(table["energy"], np.sum(list(first["energies"]), axis=0))


def test_lists_that_are_not_as_long_as_each_other_are_refused(tmp_path: Path) -> None:
    rows = placed_rows(4, [True] * 3)
    with pytest.raises(ValueError, match="'line_of_sight': 3"):
        placement_tables(read_run(write_run(tmp_path, [rows])).rounds)


def test_the_map_marks_sight_and_silence(tmp_path: Path) -> None:
    page = body(write_report(write_run(tmp_path, [placed_rows(6, [True, True, False, False, False, False])])))
    near, far, station = on_map(page)
    assert [near["name"], far["name"], station["name"]] == ["line of sight", "no line of sight", "base station"]
    # Device 0 is never heard.
    assert near["marker"]["symbol"] == ["circle-open", "circle"]
    assert far["marker"]["symbol"] == ["diamond"] * 4
    np.testing.assert_array_equal(decoded(near["customdata"])[:, 0], [0, 1])
    assert (station["x"], station["y"]) == ([0], [0])


def test_gains_are_drawn_as_their_distribution_with_the_noise(tmp_path: Path) -> None:
    record = read_run(write_run(tmp_path, [placed_rows(6, [True] * 3 + [False] * 3)]))
    first = record.rounds[(record.rounds["seed"] == 0) & (record.rounds["round"] > 0)]
    gains = 20 * np.log10(np.concatenate(list(first["gains"])))
    (figure,) = views(body(write_report(tmp_path)), "cell-gains")
    traces = {trace["name"]: trace for trace in figure["data"]}
    assert list(traces) == ["all devices", "line of sight", "no line of sight"]
    levels, shares = decoded(traces["all devices"]["x"]), decoded(traces["all devices"]["y"])
    # float32 on the page: seven digits, and at a jump of the distribution either side is right.
    at_most = (gains[:, None] <= levels + 1e-4).mean(axis=0)
    below = (gains[:, None] < levels - 1e-4).mean(axis=0)
    step = 1.5 / len(gains)
    assert (below - step <= shares).all()
    assert (shares <= at_most + step).all()
    # The limit is 1 and the noise a thousandth: as strong as the noise at -30 dB.
    assert noise_level_db(record.rounds, "rlc") == pytest.approx(-30.0)
    assert figure["layout"]["shapes"][0]["x0"] == pytest.approx(-30.0)


def test_rings_of_as_many_devices_have_the_mean_of_all_devices() -> None:
    generator = np.random.default_rng(0)
    table = pd.DataFrame({"distance_m": generator.uniform(10, 100, 50), "heard": generator.random(50)})
    points, rings = distance_figure({"a": table}, "heard", "share", "%{y}").data
    assert len(points.x) == 50
    assert len(rings.y) == RINGS
    assert (np.diff(rings.x) > 0).all()
    assert np.mean(rings.y) == pytest.approx(table["heard"].mean(), rel=1e-6)  # float32


def test_variants_with_the_same_gains_share_a_view(tmp_path: Path) -> None:
    one, other = placed_rows(4, None), placed_rows(4, None)
    for row in other:
        row["variant"] = "other"
    page = body(write_report(write_run(tmp_path, [one, other])))
    assert len(views(page, "cell-gains")) == 1
    assert len(views(page, "cell-map")) == 2


def test_a_device_out_of_reach_is_on_the_map_without_a_gain(tmp_path: Path) -> None:
    rows = placed_rows(4, None)
    for row in rows:
        if "placement" in row:
            row["placement"]["mean_gain_db"][2] = None
    devices, _ = on_map(body(write_report(write_run(tmp_path, [rows]))))
    assert np.isnan(decoded(devices["marker"]["color"])).sum() == 1


def test_the_cell_of_a_thousand_devices_stays_light(tmp_path: Path) -> None:
    folder = write_run(tmp_path, [placed_rows(1000, [True, False] * 500)])
    page = body(write_report(folder))
    parts = [json.dumps(views(page, f"cell-{name}")) for name in ("map", "gains", "heard", "energy")]
    assert sum(map(len, parts)) < 250_000


def small_city(**changes: Any) -> dict[str, Any]:
    """The scenario as it is, on eight phones and 64 pixels."""
    scenario = tomllib.loads((ROOT / "scenarios/city_cell.toml").read_text(encoding="utf-8"))
    scenario["data"] |= {"source": "digits", "devices": 8}
    scenario["uplink"]["uses"] = 65
    for variant in scenario["variants"]:
        variant.pop("rounds", None)
    return scenario | {"rounds": 2, "engine": {"workers": 1}} | changes


def test_the_city_cell_runs_and_its_report_has_a_map_of_the_standards_cell(tmp_path: Path) -> None:
    pytest.importorskip("sionna", reason="a 3GPP cell needs Sionna: pip install 'fedmac[3gpp]'")
    product.run(small_city(), out=tmp_path / "run")
    scenario = Scenario.load(small_city()).resolve()[1].scenario
    channel = build_channel(scenario, seed=0)
    placement = rounds_of(tmp_path / "run" / "minimum-mse")[0]["placement"]
    positions = channel.positions(0, 8, 0)
    assert positions is not None
    np.testing.assert_array_equal(np.column_stack([placement["x_m"], placement["y_m"]]), positions)
    assert np.hypot(*positions.T).max() <= 200 / np.sqrt(3)  # the standard's radius of a cell
    sees: NDArray[np.bool_] | None = channel.fading.line_of_sight(0, 8, 0)
    assert sees is not None
    assert placement["line_of_sight"] == sees.tolist()
    np.testing.assert_allclose(placement["mean_gain_db"], 10 * np.log10(channel.mean_power(0, 8, 0)), rtol=1e-12)
    page = body(tmp_path / "run" / "report.html")
    names = ("ideal", "minimum-mse", "truncated-inversion", "channel-inversion", "packets")
    assert len(views(page, "cell-map")) == len(names)
    heard = {trace["name"] for trace in views(page, "cell-heard")[0]["data"]}
    assert heard == set(names)
    # A perfect link is granted the limit on every device; inversion brings all down to what the weakest can do.
    spent = {name: rounds_of(tmp_path / "run" / name)[-1]["energy_j_per_device_mean"] for name in names}
    assert spent["channel-inversion"] < spent["minimum-mse"] <= spent["ideal"] * 2
