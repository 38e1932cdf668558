"""Whatever a worker replies, a system reads an update from it, or refuses it with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from channel.codecs import EDEN, QSGD, DitheredQuantizer, TopK
from channel.order import ORDER_KEY
from clients.transmit import transmit
from strategies.received import largest_norm
from strategies.refusal import BadPayload
from strategies.systems.coded_updates import CodedUpdates
from strategies.systems.model_form import ModelForm
from strategies.systems.update import read_update
from tests import fleet
from tests.fuzz.budget import no_hang, of_cases
from tests.fuzz.hostile_replies import HOSTILE, SIZE, hostile_replies

torch.set_num_threads(1)

NODE, STEP = 10 + HOSTILE, 3
CODINGS: dict[str, CodedUpdates | None] = {
    "uncoded": None,
    **{codec.name: CodedUpdates(codec) for codec in (DitheredQuantizer(), QSGD(3), EDEN(), TopK(fraction=0.2))},
}


def honest(coding: CodedUpdates | None, dtype: type[np.floating[Any]]) -> tuple[Message, Message]:
    """A message to a worker, and its answer."""
    content = RecordDict({"arrays": fleet.record({"w": np.zeros(SIZE, dtype)})})
    if coding is not None:
        content[ORDER_KEY] = coding.record(NODE, STEP)

    def app(message: Message, context: Any) -> Message:
        trained = fleet.record({"w": np.cos(np.arange(SIZE)).astype(dtype)})
        return Message(RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 3})}), reply_to=message)

    fleet.identify()
    message = Message(content, NODE, "train")
    return message, transmit(message, fleet.context(HOSTILE), app)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CODINGS)
@given(data=st.data())
@of_cases(0.25)
def test_a_reply_is_a_finite_update_or_refused(name: str, dtype: type[np.floating[Any]], data: st.DataObject) -> None:
    coding = CODINGS[name]
    message, reply = honest(coding, dtype)
    form = ModelForm(message.content.array_records["arrays"])
    for hostile in data.draw(hostile_replies(reply)):
        with no_hang():
            try:
                if coding is None:
                    update = read_update(hostile, form, np.zeros(SIZE, dtype))
                else:
                    update = coding.read(hostile, form, NODE, STEP)
            except BadPayload:
                continue
        assert (update.shape, update.dtype) == ((SIZE,), dtype)
        assert np.linalg.norm(update.astype(np.float64)) <= largest_norm(form.layout)
