"""Link-level channels of TR 38.901 clause 7.7: tapped and clustered delay lines, of unit mean power."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch

from channel.fading import Complex, Fading
from channel.randomness import generator, key
from channel.three_gpp.frequency import frequency_response, subband_centres
from channel.three_gpp.rays import panel
from channel.three_gpp.recent import Recent
from channel.three_gpp.seeding import require_sionna, sionna_seeded

KINDS = ("tdl", "cdl")
MODELS = ("A", "B", "C", "D", "E")
NUMBERS_AT_ONCE = 2_000_000
WAVES = 24 * 20
"""At most 24 taps or clusters, of 20 sinusoids or rays each."""


class DelayLine(Fading):
    r"""The same delay profile for every device, :math:`h_s = \sum_p a_p(t) e^{-j 2\pi f_s\tau_p}` with E|h|^2 = 1.

    Models A, B and C have no line of sight, D and E have one. Combine with path loss of your own
    (``Channel.power_gain``).

    * **tdl**: taps fade by themselves with Jakes' spectrum, at each antenna too (sums of 20 sinusoids).
    * **cdl**: clusters have angles, so antennas are correlated. Antennas are vertical without pattern; the base
      station's form a panel of half a wavelength's spacing. The profile's angles are turned about the base station by
      an angle of each device's own, so that devices do not all stand in one direction.

    The process runs through the whole run: round t is its value at t ``round_s``, with the Doppler shifts of one speed.
    At speed 0 it is constant over rounds.

    Parameters
    ----------
    kind : str
        "tdl" or "cdl".
    model : str
        A, B, C, D or E.
    delay_spread_s : float
        RMS delay spread, s; 1e-7 is the standard's nominal one (table 7.7.3-1).
    carrier_ghz : float
        0.5 to 100.
    bandwidth_hz : float
        Divided among the subbands, Hz.
    speed_kmh : float
        Of every device.
    round_s : float
        Seconds from one exchange to the next.

    Raises
    ------
    ValueError
        A parameter outside the above.
    ImportError
        Sionna is not installed.
    """

    name: ClassVar[str] = "delay-line"

    def __init__(
        self,
        kind: str = "tdl",
        model: str = "A",
        *,
        delay_spread_s: float = 1e-7,
        carrier_ghz: float = 3.5,
        bandwidth_hz: float = 5e6,
        speed_kmh: float = 3.0,
        round_s: float = 1.0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; accepted: {', '.join(KINDS)}")
        if model not in MODELS:
            raise ValueError(f"model is {model!r}; accepted: {', '.join(MODELS)}")
        if not 0.5 <= carrier_ghz <= 100.0:
            raise ValueError(f"carrier_ghz is {carrier_ghz!r}; accepted: 0.5 to 100")
        if not 0.0 <= speed_kmh <= 1000.0:
            raise ValueError(f"speed_kmh is {speed_kmh!r}; accepted: 0 to 1000")
        if not 0.0 <= delay_spread_s < math.inf:
            raise ValueError(f"delay_spread_s is {delay_spread_s!r}; accepted: a finite number of s >= 0")
        for name, value in (("bandwidth_hz", bandwidth_hz), ("round_s", round_s)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}; accepted: a finite number > 0")
        require_sionna()
        self.kind, self.model, self.delay_spread_s = kind, model, delay_spread_s
        self.carrier_ghz, self.bandwidth_hz = carrier_ghz, bandwidth_hz
        self.speed_kmh, self.round_s = speed_kmh, round_s
        # Outdated knowledge asks for the round before beside each round.
        self._responses: Recent[tuple[float, ...], Complex] = Recent(2)

    def coefficients(self, round: int, devices: int, seed: int) -> Complex:
        """Gains at the carrier and one antenna, shape (N,)."""
        return self.response(round, devices, 1, 1, seed)[0, :, 0]

    def response(self, round: int, devices: int, subbands: int, antennas: int, seed: int) -> Complex:
        """Gains at the centres of S subbands and M antennas, shape (S, N, M)."""
        seconds = round * self.round_s if self.speed_kmh > 0.0 else 0.0
        asked = (seconds, devices, subbands, antennas, seed)
        return self._responses.get(asked, lambda: self._response(seconds, devices, subbands, antennas, seed)).copy()

    def sample(self, count: int, devices: int, subbands: int, antennas: int, seed: int) -> Iterator[Complex]:
        """Responses of processes of their own: independent also where devices stand still."""
        for draw in range(count):
            yield self._response(0.0, devices, subbands, antennas, key(seed, "statistics", draw))

    def _response(self, seconds: float, devices: int, subbands: int, antennas: int, seed: int) -> Complex:
        frequencies = subband_centres(self.bandwidth_hz, subbands)
        step = max(1, NUMBERS_AT_ONCE // (WAVES * antennas))
        gains = []
        for group, start in enumerate(range(0, devices, step)):
            some = min(step, devices - start)
            with sionna_seeded(key(seed, f"sionna/{self.kind}", group)), torch.no_grad():
                paths, delays = self._at(self._line(some, antennas, seed, group), some, seconds)
            gains.append(frequency_response(paths, delays, frequencies))
        return np.concatenate(gains, axis=1)

    def _at(self, line: Any, devices: int, seconds: float) -> tuple[Complex, Any]:
        """Paths (N, P, M) and delays (N, P) at one time.

        A seed gives the same process however many times it is looked at: here at 0 and at the time wanted.
        """
        if seconds > 0.0:
            paths, delays = line(devices, 2, 1.0 / seconds)
        else:
            paths, delays = line(devices, 1, 1.0)
        at_antennas = paths[:, 0, :, 0, 0, :, -1].numpy().astype(np.complex128)
        return np.swapaxes(at_antennas, 1, 2), delays[:, 0, 0].numpy().astype(np.float64)

    def _line(self, devices: int, antennas: int, seed: int, group: int) -> Any:
        """Sionna's object, in float64: phases of a long run at speed outgrow float32."""
        from sionna.phy.channel import tr38901

        radio = {
            "carrier_frequency": self.carrier_ghz * 1e9,
            "min_speed": self.speed_kmh / 3.6,
            "max_speed": self.speed_kmh / 3.6,
            "precision": "double",
            "device": "cpu",
        }
        if self.kind == "tdl":
            return tr38901.TDL(self.model, self.delay_spread_s, num_rx_ant=antennas, **radio)
        azimuth = generator(seed, "3gpp/azimuth", group).uniform(-np.pi, np.pi, devices)
        turned = np.stack([azimuth, np.zeros(devices), np.zeros(devices)], axis=1)
        return tr38901.CDL(
            self.model,
            self.delay_spread_s,
            ut_array=self._panel(1),
            bs_array=self._panel(antennas),
            direction="uplink",
            bs_orientation=torch.from_numpy(turned),
            **radio,
        )

    def _panel(self, antennas: int) -> Any:
        from sionna.phy.channel import tr38901

        rows, columns = panel(antennas)
        return tr38901.PanelArray(
            num_rows_per_panel=rows,
            num_cols_per_panel=columns,
            polarization="single",
            polarization_type="V",
            antenna_pattern="omni",
            carrier_frequency=self.carrier_ghz * 1e9,
            precision="double",
            device="cpu",
        )
