"""The ServerApp of every FedMAC scenario under Flower's engines."""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedmac.build import build_workplace
from fedmac.record import prepare
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_text import scenario_from_text
from fedmac.session import perform, plan, summarise

NODES_TIMEOUT = 60.0
"""Seconds to wait until as many nodes are connected as the scenario has devices."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario named in the run configuration; its folder is ``out``.

    The ``fedmac`` command prepares the folder and says so with ``prepared``; by hand (``flwr run .``) the folder is
    made here, ``runs/NAME`` under the SuperLink's working directory if ``out`` is empty.
    """
    run = context.run_config
    scenario = scenario_from_text(str(run["scenario"]), str(run.get("overrides", "")))
    out = Path(str(run.get("out") or f"runs/{scenario.name}")).absolute()
    if not run.get("prepared", False):
        prepare(out, scenario, overwrite=False, resume=(out / "scenario.toml").exists())
    only = [name for name in str(run.get("only", "")).split(",") if name]
    jobs = plan(scenario, out, only)
    for job in jobs:
        if not job.done:
            wait_for_nodes(grid, job.variant.scenario)
            perform(job, grid, build_workplace(job.variant.scenario, job.seed), lambda _: None)
    if not run.get("prepared", False):
        from fedmac.report import write_report

        summarise(scenario, out)
        write_report(out)


def wait_for_nodes(grid: Grid, scenario: Scenario, timeout: float = NODES_TIMEOUT) -> None:
    """Wait until each device of the scenario has its node.

    Raises
    ------
    ScenarioError
        If there are not exactly as many nodes as devices within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    wanted = scenario.data.devices
    while (there := len(list(grid.get_node_ids()))) != wanted:
        if time.monotonic() > deadline:
            raise ScenarioError(
                f"data.devices = {wanted}, but {there} SuperNodes are connected; accepted: one for each device "
                f'(flwr run . --federation-config "num-supernodes={wanted}")'
            )
        time.sleep(0.5)
