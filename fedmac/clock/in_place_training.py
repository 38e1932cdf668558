"""Training messages that the local engine's devices answer without their app."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from channel.records import records_in
from fedmac.engines.lanes import FIRST_NODE
from fedmac.engines.local import LocalGrid
from strategies.mean_exchange import Vector
from strategies.systems.model_form import FlatModel, ModelForm, flat_of

CONTENT = {"arrays", "config"}
"""Records of a plain training message; others ask for more than the trained model."""


class InPlaceTraining:
    """Answers plain training messages as the devices' app would, to the bit.

    The app reads the model from Flower's arrays and writes it into new ones, which costs as much as training a small
    model for some steps.

    Parameters
    ----------
    grid : LocalGrid
        The engine.
    """

    def __init__(self, grid: LocalGrid) -> None:
        self.team = grid.team
        self._form: ModelForm | None = None
        self._read: tuple[ArrayRecord, Vector] | None = None

    def takes(self, message: Message) -> bool:
        """Whether a message asks for no more than training."""
        content = message.content
        return message.metadata.message_type == MessageType.TRAIN and set(content) == CONTENT

    def answer(self, messages: Sequence[Message]) -> list[Message]:
        """The replies, in the order of the messages."""
        work = [
            (
                message.metadata.dst_node_id - FIRST_NODE,
                self._model(message),
                dict(records_in(message.content, ConfigRecord)["config"]),
            )
            for message in messages
        ]
        answers = self.team.train_each(work)
        return [self._reply(message, answer) for message, answer in zip(messages, answers, strict=True)]

    def _model(self, message: Message) -> Vector:
        record = records_in(message.content, ArrayRecord)["arrays"]
        if self._read is None or self._read[0] is not record:
            model = None if self._form is None else flat_of(record, self._form)
            if model is None:
                self._form = ModelForm(record)
                model = self._form.layout.flatten({name: array.numpy() for name, array in record.items()})
            self._read = record, model
        return self._read[1]

    def _reply(self, message: Message, answer: tuple[Vector, int, float] | str) -> Message:
        if isinstance(answer, str):
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, answer), reply_to=message)
        state, examples, loss = answer
        assert self._form is not None
        metrics = MetricRecord({"num-examples": examples, "train_loss": loss})
        return Message(RecordDict({"metrics": metrics, "arrays": FlatModel(self._form, state)}), reply_to=message)
