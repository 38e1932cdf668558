"""An inference by Flower messages, as an app that an engine runs: devices hold their parts, the server asks them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from fedmac.deployment.control import Control, NoAnswer, Scalar
from fedmac.engines.deployment import devices_online, run_on_superlink, superlink_at
from fedmac.engines.flower import FlowerSimulation, run_simulation, write_app
from fedmac.engines.superlink import EngineError
from fedmac.record import writing
from fedmac.repurposing.server_app import INPUTS, OUTPUTS, SAID
from strategies.repurpose.inference import Inference, WorkerDied, check_inputs
from strategies.repurpose.plan import Plan
from strategies.repurpose.plan_file import hash_of_plan

LOG = "flower.log"
"""In the plan's folder: what the ServerApp writes."""

DEVICES_SECONDS = 30.0
"""How long devices that are not connected are waited for."""

Run = Callable[[Path, Mapping[str, Scalar]], None]
"""Runs a Flower app of this folder with this configuration to its end."""


def infer_on_deployment(
    plan: Plan, inputs: Tensor, folder: Path, where: str, *, batch: int, timeout: float
) -> Inference:
    """Ask the devices of a deployment; each has its own part in its folder.

    Parameters
    ----------
    plan : Plan
    inputs : Tensor
        Shape (N, ...), N >= 1.
    folder : Path
        Of the plan; what is asked and answered lies in it for as long as it takes, so that the SuperLink must see it.
    where : str
        The SuperLink, as ``engine.superlink`` of a scenario.
    batch : int
        Inputs that go through together.
    timeout : float
        Seconds for each exchange.

    Raises
    ------
    WorkerDied
        If a device does not answer in time, or fails.
    EngineError
        If the SuperLink does not answer, there is not one device for each worker, or the run fails.
    ValueError
        If the inputs are not of the plan's shape, or an argument is not accepted.
    """
    control = superlink_at(where)

    def run(app: Path, config: Mapping[str, Scalar]) -> None:
        run_on_superlink(
            app,
            config,
            control,
            devices=plan.workers,
            nodes_timeout=DEVICES_SECONDS,
            log=folder / LOG,
            on_poll=lambda: None,
        )

    check_inputs(plan, inputs, batch, timeout)
    _wait_for_devices(control, plan.workers)
    return _infer(plan, inputs, folder, run, batch, timeout, parts="")


def infer_on_simulation(
    plan: Plan, inputs: Tensor, folder: Path, parts: Path, *, batch: int, timeout: float
) -> Inference:
    """Ask devices that Flower simulates on this machine; they read their parts from one folder.

    Parameters
    ----------
    plan, inputs, folder, batch, timeout
        As of :func:`infer_on_deployment`.
    parts : Path
        Folder of all parts.
    """

    def run(app: Path, config: Mapping[str, Scalar]) -> None:
        simulation = FlowerSimulation(nodes=plan.workers, total_cpus=min(plan.workers, os.cpu_count() or 1))
        run_simulation(app, config, simulation, log=folder / LOG)

    check_inputs(plan, inputs, batch, timeout)
    return _infer(plan, inputs, folder, run, batch, timeout, parts=str(parts.absolute()))


def _infer(plan: Plan, inputs: Tensor, folder: Path, run: Run, batch: int, timeout: float, *, parts: str) -> Inference:
    with writing(folder):
        place = tempfile.TemporaryDirectory(prefix="asked-", dir=folder)
    with place as name:
        out = Path(name).absolute()
        save_file({"inputs": inputs.contiguous()}, out / INPUTS)
        config: dict[str, Scalar] = {"out": str(out), "plan": hash_of_plan(plan), "workers": plan.workers}
        config |= {"batch": batch, "timeout": timeout, "parts": parts}
        server, client = "fedmac.repurposing.server_app:app", "fedmac.repurposing.client_app:app"
        run(write_app(out / "app", config, serverapp=server, clientapp=client), config)
        said = json.loads((out / SAID).read_text(encoding="utf-8"))
        if "died" in said:
            raise WorkerDied(said["died"])
        return Inference(load_file(out / OUTPUTS)["outputs"], said["bytes"], said["seconds"], batch)


def _wait_for_devices(control: Control, workers: int) -> None:
    try:
        online = devices_online(control, workers, DEVICES_SECONDS)
    except NoAnswer as error:
        raise EngineError(f"superlink: {error}") from None
    if len(online) != workers:
        raise EngineError(
            f"the plan is for {workers} workers, and {len(online)} devices are online at {control.address} "
            f"({', '.join(online[:20]) or 'none'}) after {DEVICES_SECONDS:g} s; accepted: one for each worker "
            "(`fedmac deploy device DIR --id K`)"
        )
