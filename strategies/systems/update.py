"""A worker's reply, read as the update that it stands for."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Message

from channel.layout import Layout
from channel.records import records_in
from strategies.air_messages import failure_of
from strategies.mean_exchange import Vector
from strategies.received import check_finite, largest_norm, read_array
from strategies.refusal import BadPayload
from strategies.systems.model_form import ModelForm, flat_of


def read_update(reply: Message, form: ModelForm, sent: Vector) -> Vector:
    """The trained model in a reply less the model sent, once it is known to be one.

    Parameters
    ----------
    reply : Message
        With one record of arrays, the trained model.
    form : ModelForm
        Of the model.
    sent : ndarray of shape (d,)
        The model that the worker started from.

    Returns
    -------
    ndarray of shape (d,)
        The update.

    Raises
    ------
    BadPayload
        If the worker failed, or what it sent is no model of this layout, or not finite.
    """
    check_content(reply)
    records = records_in(reply.content, ArrayRecord)
    if len(records) != 1:
        raise BadPayload(f"{len(records)} records of arrays, expected one: the trained model")
    record = next(iter(records.values()))
    trained = flat_of(record, form)
    if trained is None:
        trained = _read(record, form.layout)
    with np.errstate(over="ignore", invalid="ignore"):
        update: Vector = trained - sent
        norm = float(np.linalg.norm(update))
    if not norm <= (largest := largest_norm(form.layout)):  # as with entries that are not finite
        check_finite(trained, "entries of the trained model")
        raise BadPayload(f"the update's norm is {norm:g}, expected at most {largest:g}", "norm")
    return update


def check_content(reply: Message) -> None:
    """Refuse a reply that brings nothing: an error, of the kind that it has with every strategy, or not even that.

    Raises
    ------
    BadPayload
        Says why.
    """
    if reply.has_error():
        failure = failure_of(reply.metadata.src_node_id, reply)
        raise BadPayload(failure.reason, failure.kind)
    if not reply.has_content():
        raise BadPayload("the reply holds neither content nor an error")


def _read(record: ArrayRecord, layout: Layout) -> Vector:
    flat = np.empty(layout.size, layout.dtype)
    offset = 0
    for name, shape, size, dtype in zip(layout.names, layout.shapes, layout.sizes, layout.dtypes, strict=True):
        if name not in record:
            raise BadPayload(f"the trained model lacks the array {name!r}")
        array = read_array(record[name], f"entries of {name!r}", shape, [dtype])
        flat[offset : offset + size] = array.reshape(-1)
        offset += size
    return flat
