"""The ServerApp of every FedMAC scenario under Flower's engines."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmac.build_devices import build_workplace
from fedmac.deployment.unbroken_grid import unbroken
from fedmac.lock import held
from fedmac.logs import log_as_environment_says, log_round
from fedmac.record import FLOWER_LOG, SCENARIO, NoRunHere, prepare
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError, shown
from fedmac.scenario_paths import refuse_imports
from fedmac.scenario_text import scenario_from_text
from fedmac.session import perform, plan, summarise

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario named in the run configuration; its folder is ``out``.

    The ``fedmac`` command prepares the folder and says so with ``prepared``; by hand (``flwr run .``) the folder is
    made here, ``runs/NAME`` under the SuperLink's working directory if ``out`` is empty.
    """
    log_as_environment_says()
    run = context.run_config
    scenario = scenario_from_text(str(run["scenario"]), str(run.get("overrides", "")))
    refuse_imports(scenario)
    out = Path(str(run.get("out") or f"runs/{scenario.name}")).absolute()
    only = named_variants(str(run.get("only", "")))
    if not run.get("prepared", False):
        prepare(out, scenario, overwrite=False, resume=(out / SCENARIO).exists(), only=only)
    check_shared(out)
    devices = unbroken(grid)
    with held(out / FLOWER_LOG, f"{out}: another ServerApp writes to it; accepted: to wait until that has ended"):
        for job in plan(scenario, out, only):
            if not job.done:
                wait_for_nodes(devices, job.variant.scenario)
                perform(job, devices, build_workplace(job.variant.scenario, job.seed), log_round)
    if not run.get("prepared", False):
        from fedmac.report import write_report

        summarise(scenario, out)
        write_report(out)


def named_variants(only: str) -> list[str]:
    """Variants that a run configuration's ``only`` names: a JSON list, or by hand names between commas; all if empty.

    Raises
    ------
    ScenarioError
        If it begins like a JSON list and is none of texts.
    """
    if not only.lstrip().startswith("["):
        return [name for name in only.split(",") if name]
    try:
        names = json.loads(only)
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        accepted = 'names between commas, or a JSON list of them, ["a", "b"]'
        raise ScenarioError(f"only = {shown(only)}: not a JSON list of names; accepted: {accepted}")
    return names


def check_shared(out: Path) -> None:
    """Refuse to run where the command's run folder is not to be seen.

    Raises
    ------
    NoRunHere
        If the folder that the command has prepared is not there: the ServerApp runs on another machine, in another
        container, or with a /tmp of its own.
    """
    if not (out / SCENARIO).is_file():
        raise NoRunHere(
            f"{out}: the run folder is not to be seen where the server runs ({platform.node()}); accepted: `fedmac "
            "run` on the server's machine (in its container), with --out below a folder that both see"
        )


def wait_for_nodes(grid: Grid, scenario: Scenario, timeout: float | None = None) -> None:
    """Wait until each device of the scenario has its node.

    Raises
    ------
    ScenarioError
        If there are not exactly as many nodes as devices within `timeout` seconds (``engine.nodes_timeout_s``).
    """
    deadline = time.monotonic() + (scenario.engine.nodes_timeout_s if timeout is None else timeout)
    wanted = scenario.data.devices
    while (there := len(list(grid.get_node_ids()))) != wanted:
        if time.monotonic() > deadline:
            raise ScenarioError(
                f"data.devices = {wanted}, but {there} devices are connected; accepted: as many "
                f'(flwr run . --federation-config "num-supernodes={wanted}", or `fedmac deploy device` for each)'
            )
        time.sleep(0.5)
