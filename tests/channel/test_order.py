"""The transmit order: what a device reads is what the server wrote."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord

from channel import CODECS, PacketOrder, RandomLinearCode, RandomMask, TransmitOrder, Uncoded
from channel.codecs.ceo import last_of_first_group
from channel.codes import Code


@pytest.mark.parametrize(
    "code",
    [
        Uncoded(),
        RandomLinearCode(ratio=0.1),
        RandomLinearCode(uses=3, decoder="projection", error_feedback=True),
        RandomMask(ratio=1 / 3, decoder="lmmse"),
    ],
    ids=repr,
)
def test_a_device_builds_the_servers_code_from_the_order(code: Code) -> None:
    order = TransmitOrder(code.name, code.parameters, 2**62 + 1)
    there = TransmitOrder.from_config(ConfigRecord(order.to_config()))
    assert there == order
    update = torch.arange(20.0)
    assert torch.equal(there.build_code().encode(update, there.seed), code.encode(update, order.seed))


def test_an_unknown_code_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown code 'morse'; known codes: uncoded, random-linear, random-mask"):
        TransmitOrder("morse").build_code()


@pytest.mark.parametrize("parameters", [{"ratio": 2.0}, {"ratio": 0.0}, {"ratio": 0.1, "decoder": "guess"}])
def test_parameters_that_the_code_refuses_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"ratio is|decoder is"):
        TransmitOrder("random-linear", parameters).build_code()


@pytest.mark.parametrize("feedback", [None, 0.5])
@pytest.mark.parametrize("name", CODECS)
def test_a_device_builds_the_servers_codec_from_the_order_of_packets(name: str, feedback: float | None) -> None:
    codec = CODECS[name]()
    order = PacketOrder(name, codec.parameters, 2**62 + 1, "entropy", feedback, first_group=3)
    there = PacketOrder.from_config(ConfigRecord(order.to_config()))
    assert there == order
    assert there.codec_of(4).parameters == codec.parameters
    assert there.seed_of(4) == order.seed_of(4) != order.seed_of(3)


def test_the_first_half_of_the_devices_by_number_is_the_first_group() -> None:
    assert last_of_first_group([7, 1, 4, 2]) == 2
    assert last_of_first_group([9]) == 9, "one alone sends what can be decoded alone"
    assert last_of_first_group([]) == -1
