"""A worker's part on disk: one safetensors file, the steps in its metadata. It is all that a device needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from strategies.repurpose.network import Weights
from strategies.repurpose.part import Part, PartLayer, part_of
from strategies.repurpose.plan import Plan
from strategies.repurpose.plan_file import BadPlan, step_of_table, step_table


def part_path(folder: str | Path, worker: int) -> Path:
    """Where a worker's part lies in a folder of parts."""
    return Path(folder) / f"part-{worker}.safetensors"


def save_parts(plan: Plan, folder: str | Path) -> None:
    """Write every worker's part into a folder, which is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for worker in range(plan.workers):
        save_part(part_of(plan, worker), part_path(folder, worker))


def save_part(part: Part, path: str | Path) -> None:
    """Write a part."""
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    for name, layer in part.layers.items():
        tensors[f"weight/{name}"], tensors[f"bias/{name}"] = layer.weights.weight, layer.weights.bias
        tensors |= {f"sends/{name}/{q}": places for q, places in layer.sends.items()}
        layers[name] = {"receives": {str(q): n for q, n in layer.receives.items()}, "talks": layer.talks}
    tensors |= {f"owned/{number}": units.clone() for number, units in enumerate(part.owned) if units is not None}
    tensors |= {f"gathered/{number}": units for number, units in enumerate(part.gathered)}
    said = {
        "worker": part.worker,
        "workers": part.workers,
        "plan_hash": part.plan_hash,
        "steps": [step_table(step) for step in part.steps],
        "layers": layers,
        "input_shape": list(part.input_shape),
    }
    save_file(tensors, path, metadata={"part": json.dumps(said)})


def load_part(path: str | Path) -> Part:
    """Read a part.

    Raises
    ------
    BadPlan
        If there is none, or it is damaged.
    """
    if not Path(path).is_file():
        raise BadPlan(f"{path}: no part here; accepted: a file that `fedmac repurpose` has written")
    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["part"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        return _part(said, tensors)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BadPlan(f"{path}: damaged part ({type(error).__name__}: {error}); accepted: the file as saved") from None


def _part(said: dict[str, Any], tensors: dict[str, Tensor]) -> Part:
    steps = tuple(step_of_table(table) for table in said["steps"])
    layers = {}
    for name, layer in said["layers"].items():
        start = f"sends/{name}/"
        sends = {int(key.removeprefix(start)): places for key, places in tensors.items() if key.startswith(start)}
        receives = {int(q): int(n) for q, n in layer["receives"].items()}
        weights = Weights(tensors[f"weight/{name}"], tensors[f"bias/{name}"])
        layers[name] = PartLayer(weights, dict(sorted(sends.items())), receives, layer["talks"])
    owned = tuple(tensors.get(f"owned/{number}") for number in range(len(steps) + 1))
    gathered = tuple(tensors[f"gathered/{number}"].to(torch.int64) for number in range(said["workers"]))
    return Part(
        said["worker"], said["workers"], said["plan_hash"], steps, layers, owned, gathered, tuple(said["input_shape"])
    )
