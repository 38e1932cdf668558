"""Receivers: one over a network hears what the emulated one does, as far as it comes, and never waits for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from channel import ADC, AnalogUplink, Channel, MinimumMSE, RandomLinearCode, Rayleigh
from channel.mac import receive
from channel.uplinks.receiver import Complex, EmulatedReceiver, Receiver, ReceiverError
from channel.uplinks.superposition import superpose_symbols
from channel.uplinks.udp_receiver import BLOCK, HEADER, MARK, UdpReceiver
from tests.channel.test_uplink import Updates

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def radio() -> Iterator[UdpReceiver]:
    with UdpReceiver(timeout=10.0) as receiver:  # not waited for where everything comes
        yield receiver


def draws() -> np.random.Generator:
    return np.random.default_rng(3)


def devices(count: int = 3, uses: int = 700, blocks: int = 1, antennas: int = 1) -> tuple[Tensor, Complex]:
    """Unit-power symbols, and complex gains that a radio link could have (1e-6)."""
    generator = np.random.default_rng(count + uses)
    shape = (blocks, count, antennas)
    gains = 1e-6 * (generator.standard_normal(shape) + 1j * generator.standard_normal(shape))
    return torch.from_numpy(generator.standard_normal((count, uses))), gains


class Losing(UdpReceiver):
    """A receiver whose devices leave out some blocks: (device, first use)."""

    def __init__(self, left_out: set[tuple[int, int]], timeout: float = 0.5) -> None:
        super().__init__(timeout)
        self.left_out = left_out

    def radiate(self, burst: int, device: int, antenna: int, signal: NDArray[np.float64]) -> None:
        for first in range(0, len(signal), BLOCK):
            if (device, first) not in self.left_out:
                content = HEADER.pack(MARK, burst, device, antenna, first)
                send(self, content + signal[first : first + BLOCK].astype("<f4").tobytes())


def send(receiver: UdpReceiver, datagram: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(datagram, receiver.address)


def test_the_emulated_receiver_is_the_channels_model() -> None:
    symbols, arriving = devices(antennas=2)
    heard, noise = EmulatedReceiver().receive(symbols, arriving, 1e-12, draws()), draws()
    for antenna in range(2):
        expected = receive(superpose_symbols(symbols, arriving[:, :, antenna]), 1e-12, noise)
        assert torch.equal(heard.samples[antenna], expected)
    assert heard.lost == 0


@pytest.mark.parametrize(("count", "uses"), [(1, 1), (2, BLOCK), (3, BLOCK + 1), (5, 1001)])
@pytest.mark.parametrize(("blocks", "antennas"), [(1, 1), (2, 1), (1, 3), (3, 2)])
def test_without_loss_a_network_hears_what_the_model_says(
    radio: UdpReceiver, count: int, uses: int, blocks: int, antennas: int
) -> None:
    symbols, arriving = devices(count, uses, blocks, antennas)
    emulated = EmulatedReceiver().receive(symbols, arriving, 1e-12, draws())
    heard = radio.receive(symbols, arriving, 1e-12, draws())
    assert heard.lost == 0
    # every device's signal is rounded to float32: 2^-24 of at most 4 sigma of 1e-6, for each of the devices
    assert torch.allclose(heard.samples, emulated.samples, rtol=0, atol=count * 2**-24 * 1e-5)


def test_a_lost_block_is_lost_energy_and_counted() -> None:
    symbols, arriving = devices()
    with Losing({(1, BLOCK), (2, 2 * BLOCK)}) as receiver:
        heard = receiver.receive(symbols, arriving, 0.0, draws())
    whole = EmulatedReceiver().receive(symbols, arriving, 0.0, draws()).samples
    missing = torch.zeros_like(whole)
    missing[0, BLOCK : 2 * BLOCK] += superpose_symbols(symbols[[1]], arriving[:, [1], 0])[BLOCK : 2 * BLOCK]
    missing[0, 2 * BLOCK :] += superpose_symbols(symbols[[2]], arriving[:, [2], 0])[2 * BLOCK :]
    assert heard.lost == 2
    assert torch.allclose(heard.samples, whole - missing, rtol=0, atol=3 * 2**-24 * 1e-5)


def test_silence_is_an_error_that_says_what_was_waited_for() -> None:
    symbols, arriving = devices(uses=10)
    with Losing({(0, 0), (1, 0), (2, 0)}, timeout=0.1) as receiver:
        with pytest.raises(ReceiverError, match=r"127\.0\.0\.1:\d+: none of 3 blocks of 3 devices.*timeout = 0\.1 s"):
            receiver.receive(symbols, arriving, 0.0, draws())
        receiver.left_out, receiver.timeout = set(), 10.0
        assert receiver.receive(symbols, arriving, 0.0, draws()).lost == 0  # the next burst is heard


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match=r"timeout is .*accepted: seconds > 0"):
        UdpReceiver(timeout)


class Repeating(UdpReceiver):
    """Devices send everything twice, late as well."""

    def radiate(self, burst: int, device: int, antenna: int, signal: NDArray[np.float64]) -> None:
        for number in (burst - 1, burst, burst):
            super().radiate(number, device, antenna, signal)


def test_a_block_that_comes_twice_or_late_counts_once() -> None:
    symbols, arriving = devices(uses=300)
    expected = EmulatedReceiver().receive(symbols, arriving, 0.0, draws()).samples
    with Repeating(timeout=10.0) as receiver:
        for _ in range(3):
            heard = receiver.receive(symbols, arriving, 0.0, draws())
            assert torch.allclose(heard.samples, expected, rtol=0, atol=3 * 2**-24 * 1e-5)
        assert receiver.strange > 0


def not_finite(burst: int) -> bytes:
    return HEADER.pack(MARK, burst, 0, 0, 0) + np.array([np.inf, 0, 0], dtype="<f4").tobytes()


class Noisy(UdpReceiver):
    """Before its devices send, a stranger does."""

    stranger = b""

    def radiate(self, burst: int, device: int, antenna: int, signal: NDArray[np.float64]) -> None:
        if device == antenna == 0:
            send(self, self.stranger or not_finite(burst))
        super().radiate(burst, device, antenna, signal)


@pytest.fixture(scope="module")
def noisy() -> Iterator[Noisy]:
    with Noisy(timeout=10.0) as receiver:
        yield receiver


@given(
    stranger=st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda values, rest: HEADER.pack(MARK, *values) + rest,
            st.tuples(
                st.integers(0, 2**32 - 1),
                st.integers(3, 2**32 - 1),
                st.integers(0, 2**16 - 1),
                st.integers(0, 2**32 - 1),
            ),
            st.binary(max_size=40),
        ),
    )
)
@settings(max_examples=60, deadline=None)
def test_what_strangers_send_is_left_out(noisy: Noisy, stranger: bytes) -> None:
    symbols, arriving = devices(uses=3)
    noisy.stranger = stranger
    strange = noisy.strange
    heard = noisy.receive(symbols, arriving, 0.0, draws())
    expected = EmulatedReceiver().receive(symbols, arriving, 0.0, draws()).samples
    assert torch.allclose(heard.samples, expected, rtol=0, atol=3 * 2**-24 * 1e-5)
    assert noisy.strange == strange + 1


def test_a_closed_receiver_gives_its_port_back() -> None:
    first = UdpReceiver()
    first.close()
    with UdpReceiver(port=first.address[1]) as second:
        assert second.address == first.address


def cohort(devices: int = 4, size: int = 600) -> Updates:
    draws = torch.Generator().manual_seed(2)
    return Updates(torch.randn(devices, size, generator=draws, dtype=torch.float64), np.full(devices, 1 / devices))


def uplink(receiver: Receiver | None, antennas: int = 1, adc: ADC | None = None) -> AnalogUplink:
    channel = Channel(Rayleigh(), noise_power=0.1, antennas=antennas)
    return AnalogUplink(RandomLinearCode(ratio=0.5), MinimumMSE("closed-form"), channel, adc=adc, receiver=receiver)


@pytest.mark.parametrize("adc", [None, ADC(6)], ids=["", "converter"])
def test_the_emulated_receiver_gives_what_an_uplink_without_one_hears(adc: ADC | None) -> None:
    """With one antenna the draws are the same; the model scales the noise, the receiver all that it hears."""
    plain, heard = (uplink(receiver, adc=adc).receive(cohort(), 1, 0) for receiver in (None, EmulatedReceiver()))
    assert plain.update is not None
    assert heard.update is not None
    torch.testing.assert_close(heard.update, plain.update, rtol=1e-6, atol=1e-7)  # the code's signs are float32
    assert heard.record["mse_measured"] == pytest.approx(plain.record["mse_measured"], rel=1e-5)
    assert np.array_equal(heard.cost.energy, plain.cost.energy)


@pytest.mark.parametrize("antennas", [1, 2])
def test_an_uplink_over_a_network_hears_what_the_emulated_one_does(radio: UdpReceiver, antennas: int) -> None:
    emulated, heard = (uplink(r, antennas).receive(cohort(), 1, 0) for r in (EmulatedReceiver(), radio))
    assert emulated.update is not None
    assert heard.update is not None
    # float32 on the way: 2^-24 of each symbol's share, decoded
    torch.testing.assert_close(heard.update, emulated.update, rtol=0, atol=1e-6)
    assert heard.record["lost_blocks"] == emulated.record["lost_blocks"] == 0


def test_what_the_network_loses_is_recorded_and_makes_the_error_larger() -> None:
    whole = uplink(EmulatedReceiver()).receive(cohort(), 1, 0)
    with Losing({(0, 0), (2, BLOCK)}) as receiver:
        part = uplink(receiver).receive(cohort(), 1, 0)
    assert part.record["lost_blocks"] == 2
    assert part.record["mse_measured"] > whole.record["mse_measured"]
    assert part.record["mse_predicted"] is None  # the closed form knows nothing of what was lost


def test_an_uplink_without_a_receiver_of_its_own_says_nothing_of_loss() -> None:
    assert "lost_blocks" not in uplink(None).receive(cohort(), 1, 0).record
