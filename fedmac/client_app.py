"""The ClientApp of every FedMAC scenario under Flower's engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Context

from clients.app import Workplace, client_app
from fedmac.build import build_workplace
from fedmac.scenario_text import scenario_from_text


@lru_cache(maxsize=2)
def _workplace(scenario_text: str, overrides: str, variant: str, seed: int) -> Workplace:
    scenario = scenario_from_text(scenario_text, overrides)
    chosen = next(v.scenario for v in scenario.resolve() if v.name == variant)
    torch.set_num_threads(chosen.training.threads)
    return build_workplace(chosen, seed)


def workplace(context: Context, config: Mapping[str, Any]) -> Workplace:
    """The workplace of the variant and seed that the server's configuration names, built once in a process."""
    run = context.run_config
    return _workplace(str(run["scenario"]), str(run.get("overrides", "")), str(config["variant"]), int(config["seed"]))


app = client_app(workplace)
