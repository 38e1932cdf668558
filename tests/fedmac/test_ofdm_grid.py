"""A band given as an OFDM grid of 3GPP: its width, its uses a second, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from channel.propagation import thermal_noise_power
from fedmac import Scenario, ScenarioError
from fedmac.build_channel import build_channel


def scenario(**channel: Any) -> Scenario:
    return Scenario.load(
        {
            "name": "grid",
            "rounds": 1,
            "data": {"source": "digits", "devices": 2},
            "training": {"learning_rate": 0.1},
            "channel": {"units": "physical", "noise_figure_db": 0.0} | channel,
        }
    )


@pytest.mark.parametrize(("subcarrier_khz", "slots_per_second"), [(15, 1000), (30, 2000), (60, 4000), (120, 8000)])
def test_a_grid_has_the_symbols_and_the_noise_of_its_blocks(subcarrier_khz: int, slots_per_second: int) -> None:
    channel = build_channel(scenario(prbs=25, subcarrier_khz=subcarrier_khz), seed=0)
    # TS 38.211: 12 subcarriers a block, 14 symbols a slot of 1 ms / 2^mu.
    uses_per_second = 25 * 12 * 14 * slots_per_second
    assert channel.bandwidth == pytest.approx(uses_per_second)
    assert channel.seconds(2 * uses_per_second) == pytest.approx(1.0)
    # Noise comes through the width that is occupied: 4.5 MHz for 25 blocks of 15 kHz, as in a 5 MHz carrier.
    assert channel.noise_power == pytest.approx(thermal_noise_power(25 * 12 * 1e3 * subcarrier_khz))


def test_fifteen_kilohertz_is_the_default_spacing() -> None:
    assert (
        build_channel(scenario(prbs=10), 0).bandwidth
        == build_channel(scenario(prbs=10, subcarrier_khz=15), 0).bandwidth
    )


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (
            {"prbs": 25, "bandwidth_mhz": 5.0},
            "channel.bandwidth_mhz = 5.0: prbs = 25 is given too; accepted: one of the two",
        ),
        ({"subcarrier_khz": 30}, "channel.subcarrier_khz = 30: has no meaning without prbs; accepted: prbs with it"),
        ({"prbs": 4, "subbands": 6}, "channel.subbands = 6: prbs = 4 are fewer; accepted: at most 4"),
        ({"prbs": 25, "subcarrier_khz": 20}, "channel.subcarrier_khz = 20"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(channel: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=message.replace("(", r"\(")):
        scenario(**channel)
