"""Large-scale states and rays of devices at given places, drawn by Sionna: steps 1 to 9 of TR 38.901 clause 7.5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from channel.propagation import SPEED_OF_LIGHT
from channel.three_gpp.environments import base_height
from channel.three_gpp.rays import RayBundle
from channel.three_gpp.seeding import sionna_seeded

Real = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Site:
    """What a base station's surroundings are made of.

    Attributes
    ----------
    kind, variant : str, str or None
        Of :data:`~channel.three_gpp.environments.ENVIRONMENTS`.
    carrier_hz : float
        Carrier frequency, Hz.
    device_height : float
        m.
    hall : tuple of float or None
        Length, width, height of a factory hall, m.
    penetration : str
        "low" or "high" loss into buildings.
    shadowing : bool
        Whether there is any.
    """

    kind: str
    variant: str | None
    carrier_hz: float
    device_height: float
    hall: tuple[float, float, float] | None
    penetration: str
    shadowing: bool


@dataclass(frozen=True)
class Drop:
    """One large-scale state of N devices.

    Attributes
    ----------
    line_of_sight : ndarray of bool, shape (N,)
        Whether a device sees the base station; one indoors in a street does not.
    rays : RayBundle
        What its signal travels along.
    """

    line_of_sight: Bools
    rays: RayBundle


def draw(site: Site, points: Real, velocities: Real, indoors: Bools, key: int) -> Drop:
    """Line of sight, path loss, shadowing, delay and angle spreads, clusters and rays.

    Large-scale parameters of devices near each other are correlated as clause 7.5 step 4 has it, by matrices of N x N.

    Parameters
    ----------
    site : Site
        The surroundings.
    points, velocities : ndarray, shape (N, 2)
        In the plane with the base station at 0, m and m/s.
    indoors : ndarray of bool, shape (N,)
        Who is in a building.
    key : int
        For Sionna's generator.
    """
    with sionna_seeded(key), torch.no_grad():
        scenario = _scenario(site)
        _place(scenario, site, points, velocities, indoors)
        from sionna.phy.channel.tr38901 import LSPGenerator, RaysGenerator

        states, clusters = LSPGenerator(scenario), RaysGenerator(scenario)
        states.topology_updated_callback()
        clusters.topology_updated_callback()
        state = states()
        rays = clusters(state)
        return Drop(_numbers(scenario.los).astype(np.bool_), _bundle(site, scenario, state, rays, velocities))


def _scenario(site: Site) -> Any:
    """Sionna's object of the environment. Its antennas are not used: only angles are taken from it."""
    from sionna.phy.channel import tr38901

    antenna = tr38901.PanelArray(
        num_rows_per_panel=1,
        num_cols_per_panel=1,
        polarization="single",
        polarization_type="V",
        antenna_pattern="omni",
        carrier_frequency=site.carrier_hz,
        device="cpu",
    )
    radio = {"ut_array": antenna, "bs_array": antenna, "direction": "downlink", "device": "cpu"}
    if site.kind == "inh":
        return tr38901.InHScenario(site.carrier_hz, site.variant, **radio)
    if site.kind == "inf":
        return tr38901.InFScenario(site.carrier_hz, site.variant, hall_dimensions=site.hall, **radio)
    if site.kind == "rma":
        return tr38901.RMaScenario(site.carrier_hz, **radio)
    urban = {"umi": tr38901.UMiScenario, "uma": tr38901.UMaScenario}[site.kind]
    return urban(site.carrier_hz, site.penetration, **radio)


def _place(scenario: Any, site: Site, points: Real, velocities: Real, indoors: Bools) -> None:
    """Tell Sionna where everybody is; in the countryside nobody sits in a car."""
    count = len(points)
    height = np.full((count, 1), site.device_height)
    base = [[[0.0, 0.0, base_height(site.kind, site.variant)]]]
    hall = site.kind in ("inh", "inf")
    extra = {"in_car": torch.zeros((1, count), dtype=torch.bool)} if site.kind == "rma" else {}
    scenario.set_topology(
        ut_loc=_tensor(np.hstack([points, height])),
        bs_loc=torch.tensor(base),
        ut_orientations=torch.zeros(1, count, 3),
        bs_orientations=torch.zeros(1, 1, 3),
        ut_velocities=_tensor(np.hstack([velocities, np.zeros((count, 1))])),
        in_state=torch.ones((1, count), dtype=torch.bool) if hall else torch.from_numpy(indoors)[None],
        **extra,
    )


def _bundle(site: Site, scenario: Any, state: Any, rays: Any, velocities: Real) -> RayBundle:
    """Everything that a response is summed from, in float64."""
    wave = 2.0 * np.pi * site.carrier_hz / SPEED_OF_LIGHT
    sees, share = _numbers(scenario.los).astype(np.bool_), _numbers(state.k_factor)
    scattered = np.where(sees, 1.0 / (share + 1.0), 1.0)
    powers, count = _numbers(rays.powers), rays.aoa.shape[-1]
    arrival = {"azimuth": _numbers(rays.aoa), "zenith": _numbers(rays.zoa)}
    departure = {"azimuth": _numbers(rays.aod), "zenith": _numbers(rays.zod)}
    loss_db = _numbers(state.pathloss)
    degrees = np.pi / 180.0
    to_base = {"azimuth": _numbers(scenario.los_aoa) * degrees, "zenith": _numbers(scenario.los_zoa) * degrees}
    to_device = {"azimuth": _numbers(scenario.los_aod) * degrees, "zenith": _numbers(scenario.los_zod) * degrees}
    return RayBundle(
        power=10.0 ** (-loss_db / 10.0) * (_numbers(state.sf) if site.shadowing else 1.0),
        amplitudes=np.sqrt(scattered[:, None] * powers / count),
        delays=_numbers(rays.delays),
        strongest=_numbers(rays.strongest_cluster_indices).astype(np.int64),
        cluster_spread=_numbers(scenario.get_param("cDS")) * 1e-9,
        doppler=wave * _towards(arrival, velocities[:, None, None, :]),
        horizontal=np.pi * np.sin(departure["zenith"]) * np.sin(departure["azimuth"]),
        vertical=np.pi * np.cos(departure["zenith"]),
        sight_amplitude=np.sqrt(np.where(sees, share / (share + 1.0), 0.0)),
        sight_phase=-np.mod(wave * _numbers(scenario.distance_3d), 2.0 * np.pi),
        sight_doppler=wave * _towards(to_base, velocities),
        sight_horizontal=np.pi * np.sin(to_device["zenith"]) * np.sin(to_device["azimuth"]),
        sight_vertical=np.pi * np.cos(to_device["zenith"]),
    )


def _towards(angles: dict[str, Real], velocities: Real) -> Real:
    """Speed towards where a ray comes from, m/s."""
    plane = np.cos(angles["azimuth"]) * velocities[..., 0] + np.sin(angles["azimuth"]) * velocities[..., 1]
    return np.asarray(np.sin(angles["zenith"]) * plane)


def _tensor(values: Real) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[None]


def _numbers(values: torch.Tensor) -> Real:
    """Without the axes of the batch and of the one base station, float64."""
    return np.asarray(values[0, 0].numpy(), dtype=np.float64)
