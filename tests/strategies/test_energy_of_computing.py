"""What devices estimate that their computing took: recorded with each exchange, believed only if it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flwr.app import Message

from channel import Channel, DigitalUplink
from channel.order import TRANSMISSION_KEY
from channel.uplinks import IdealUplink, Uplink
from clients import device_profile
from clients.device_profile import DeviceProfile
from tests.one_exchange import OneExchange


@pytest.fixture
def phones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that know their power, without limits that would hold in other tests too."""
    monkeypatch.setitem(device_profile.PROFILES, "free", DeviceProfile("free", watts=1.6))
    monkeypatch.setenv(device_profile.VARIABLE, "free")


def saying(joules: Any) -> Callable[[Message], Message]:
    def tamper(reply: Message) -> Message:
        reply.content.config_records[TRANSMISSION_KEY]["joules"] = joules
        return reply

    return tamper


def digital() -> Uplink:
    from channel import OFDMA, QSGD, ShannonLink

    return DigitalUplink(QSGD(4), OFDMA(), ShannonLink(), Channel(bandwidth=1e6))


@pytest.mark.parametrize("uplink", [IdealUplink, digital])
def test_an_exchange_records_the_energies_that_devices_estimate(phones: None, uplink: Callable[[], Uplink]) -> None:
    record = OneExchange(uplink(), tamper={}).record
    assert record["train_j_mean"] == pytest.approx(1.6 * record["train_s_mean"])
    assert record["train_j_max"] == pytest.approx(1.6 * record["train_s_max"])


def test_devices_that_do_not_know_their_power_have_none_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device_profile.VARIABLE, raising=False)
    record = OneExchange(tamper={}).record
    assert record["train_s_mean"] is not None
    assert not [name for name in record if name.startswith("train_j")]


@pytest.mark.parametrize("joules", ["much", float("nan"), float("inf"), -1.0, 1e300, [1.0]])
def test_an_energy_that_cannot_be_is_not_believed(phones: None, joules: Any) -> None:
    record = OneExchange(tamper=dict.fromkeys((0, 1, 2), saying(joules)) | {3: saying(2.5)}).record
    assert (record["train_j_mean"], record["train_j_max"], record["participants"]) == (2.5, 2.5, 4)
