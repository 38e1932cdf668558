"""The ClientApp of every FedMAC scenario under Flower's engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context

from clients.app import Workplace, client_app, device_number
from clients.device_profile import profile_of
from clients.disk_cache import cache_folder
from clients.kept_residual import keeping_residuals
from clients.own_file import rows_of_file
from clients.own_rows import keep_rows, kept_rows, rows_name
from clients.sources import fingerprint
from fedmac import __version__
from fedmac.build_devices import build_workplace, dtype_of
from fedmac.logs import log_as_environment_says
from fedmac.scenario import Scenario
from fedmac.scenario_paths import refuse_imports
from fedmac.scenario_text import scenario_from_text


@lru_cache(maxsize=2)
def _scenario(scenario_text: str, overrides: str, variant: str) -> Scenario:
    scenario = scenario_from_text(scenario_text, overrides)
    chosen = next(v.scenario for v in scenario.resolve() if v.name == variant)
    refuse_imports(chosen)
    return chosen


@lru_cache(maxsize=2)
def _of_all(scenario_text: str, overrides: str, variant: str, seed: int) -> Workplace:
    return build_workplace(_scenario(scenario_text, overrides, variant), seed)


@lru_cache(maxsize=2)
def _of_one(
    scenario_text: str, overrides: str, variant: str, seed: int, device: int, file: str, classes: int | None
) -> Workplace | None:
    """The workplace of a device whose rows are at hand by themselves, in its own file or kept; else None."""
    scenario = _scenario(scenario_text, overrides, variant)
    if file:
        rows = rows_of_file(Path(file).expanduser(), device, classes, dtype_of(scenario))
        return build_workplace(scenario, seed, rows)
    kept = kept_rows(_name_of_rows(scenario, seed, device), device)
    return None if kept is None else build_workplace(scenario, seed, kept)


def workplace(context: Context, config: Mapping[str, Any]) -> Workplace:
    """The workplace of the variant and seed that the server's configuration names, built once in a process.

    A node started with ``--node-config 'data="FILE"'`` uses the rows of that file (:func:`clients.own_file.
    rows_of_file`; ``classes=C`` says how many classes there are in all) in place of its part of the scenario's source.
    """
    log_as_environment_says()
    run, device = context.run_config, device_number(context)
    named = str(run["scenario"]), str(run.get("overrides", "")), str(config["variant"])
    seed, file = int(config["seed"]), str(context.node_config.get("data", ""))
    scenario = _scenario(*named)
    profile = profile_of(context)
    torch.set_num_threads(min(scenario.training.threads, profile.threads))
    work = _of_one(*named, seed, device, file, _classes(context))
    if work is None:
        before = _of_all.cache_info().misses
        work = _of_all(*named, seed)
        if _of_all.cache_info().misses > before:  # a process that lives on has all rows in memory from now on
            rows = work.data.device(device)
            keep_rows(_name_of_rows(scenario, seed, device), rows, work.data.num_classes)
    work.trainer.autocast = profile.autocast_of(dtype_of(scenario))
    return work


def _classes(context: Context) -> int | None:
    given = context.node_config.get("classes")
    if given is not None and (not isinstance(given, int) or given < 1):
        raise ValueError(f"node_config classes = {given!r}: accepted: a whole number >= 1")
    return given


def _name_of_rows(scenario: Scenario, seed: int, device: int) -> str:
    source = scenario.data.source
    versions = __version__, version("flwr-datasets"), fingerprint(source)
    training = scenario.training.dtype, scenario.training.loss  # an autoencoder's targets are its inputs
    return rows_name(scenario.data.model_dump(), seed, device, training, versions)


def _residuals() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / "residuals"


app = client_app(workplace, [keeping_residuals(_residuals, device_number)])
