"""The ServerApp that asks devices for an inference of a plan, under Flower's engines."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from safetensors.torch import load_file, save_file

from fedmac.deployment.unbroken_grid import unbroken
from fedmac.record import NoRunHere, write_atomically
from strategies.repurpose.inference import WorkerDied
from strategies.repurpose.messages import infer_by_messages

INPUTS, OUTPUTS, SAID = "inputs.safetensors", "outputs.safetensors", "said.json"
"""In the folder ``out`` of the run's configuration: what is asked, and what is answered."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask the run's devices batch by batch, and leave outputs, bytes and seconds, or why there are none.

    Raises
    ------
    NoRunHere
        If the folder is not to be seen on this machine.
    """
    run = context.run_config
    out, timeout = Path(str(run["out"])), float(run["timeout"])
    if not (out / INPUTS).is_file():
        raise NoRunHere(
            f"{out}: not to be seen where the server runs ({platform.node()}); accepted: `fedmac infer` on the "
            "server's machine (in its container), with the plan in a folder that both see"
        )
    inputs = load_file(out / INPUTS)["inputs"]
    outputs, seconds, sent, grid = [], [], 0, unbroken(grid)
    try:
        nodes = _nodes(grid, int(run["workers"]), timeout)
        for rows in torch.split(inputs, int(run["batch"])):
            start = time.perf_counter()
            found, count = infer_by_messages(grid, nodes, rows, str(run["plan"]), timeout=timeout)
            seconds.append(time.perf_counter() - start)
            outputs.append(found)
            sent += count
    except WorkerDied as error:
        write_atomically(out / SAID, json.dumps({"died": str(error)}))
        return
    save_file({"outputs": torch.cat(outputs)}, out / OUTPUTS)
    write_atomically(out / SAID, json.dumps({"bytes": sent, "seconds": seconds}))


def _nodes(grid: Grid, workers: int, timeout: float) -> list[int]:
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) != workers:
        if time.monotonic() > deadline:
            raise WorkerDied(f"{len(nodes)} devices are connected after {timeout:g} s; accepted: {workers}")
        time.sleep(0.2)
    return nodes
