"""A device's process as a deployment starts it: fresh, for one training message; it says what it did and loaded.

Run as ``python -m tests.fedmac.device_process`` with the message's facts as JSON on standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def handle(
    scenario: str,
    cache: Path,
    *,
    node: Mapping[str, Any] | None = None,
    order: Mapping[str, Any] | None = None,
    features: int = 64,
    source: bool = True,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """What a fresh process of a device makes of a training message for a softmax model of zeros.

    Parameters
    ----------
    scenario : str
        TOML text.
    cache : Path
        Where devices keep their rows.
    node : mapping, optional
        The node's configuration beside ``partition-id`` 1 of 3.
    order : mapping, optional
        The transmit order; none if not given.
    features : int
        Inputs of the model sent.
    source : bool
        Whether the process may read the scenario's source.
    environment : mapping, optional
        Further environment variables.

    Returns
    -------
    dict
        ``modules`` loaded at the end, ``arrays`` and ``configs`` of the reply, or the ``error`` raised, and ``seconds``
        from the start of Python to the reply.
    """
    facts = {"scenario": scenario, "node": dict(node or {}), "order": order, "features": features, "source": source}
    variables = {"FEDMAC_CACHE": str(cache), "OMP_NUM_THREADS": "1", **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-m", "tests.fedmac.device_process"],
        input=json.dumps(facts),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "FEDMAC_PROFILE"} | variables,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def _main() -> None:
    start = time.perf_counter()
    facts = json.loads(sys.stdin.read())
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    from fedmac.client_app import app

    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1
    if not facts["source"]:
        _forbid_sources()
    context = Context(
        1, 2, {"partition-id": 1, "num-partitions": 3} | facts["node"], RecordDict(), {"scenario": facts["scenario"]}
    )
    content = RecordDict({"arrays": _zeros(facts["features"]), "config": ConfigRecord({"variant": "x", "seed": 0})})
    if facts["order"] is not None:
        content["fedmac.order"] = ConfigRecord(facts["order"])
    said: dict[str, Any] = {}
    try:
        reply = app(Message(content, 2, "train"), context).content
        arrays = {name: array.numpy() for record in reply.array_records.values() for name, array in record.items()}
        said["arrays"] = {name: array.tolist() for name, array in arrays.items()}
        said["configs"] = {name: dict(record) for name, record in reply.config_records.items()}
    except Exception as error:
        said["error"] = f"{type(error).__name__}: {error}"
    said |= {"modules": sorted(sys.modules), "seconds": time.perf_counter() - start}
    print(json.dumps(said))


def _zeros(features: int) -> Any:
    import numpy as np
    from flwr.app import Array, ArrayRecord

    shapes = {"weight": (10, features), "bias": (10,)}
    return ArrayRecord({name: Array(np.zeros(shape, np.float32)) for name, shape in shapes.items()})


def _forbid_sources() -> None:
    import clients.data

    def refuse(*_: object) -> None:
        raise AssertionError("the source was read")

    clients.data.read = refuse  # type: ignore[assignment]


if __name__ == "__main__":
    _main()
