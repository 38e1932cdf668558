"""Cells and delay lines of TR 38.901: what the standard's formulas say, and gains that depend on nothing but names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import j0

from channel.propagation import SPEED_OF_LIGHT
from channel.three_gpp import ENVIRONMENTS, DelayLine, ThreeGPPCell, cell, seeding
from channel.three_gpp.drop import Site, draw
from channel.three_gpp.environments import base_height
from channel.three_gpp.frequency import subband_centres
from channel.three_gpp.seeding import sionna_seeded
from channel.three_gpp.walk import Area, Walk

pytest.importorskip("sionna", reason="3GPP channels need Sionna: pip install 'fedmac[3gpp]'")
Real = NDArray[np.float64]
DEVICES, SEED = 400, 3
RADII = {"umi": 1000.0, "uma": 600.0, "rma": 5000.0, "inh": None, "inf": None}


def cell_of(kind: str, **parameters: Any) -> ThreeGPPCell:
    """A wide cell, so that most devices are further apart than shadowing is correlated."""
    return ThreeGPPCell(kind, **({"cell_radius_m": RADII[kind]} | parameters))


@pytest.fixture(scope="module", params=list(ENVIRONMENTS))
def still(request: pytest.FixtureRequest) -> ThreeGPPCell:
    return cell_of(request.param, shadowing=False, speed_kmh=0.0)


def distances(source: ThreeGPPCell, devices: int = DEVICES) -> tuple[Real, Real]:
    flat = np.hypot(*source.positions(0, devices, SEED).T)
    height = base_height(source.kind, source.variant) - ENVIRONMENTS[source.kind].device_height
    return flat, np.hypot(flat, height)


def path_loss(kind: str, flat: Real, d: Real, sees: NDArray[np.bool_], f: float) -> Real:
    """Table 7.4.1-1, dB: f in GHz, devices at their standard height."""
    log = np.log10
    if kind == "inh":
        los = 32.4 + 17.3 * log(d) + 20 * log(f)
        return np.where(sees, los, np.maximum(los, 38.3 * log(d) + 17.3 + 24.9 * log(f)))
    if kind == "inf":  # sparse clutter, high base station
        los = 31.84 + 21.5 * log(d) + 19 * log(f)
        return np.where(sees, los, np.maximum(los, 32.4 + 23 * log(d) + 20 * log(f)))
    hbs, hut = ENVIRONMENTS[kind].base_height, 1.5
    if kind == "rma":
        h, w = 5.0, 20.0
        breakpoint_ = 2 * np.pi * hbs * hut * f * 1e9 / SPEED_OF_LIGHT

        def near(x: Any) -> Any:
            slope = min(0.03 * h**1.72, 10.0)
            return 20 * log(40 * np.pi * x * f / 3) + slope * log(x) - min(0.044 * h**1.72, 14.77) + 0.002 * log(h) * x

        los = np.where(flat < breakpoint_, near(d), near(breakpoint_) + 40 * log(d / breakpoint_))
        nlos = 161.04 - 7.1 * log(w) + 7.5 * log(h) - (24.37 - 3.7 * (h / hbs) ** 2) * log(hbs)
        nlos = nlos + (43.42 - 3.1 * log(hbs)) * (log(d) - 3) + 20 * log(f) - (3.2 * log(11.75 * hut) ** 2 - 4.97)
        return np.where(sees, los, np.maximum(los, nlos))
    start, slope, corner = {"umi": (32.4, 21.0, 9.5), "uma": (28.0, 22.0, 9.0)}[kind]
    breakpoint_ = 4 * (hbs - 1) * (hut - 1) * f * 1e9 / SPEED_OF_LIGHT
    far = start + 40 * log(d) + 20 * log(f) - corner * log(breakpoint_**2 + (hbs - hut) ** 2)
    los = np.where(flat < breakpoint_, start + slope * log(d) + 20 * log(f), far)
    nlos = {"umi": 35.3 * log(d) + 22.4 + 21.3 * log(f), "uma": 13.54 + 39.08 * log(d) + 20 * log(f)}[kind]
    return np.where(sees, los, np.maximum(los, nlos))


def sight_probability(kind: str, d: Real) -> Real:
    """Table 7.4.2-1."""
    if kind == "rma":
        return np.where(d <= 10, 1.0, np.exp(-(d - 10) / 1000))
    if kind == "inh":
        return np.where(d <= 5, 1.0, np.where(d <= 49, np.exp(-(d - 5) / 70.8), 0.54 * np.exp(-(d - 49) / 211.7)))
    if kind == "inf":  # clutter 10 m wide on a fifth of the floor, 2 m high; antennas at 8 and 1.5 m
        return np.exp(-d / (-10 / np.log(1 - 0.2) * (8 - 1.5) / (2 - 1.5)))
    reach = {"umi": 36, "uma": 63}[kind]
    return np.where(d <= 18, 1.0, 18 / d + np.exp(-d / reach) * (1 - 18 / d))


def test_mean_power_without_shadowing_is_the_path_loss_of_the_standard(still: ThreeGPPCell) -> None:
    sees = still.line_of_sight(0, DEVICES, SEED)
    assert 0.02 < sees.mean() < 0.98
    expected = path_loss(still.kind, *distances(still), sees, still.carrier_ghz)
    measured = -10 * np.log10(still.mean_power(0, DEVICES, SEED))
    np.testing.assert_allclose(measured, expected, atol=0.01)  # Sionna's float32


def test_a_factory_of_dense_clutter_and_a_mixed_office_have_their_own_formulas() -> None:
    factory = cell_of("inf", variant="DL", shadowing=False)
    sees = factory.line_of_sight(0, 100, SEED)
    _, d = distances(factory, 100)
    los, sparse, dense = 31.84 + 21.5 * np.log10(d), 33 + 25.5 * np.log10(d), 18.6 + 35.7 * np.log10(d)
    carrier = np.log10(factory.carrier_ghz)
    blocked = np.maximum(los + 19 * carrier, np.maximum(sparse, dense) + 20 * carrier)
    expected = np.where(sees, los + 19 * carrier, blocked)
    np.testing.assert_allclose(-10 * np.log10(factory.mean_power(0, 100, SEED)), expected, atol=0.01)  # float32
    open_office, mixed = (cell_of("inh", variant=name).line_of_sight(0, DEVICES, SEED) for name in ("open", "mixed"))
    assert open_office.mean() > mixed.mean() + 0.2  # on average 0.7 and 0.2 over the default floor


def test_line_of_sight_is_as_likely_as_the_standard_says(still: ThreeGPPCell) -> None:
    devices = 1000
    probability = sight_probability(still.kind, distances(still, devices)[0])
    sees = still.line_of_sight(0, devices, SEED)
    order = np.argsort(probability)
    for half in (order[: devices // 2], order[devices // 2 :]):
        spread = np.sqrt(np.sum(probability[half] * (1 - probability[half])))
        assert abs(np.sum(sees[half] - probability[half])) < 4 * spread + 1e-9  # 4 standard deviations


@pytest.mark.parametrize(("kind", "los", "nlos"), [("umi", 4.0, 7.82), ("uma", 4.0, 6.0), ("rma", None, 8.0)])
def test_shadowing_has_the_standard_deviation_of_its_state(kind: str, los: float | None, nlos: float) -> None:
    shadowed, plain = cell_of(kind), cell_of(kind, shadowing=False)
    loss = 10 * np.log10(plain.mean_power(0, DEVICES, SEED) / shadowed.mean_power(0, DEVICES, SEED))
    sees = shadowed.line_of_sight(0, DEVICES, SEED)
    np.testing.assert_array_equal(sees, plain.line_of_sight(0, DEVICES, SEED))
    for state, expected in ((sees, los), (~sees, nlos)):
        if expected is not None and state.sum() > 20:
            # 4 standard deviations of a standard deviation, and 10 % for neighbours that are correlated
            assert np.std(loss[state]) == pytest.approx(expected, rel=4 / np.sqrt(2 * state.sum()) + 0.1)


def test_tables_of_this_project_agree_with_those_of_sionna() -> None:
    from sionna.phy.channel.tr38901 import models

    files = {"umi": "UMi", "uma": "UMa", "rma": "RMa", "inh": "InH", "inf": "InF"}
    for kind, file in files.items():
        reach = [
            models.load_json(models.parameter_file(f"{file}_{state}.json", "19.2"))["corrDistSF"]
            for state in ("LoS", "NLoS")
        ]
        assert ENVIRONMENTS[kind].correlation_distance == min(reach)


@pytest.mark.parametrize("kind", ["umi", "inf"])
def test_response_is_what_sionnas_own_generator_gives(kind: str) -> None:
    """Steps 10 to 12 and the frequency response, by Sionna from the same rays and phases, at three times."""
    from sionna.phy.channel import cir_to_ofdm_channel, tr38901

    devices, antennas, interval, carrier = 40, 6, 0.01, 3.5e9
    rng = np.random.default_rng(0)
    hall = (300.0, 150.0, 10.0) if kind == "inf" else None
    site = Site(kind, "SH" if kind == "inf" else None, carrier, 1.5, hall, "low", True)
    points, velocities = rng.uniform(15, 60, (devices, 2)), rng.normal(0, 2, (devices, 2))
    indoors = rng.random(devices) < 0.3 if kind == "umi" else np.zeros(devices, dtype=np.bool_)
    rays_here = draw(site, points, velocities, indoors, key=5).rays
    phases = rng.uniform(-np.pi, np.pi, rays_here.doppler.shape)
    frequencies = subband_centres(20e6, 4)

    def array(rows: int, columns: int) -> Any:
        return tr38901.PanelArray(
            num_rows_per_panel=rows,
            num_cols_per_panel=columns,
            polarization="single",
            polarization_type="V",
            antenna_pattern="omni",
            carrier_frequency=carrier,
            device="cpu",
        )

    base, device = array(2, 3), array(1, 1)
    with sionna_seeded(5):
        radio = {"ut_array": device, "bs_array": base, "direction": "downlink", "device": "cpu"}
        scenario = tr38901.UMiScenario(carrier, "low", **radio) if hall is None else None
        scenario = scenario or tr38901.InFScenario(carrier, "SH", **radio)

        def flat(values: Real, height: float) -> torch.Tensor:
            return torch.tensor(np.hstack([values, np.full((devices, 1), height)]), dtype=torch.float32)[None]

        scenario.set_topology(
            flat(points, 1.5),
            torch.tensor([[[0.0, 0.0, base_height(kind, site.variant)]]]),
            torch.zeros(1, devices, 3),
            torch.zeros(1, 1, 3),
            flat(velocities, 0.0),
            torch.from_numpy(indoors)[None] if hall is None else torch.ones(1, devices, dtype=torch.bool),
        )
        states, clusters = tr38901.LSPGenerator(scenario), tr38901.RaysGenerator(scenario)
        states.topology_updated_callback()
        clusters.topology_updated_callback()
        state = states()
        rays = clusters(state)
    rays.phases = torch.zeros(*phases.shape, 4)[None, None]
    rays.phases[0, 0, ..., 0] = torch.from_numpy(phases)
    angles = [torch.deg2rad(getattr(scenario, f"los_{angle}")) for angle in ("aoa", "aod", "zoa", "zod")]
    topology = tr38901.Topology(
        scenario.ut_velocities,
        "rx",
        *angles,
        scenario.los,
        scenario.distance_3d,
        scenario.bs_orientations,
        scenario.ut_orientations,
    )
    make = tr38901.ChannelCoefficientsGenerator(carrier, base, device, subclustering=True, device="cpu")
    paths, delays = make(3, 1 / interval, state.k_factor, rays, topology, scenario.get_param("cDS") * 1e-9)
    paths, delays = paths.permute(0, 2, 4, 1, 5, 3, 6), delays.permute(0, 2, 1, 3)
    theirs = cir_to_ofdm_channel(torch.tensor(frequencies, dtype=torch.float32), paths, delays)[0, :, 0, 0].numpy()
    gain = torch.sqrt(10 ** (-state.pathloss / 10) * state.sf)[0, 0].numpy()
    # Sionna counts antennas column by column from above; here they go row by row from below.
    order = [antenna_of(place, base) for place in range(antennas)]
    for step in range(3):
        ours = rays_here.response(phases, step * interval, frequencies, antennas)
        expected = np.moveaxis(theirs[:, :, step], 2, 0)[:, :, order] * gain[None, :, None]
        scale = np.sqrt(rays_here.power)[None, :, None]
        np.testing.assert_allclose(ours / scale, expected / scale, atol=5e-3)  # Sionna's float32 phases over km


def antenna_of(place: int, array: Any) -> int:
    """Sionna's number of the antenna that is our `place`-th of a 2 x 3 panel."""
    row, column = divmod(place, 3)
    spacing = SPEED_OF_LIGHT / 3.5e9 / 2
    wanted = np.array([0.0, (column - 1) * spacing, (row - 0.5) * spacing])
    return int(np.argmin(np.linalg.norm(array.ant_pos.numpy() - wanted, axis=1)))


@pytest.mark.parametrize("kind", ["umi", "rma", "inh"])
def test_fast_fading_has_unit_mean_around_the_mean_power(kind: str) -> None:
    source, count = cell_of(kind), 30
    power = np.mean([np.abs(h) ** 2 for h in source.sample(count, DEVICES, 1, 4, SEED)], axis=0)[0]
    relative = power / source.mean_power(0, DEVICES, SEED)[:, None]
    # |h|^2 / beta has a variance of 1 at most: 4 standard deviations; -25 dB clusters are left out (7.5 step 6)
    assert np.mean(relative, axis=0) == pytest.approx(np.ones(4), abs=4 / np.sqrt(DEVICES * count) + 5e-3)
    assert np.std(relative) > 0.05


def test_buildings_cost_the_penetration_loss_of_the_standard() -> None:
    outside = cell_of("umi", shadowing=False, speed_kmh=0.0)
    within = cell_of("umi", shadowing=False, speed_kmh=0.0, indoor_share=1.0)
    assert within.indoors(DEVICES, SEED).all()
    assert not outside.indoors(DEVICES, SEED).any()
    assert not within.line_of_sight(0, DEVICES, SEED).any()
    loss = -10 * np.log10(within.mean_power(0, DEVICES, SEED))
    flat, d = distances(within)
    least, most = (path_loss("umi", flat, d, np.full(DEVICES, sees), 3.5) for sees in (True, False))
    # table 7.4.3-3, below 6 GHz: 20 dB of wall and half a dB a metre of 0 to 25 m; float32
    assert (loss > least + 20 - 0.01).all()
    assert (loss < most + 20 + 12.5 + 0.01).all()


def test_a_still_channel_is_the_same_in_every_round() -> None:
    for source in (cell_of("umi", speed_kmh=0.0), DelayLine("tdl", speed_kmh=0.0), DelayLine("cdl", speed_kmh=0.0)):
        np.testing.assert_array_equal(source.response(0, 20, 2, 2, SEED), source.response(40, 20, 2, 2, SEED))


def test_gains_of_one_round_and_the_next_are_less_alike_the_faster_devices_are() -> None:
    alike = []
    for speed in (0.3, 3.0, 12.0):  # 0.001, 0.01 and 0.04 wavelengths and more a round
        source = cell_of("umi", speed_kmh=speed, round_s=0.01)
        unit = np.sqrt(source.mean_power(0, DEVICES, SEED))
        first, second = (source.coefficients(t, DEVICES, SEED) / unit for t in (0, 1))
        alike.append(np.abs(np.vdot(first, second)) / np.vdot(first, first).real)
    assert alike[0] > 0.99
    assert alike[0] > alike[1] > alike[2]


def test_a_large_scale_state_holds_for_an_epoch_of_rounds() -> None:
    source = cell_of("umi", speed_kmh=3.6, round_s=2.5)
    assert source.rounds_per_epoch == 4  # 10 m at 2.5 m a round
    powers = [source.mean_power(t, 50, SEED) for t in range(5)]
    for power in powers[1:4]:
        np.testing.assert_array_equal(power, powers[0])
    assert (powers[4] != powers[0]).all()
    steps = np.linalg.norm(source.positions(4, 50, SEED) - source.positions(0, 50, SEED), axis=1)
    assert steps.max() <= 10.0 + 1e-9
    assert np.median(steps) == pytest.approx(10.0)


@pytest.mark.parametrize("source", [cell_of("umi", round_s=6.0), DelayLine("tdl"), DelayLine("cdl")], ids=repr)
def test_a_round_does_not_depend_on_what_was_asked_before(source: Any) -> None:
    wanted = {t: source.response(t, 12, 3, 2, SEED) for t in (0, 1, 2, 5)}
    for t in (5, 1, 1, 2, 0):
        source.response(3, 12, 3, 2, SEED + 1)[:] = 0.0
        np.testing.assert_array_equal(source.response(t, 12, 3, 2, SEED), wanted[t])
    assert not np.allclose(wanted[0], source.response(0, 12, 3, 2, SEED + 1))


def test_a_fresh_process_draws_the_same_gains() -> None:
    code = (
        "from channel.three_gpp import ThreeGPPCell as C; import torch\n"
        "torch.set_num_threads(1); torch.manual_seed(99)\n"
        "print(*C('uma', speed_kmh=30.0).response(2, 9, 2, 1, 3).view(float).ravel().tolist())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = ThreeGPPCell("uma", speed_kmh=30.0).response(2, 9, 2, 1, 3).view(float).ravel()
    np.testing.assert_allclose(np.array(found.stdout.split(), dtype=float), here, rtol=1e-9)


def test_nothing_random_and_no_setting_is_changed_elsewhere() -> None:
    from sionna.phy import config

    torch.manual_seed(4)
    before = torch.get_rng_state(), config.torch_rng("cpu").get_state(), np.random.get_state()[1].copy()
    settings_before = config.device, config.precision, torch.get_default_dtype(), config.seed
    cell_of("umi").response(0, 10, 1, 1, SEED)
    DelayLine("cdl").response(1, 10, 1, 2, SEED)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(config.torch_rng("cpu").get_state(), before[1])
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])
    assert (config.device, config.precision, torch.get_default_dtype(), config.seed) == settings_before


def test_many_devices_are_drawn_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell, "TOGETHER", 30)
    source = cell_of("umi", shadowing=False)
    assert source.response(0, 100, 2, 3, SEED).shape == (2, 100, 3)
    flat, d = (values[:100] for values in distances(source, 100))
    expected = path_loss("umi", flat, d, source.line_of_sight(0, 100, SEED), 3.5)
    np.testing.assert_allclose(-10 * np.log10(source.mean_power(0, 100, SEED)), expected, atol=0.01)


@pytest.mark.parametrize("model", ["A", "C", "D"])
def test_tapped_delay_line_correlates_over_frequency_as_its_profile_says(model: str) -> None:
    from sionna.phy.channel.tr38901 import TDL

    spread, bandwidth, subbands, devices = 3e-7, 4e6, 5, 4000
    profile = TDL(model, spread, 3.5e9, device="cpu")
    powers, delays = profile.mean_powers.numpy(), profile.delays.numpy()
    assert powers.sum() == pytest.approx(1.0, abs=1e-5)
    line = DelayLine("tdl", model, delay_spread_s=spread, bandwidth_hz=bandwidth)
    gains = line.response(0, devices, subbands, 1, SEED)[:, :, 0]
    for band in range(subbands):
        expected = np.sum(powers * np.exp(-2j * np.pi * band * bandwidth / subbands * delays))
        assert np.mean(gains[band] * gains[0].conj()) == pytest.approx(expected, abs=4 / np.sqrt(devices))  # 4 sd


def test_tapped_delay_line_forgets_as_jakes_says() -> None:
    line = DelayLine("tdl", "B", speed_kmh=36.0, round_s=1e-3, carrier_ghz=3.0)
    first = line.coefficients(0, 4000, SEED)
    for lag in (1, 3, 6):
        doppler = 10.0 * 3.0e9 / SPEED_OF_LIGHT
        correlation = np.mean(line.coefficients(lag, 4000, SEED) * first.conj())
        assert correlation == pytest.approx(j0(2 * np.pi * doppler * lag * 1e-3), abs=4 / np.sqrt(4000))  # 4 sd


@pytest.mark.parametrize("model", ["A", "D"])
def test_clustered_delay_line_correlates_antennas_as_its_angles_say(model: str) -> None:
    from sionna.phy.channel.tr38901 import models

    devices = 1500
    gains = DelayLine("cdl", model).response(0, devices, 1, 4, SEED)[0]
    error = 4 / np.sqrt(devices)  # 4 standard deviations of a mean of unit-power products
    assert np.mean(np.abs(gains) ** 2, axis=0) == pytest.approx(np.ones(4), abs=error)
    # Antennas 0 and 1 are one above the other, half a wavelength apart: their phases differ by pi cos(zenith).
    table = models.load_json(models.parameter_file(f"CDL-{model}.json", "19.2"))
    powers = 10 ** (np.array(table["powers"]) / 10)
    halves = [0.0447, 0.1413, 0.2492, 0.3715, 0.5129, 0.6797, 0.8844, 1.1481, 1.5195, 2.1551]  # table 7.5-3
    offsets = table["cZSD"] * np.array(halves + [-half for half in halves])
    zenith = np.array(table["zod"])[:, None] + offsets
    if table["los"]:
        zenith[0] = table["zod"][0]
    expected = powers / powers.sum() @ np.exp(1j * np.pi * np.cos(np.deg2rad(zenith))).mean(axis=1)
    assert np.mean(gains[:, 0] * gains[:, 1].conj()) == pytest.approx(expected, abs=error)


def test_narrower_subbands_of_a_cell_are_more_alike() -> None:
    source = cell_of("uma", bandwidth_hz=20e6)
    gains = source.response(0, DEVICES, 64, 1, SEED)[:, :, 0] / np.sqrt(source.mean_power(0, DEVICES, SEED))
    alike = [np.abs(np.vdot(gains[0], gains[band])) for band in (1, 8, 63)]
    assert alike[0] > alike[1] > alike[2]


def test_antennas_of_a_device_in_sight_see_nearly_the_same_size() -> None:
    source = cell_of("inf")
    gains, sees = source.response(0, DEVICES, 1, 4, SEED)[0], source.line_of_sight(0, DEVICES, SEED)
    size = np.abs(gains) / np.sqrt(source.mean_power(0, DEVICES, SEED))[:, None]
    spread = np.std(size, axis=1)
    assert np.median(spread[sees]) < np.median(spread[~sees])


AREAS = [Area(10.0, radius=100.0), Area(1.0, sides=(120.0, 50.0)), Area(0.0, radius=30.0)]


@pytest.mark.parametrize("area", AREAS, ids=repr)
@given(seconds=st.floats(0.0, 1e5), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_walkers_stay_in_their_area(area: Area, seconds: float, seed: int) -> None:
    points, velocities = Walk(area, 1.5).at(seconds, 40, seed)
    away = np.hypot(*points.T)
    assert (away >= area.minimum_distance - 1e-6).all()
    if area.radius is not None:
        assert (away <= area.radius + 1e-6).all()
    else:
        assert (np.abs(points) <= np.asarray(area.sides) / 2 + 1e-6).all()
    np.testing.assert_allclose(np.hypot(*velocities.T), 1.5)


@pytest.mark.parametrize("area", AREAS, ids=repr)
def test_walkers_move_at_their_velocity_and_stay_spread_evenly(area: Area) -> None:
    walk, devices = Walk(area, 1.5), 4000
    (start, velocity), (later, _) = walk.at(500.0, devices, 1), walk.at(500.01, devices, 1)
    straight = np.linalg.norm(later - start - 0.01 * velocity, axis=1) < 1e-9
    assert straight.mean() > 0.98  # the others turned round at the end of their street
    first = walk.at(0.0, devices, 1)[0]
    for points in (first, start):
        # Means of squares of an even spread, by axis, over the whole area less what is left out; 5 sd.
        squares = points**2
        if area.radius is not None:
            expected = np.full(2, (area.radius**2 + area.minimum_distance**2) / 4)
        else:
            expected = np.asarray(area.sides) ** 2 / 12
        np.testing.assert_allclose(squares.mean(axis=0), expected, rtol=5 / np.sqrt(devices))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "umx"}, "kind is 'umx'; accepted: umi, uma, rma, inh, inf"),
        ({"kind": "uma", "cell_radius_m": 35.0}, "cell_radius_m is 35.0.*more than minimum_distance_m = 35.0"),
        ({"kind": "umi", "cell_radius_m": 9000.0}, "cell_radius_m is 9000.0.*up to 5000 m"),
        ({"kind": "umi", "cell_radius_m": float("nan")}, "cell_radius_m is nan"),
        ({"kind": "umi", "minimum_distance_m": 1.0}, "minimum_distance_m is 1.0; accepted: 10 to 5000"),
        ({"carrier_ghz": 0.4}, "carrier_ghz is 0.4; accepted: 0.5 to 100"),
        ({"kind": "rma", "carrier_ghz": 40.0}, "carrier_ghz is 40.0; accepted: 0.5 to 30"),
        ({"speed_kmh": -1.0}, "speed_kmh is -1.0; accepted: 0 to 1000"),
        ({"round_s": 0.0}, "round_s is 0.0; accepted: a finite number > 0"),
        ({"bandwidth_hz": float("inf")}, "bandwidth_hz is inf"),
        ({"indoor_share": 1.2}, "indoor_share is 1.2; accepted: 0 to 1"),
        ({"kind": "inh", "indoor_share": 0.5}, "indoor_share is 0.5; accepted: 0 to 0"),
        ({"kind": "inh", "cell_radius_m": 50.0}, "cell_radius_m is 50.0; accepted for inh: none"),
        ({"kind": "inf", "hall_m": (10.0, 0.0, 5.0)}, r"hall_m is \(10.0, 0.0, 5.0\); accepted: length"),
        ({"kind": "umi", "hall_m": (10.0, 10.0, 5.0)}, "hall_m is .*; accepted for umi: none"),
        ({"kind": "inf", "variant": "XX"}, "variant is 'XX'; accepted for inf: SH, DH, SL, DL"),
        ({"kind": "rma", "o2i_model": "high"}, "o2i_model is 'high'; accepted for rma: low"),
    ],
)
def test_a_cell_refuses_what_the_standard_does_not_cover(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreeGPPCell(**parameters)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "sdl"}, "kind is 'sdl'; accepted: tdl, cdl"),
        ({"model": "F"}, "model is 'F'; accepted: A, B, C, D, E"),
        ({"delay_spread_s": -1e-9}, "delay_spread_s is -1e-09"),
        ({"carrier_ghz": 101.0}, "carrier_ghz is 101.0; accepted: 0.5 to 100"),
        ({"speed_kmh": float("nan")}, "speed_kmh is nan; accepted: 0 to 1000"),
        ({"round_s": -1.0}, "round_s is -1.0"),
    ],
)
def test_a_delay_line_refuses_what_it_has_no_model_of(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DelayLine(**parameters)


def test_without_sionna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'fedmac\[3gpp\]'"):
        ThreeGPPCell("umi")
    with pytest.raises(ImportError, match=r"pip install 'fedmac\[3gpp\]'"):
        DelayLine("tdl")
