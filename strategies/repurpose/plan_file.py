"""A plan on disk: ``plan.toml`` says what it is, ``plan.safetensors`` holds weights, owners and who is sent what."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from strategies.repurpose.accounts import account
from strategies.repurpose.network import ACTIVATIONS, POOLS, WEIGHTED, Network, Step, Weights
from strategies.repurpose.ownership import ownership
from strategies.repurpose.plan import LayerPlan, Plan
from strategies.repurpose.plan_hash import hash_of_bytes, hash_of_model

TOML, TENSORS = "plan.toml", "plan.safetensors"
FORMAT = 1
KINDS = {*ACTIVATIONS, *POOLS, *WEIGHTED, "add", "flatten", "reshape"}


class BadPlan(ValueError):
    """No plan there, or one that is damaged or of another model."""


def save_plan(plan: Plan, folder: str | Path, facts: dict[str, Any] | None = None) -> None:
    """Write a plan into a folder, which is made.

    Parameters
    ----------
    plan : Plan
    folder : path
    facts : dict, optional
        What else a reader should know, such as accuracies; plain values for TOML.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = save(_tensors(plan))
    (folder / TENSORS).write_bytes(tensors)
    counts = account(plan)
    text = {
        "format": FORMAT,
        "workers": plan.workers,
        "model_hash": plan.model_hash,
        "tensors_hash": hash_of_bytes(tensors),
        "input_shape": list(plan.network.input_shape),
        "sends": counts.sends,
        "bytes": counts.bytes,
        "multiply_adds": [int(number) for number in counts.multiply_adds],
        **({"facts": facts} if facts else {}),
        "steps": [step_table(step) for step in plan.network.steps],
        "layers": [
            {"name": layer.name, "sends": layer.sends, "bytes": int(layer.bytes_between.sum())}
            | {"error": plan.layers[layer.name].error, "objectives": list(plan.layers[layer.name].objectives)}
            for layer in counts.layers
        ],
    }
    (folder / TOML).write_text(tomli_w.dumps(text), encoding="utf-8")


def load_plan(folder: str | Path, model: nn.Module | None = None) -> Plan:
    """Read a plan; with a model, check that it is the one that was restructured.

    Raises
    ------
    BadPlan
        If there is no plan, it is damaged, or of another model.
    """
    folder = Path(folder)
    if not (folder / TOML).is_file() or not (folder / TENSORS).is_file():
        raise BadPlan(f"{folder}: no plan here; accepted: a folder with {TOML} and {TENSORS}")
    try:
        text = tomllib.loads((folder / TOML).read_text(encoding="utf-8"))
        if text["format"] != FORMAT:
            raise BadPlan(f"{folder / TOML}: format = {text['format']!r}; accepted: {FORMAT}")
        if hash_of_bytes((folder / TENSORS).read_bytes()) != text["tensors_hash"]:
            raise BadPlan(f"{folder / TENSORS}: not the file that {TOML} was written with; accepted: both as saved")
        plan = _plan(text, load_file(folder / TENSORS))
    except (KeyError, TypeError, tomllib.TOMLDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise BadPlan(
            f"{folder}: damaged plan ({type(error).__name__}: {error}); accepted: both files as saved"
        ) from None
    if model is not None:
        check_model(plan, model)
    return plan


def check_model(plan: Plan, model: nn.Module) -> None:
    """Check that a plan is of a model.

    Raises
    ------
    BadPlan
        If it is of another.
    """
    found = hash_of_model(model)
    if found != plan.model_hash:
        raise BadPlan(f"model: its hash is {found[:12]}…; accepted: {plan.model_hash[:12]}…, that the plan was made of")


def hash_of_plan(plan: Plan) -> str:
    """What tells one plan from another, also of the same model: ``tensors_hash`` of its file."""
    return hash_of_bytes(save(_tensors(plan)))


def _tensors(plan: Plan) -> dict[str, Tensor]:
    found = {f"owners/{number}": torch.from_numpy(np.array(o)) for number, o in enumerate(plan.owners)}
    for name, own in plan.network.weights.items():
        found[f"weight/{name}"], found[f"bias/{name}"] = own.weight.contiguous(), own.bias.contiguous()
        found[f"kept/{name}"] = plan.layers[name].kept.contiguous()
        found[f"sends/{name}"] = torch.from_numpy(np.ascontiguousarray(plan.layers[name].sends))
    return found


def _plan(text: dict[str, Any], tensors: dict[str, Tensor]) -> Plan:
    steps = tuple(step_of_table(table) for table in text["steps"])
    names = [step.name for step in steps if step.weighted]
    weights = {name: Weights(tensors[f"weight/{name}"], tensors[f"bias/{name}"]) for name in names}
    network = Network(steps, weights, tuple(text["input_shape"]))
    said = {row["name"]: row for row in text["layers"]}
    layers = {
        name: LayerPlan(
            tensors[f"kept/{name}"],
            tensors[f"sends/{name}"].numpy(),
            said[name]["error"],
            tuple(said[name]["objectives"]),
        )
        for name in names
    }
    owners = tuple(tensors[f"owners/{number}"].numpy() for number in range(len(ownership(network).units)))
    return Plan(network, owners, layers, text["workers"], text["model_hash"])


def step_table(step: Step) -> dict[str, Any]:
    """A step as plain values, for TOML or JSON."""
    fields = {"kind": step.kind, "name": step.name, "sources": list(step.sources)}
    return {**fields, "units": step.units, "elements": step.elements, "options": dict(step.options)}


def step_of_table(table: dict[str, Any]) -> Step:
    """A step from plain values.

    Raises
    ------
    BadPlan
        If its kind is unknown: nothing but the functions of :mod:`~strategies.repurpose.network` is ever called.
    """
    if table["kind"] not in KINDS:
        raise BadPlan(f"steps: kind = {table['kind']!r}; accepted: {', '.join(sorted(KINDS))}")
    options = table.get("options", {})
    return Step(table["kind"], table["name"], tuple(table["sources"]), table["units"], table["elements"], dict(options))
