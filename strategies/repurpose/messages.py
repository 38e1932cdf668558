"""A plan run by Flower messages: devices hold their parts, the server carries activations between them.

For devices that cannot reach each other. Each exchange of the plan is one message to every device and its reply; what
a device has between two messages is in its Flower context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from torch import Tensor, from_numpy, no_grad

from channel.records import records_in
from strategies.air_messages import reason_of
from strategies.repurpose.inference import WorkerDied
from strategies.repurpose.part import Part
from strategies.repurpose.part_file import load_part, part_path
from strategies.repurpose.part_run import Mail, MissingActivations, PartRun, bytes_of
from strategies.repurpose.plan_file import BadPlan

MAIL, INPUTS, OUTPUTS, ASKED, WORKER = "mail", "inputs", "outputs", "asked", "worker"
STATE, PLACE = "repurpose/state", "repurpose/place"


def device_app(parts: Callable[[Context], str | Path]) -> ClientApp:
    """The devices' app: device k (``partition-id``) answers with part k of a folder.

    Parameters
    ----------
    parts : callable
        From a message's context to the folder. A device needs its own file of it only, see
        :func:`~strategies.repurpose.part_file.save_parts`.
    """
    app = ClientApp()

    @app.query("repurpose")
    def answer(message: Message, context: Context) -> Message:
        part = _part(part_path(parts(context), int(context.node_config["partition-id"])))
        content = message.content
        if INPUTS in records_in(content, ArrayRecord):
            _check_hash(part, records_in(content, ConfigRecord)[ASKED])
            run, mail = PartRun({0: _tensor(records_in(content, ArrayRecord)[INPUTS]["inputs"])}), Mail()
        else:
            run, mail = _recalled(context, part), _mail_of(records_in(content, ArrayRecord).get(MAIL, ArrayRecord()))
        with no_grad():
            outgoing = run.advance(part, mail)
        _remember(context, run)
        reply = RecordDict({MAIL: _mail_record(outgoing), WORKER: ConfigRecord({WORKER: part.worker})})
        if run.outputs is not None:
            reply[OUTPUTS] = ArrayRecord({"outputs": _array(run.outputs)})
        return Message(reply, reply_to=message)

    return app


def infer_by_messages(
    grid: Grid, nodes: Sequence[int], inputs: Tensor, plan_hash: str, *, timeout: float = 30.0
) -> tuple[Tensor, int]:
    """Ask devices for an inference, and carry what they send each other.

    Parameters
    ----------
    grid : flwr.serverapp.Grid
    nodes : sequence of int
        Node ids, one for each worker, in any order: devices say which worker they are.
    inputs : Tensor
        Shape (N, ...); every device is sent them.
    plan_hash : str
        :func:`~strategies.repurpose.plan_file.hash_of_plan`; a device with a part of another plan refuses.
    timeout : float
        Seconds for each exchange.

    Returns
    -------
    outputs : Tensor
        In the model's order.
    bytes_sent : int
        Of activations and outputs that devices sent, once each.

    Raises
    ------
    WorkerDied
        If a device does not answer in time, or fails; the message names worker and node.
    """
    first = RecordDict({INPUTS: ArrayRecord({"inputs": _array(inputs)}), ASKED: ConfigRecord({"plan": plan_hash})})
    contents, sent = dict.fromkeys(nodes, first), 0
    while True:
        replies = _asked(grid, contents, timeout)
        for _, reply in replies:
            if OUTPUTS in records_in(reply, ArrayRecord):
                return _tensor(records_in(reply, ArrayRecord)[OUTPUTS]["outputs"]), sent
        posted = [_mail_of(records_in(reply, ArrayRecord)[MAIL]) for _, reply in replies]
        sent += sum(bytes_of(tensor) for mail in posted for tensor in mail.values())
        contents = {
            node: RecordDict({MAIL: _mail_record({q: mail[p] for q, mail in enumerate(posted) if p in mail})})
            for p, (node, _) in enumerate(replies)
        }


def _asked(grid: Grid, contents: Mapping[int, RecordDict], timeout: float) -> list[tuple[int, RecordDict]]:
    """Node and reply of each worker, in their order."""
    messages = [
        Message(content=content, message_type="query.repurpose", dst_node_id=node) for node, content in contents.items()
    ]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)}
    answers = {node: reply.content for node, reply in replies.items() if not reply.has_error()}
    told = {node: _worker_of(node, answer) for node, answer in answers.items()}
    if failed := [node for node in contents if node not in told]:
        missing = " or ".join(str(worker) for worker in range(len(contents)) if worker not in told.values())
        node, reply = failed[0], replies.get(failed[0])
        how = f"did not answer within {timeout:g} s" if reply is None else f"failed: {reason_of(reply)}"
        raise WorkerDied(f"worker {missing} (node {node}) {how}")
    if sorted(told.values()) != list(range(len(contents))):
        raise WorkerDied(
            f"devices hold the parts of workers {sorted(told.values())}; accepted: one device for each of 0 to "
            f"{len(contents) - 1}"
        )
    return [(node, answers[node]) for node, _ in sorted(told.items(), key=lambda pair: pair[1])]


def _worker_of(node: int, answer: RecordDict) -> int:
    if MAIL not in records_in(answer, ArrayRecord) or WORKER not in records_in(answer, ConfigRecord):
        raise WorkerDied(f"node {node} answered without {MAIL!r} and {WORKER!r}; accepted: a reply of device_app")
    return int(str(records_in(answer, ConfigRecord)[WORKER][WORKER]))


def _check_hash(part: Part, asked: ConfigRecord) -> None:
    if asked["plan"] != part.plan_hash:
        raise BadPlan(
            f"plan: {str(asked['plan'])[:12]}… was asked for; accepted: {part.plan_hash[:12]}…, whose part "
            f"{part.worker} is here"
        )


@lru_cache(maxsize=8)
def _part(path: Path) -> Part:
    return load_part(path)


def _remember(context: Context, run: PartRun) -> None:
    """Keep a run until the next message; what is at the end is not needed again."""
    kept: Mapping[str, Tensor] = {}
    if not run.finished:
        kept = {f"value/{n}": v for n, v in run.values.items()} | {f"held/{n}": v for n, v in run.held.items()}
    context.state[STATE] = ArrayRecord({name: _array(value) for name, value in kept.items()})
    context.state[PLACE] = ConfigRecord({"step": run.step, "posted": run.posted, "finished": run.finished})


def _recalled(context: Context, part: Part) -> PartRun:
    place = records_in(context.state, ConfigRecord).get(PLACE)
    if place is None or place["finished"]:
        raise MissingActivations(f"worker {part.worker}: activations for an inference that it has no inputs of")
    arrays = records_in(context.state, ArrayRecord)[STATE]
    kept = {name: _tensor(array) for name, array in arrays.items()}
    values = {int(name.removeprefix("value/")): v for name, v in kept.items() if name.startswith("value/")}
    held = {int(name.removeprefix("held/")): v for name, v in kept.items() if name.startswith("held/")}
    return PartRun(values, held, int(str(place["step"])), bool(place["posted"]))


def _mail_record(mail: Mail) -> ArrayRecord:
    return ArrayRecord({str(q): _array(tensor) for q, tensor in mail.items()})


def _mail_of(record: ArrayRecord) -> Mail:
    return {int(q): _tensor(array) for q, array in record.items()}


def _array(tensor: Tensor) -> Array:
    return Array(np.ascontiguousarray(tensor.numpy()))


def _tensor(array: Array) -> Tensor:
    return from_numpy(array.numpy().copy())
