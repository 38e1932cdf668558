"""A trained model with the rows to calibrate, to judge and to test on: of a run folder, or named with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from clients.data import FederatedData, Split, load
from clients.losses import LOSSES
from fedmac.scenario_errors import ScenarioError


@dataclass(frozen=True)
class TrainedModel:
    """What is to be restructured.

    Attributes
    ----------
    model : torch.nn.Module
    source : str
        Where it comes from.
    calibration : Split
        Of the training rows; only their inputs are used.
    judged : Split
        Rows by which a plan is picked: the validation rows, or the calibration rows where there are none.
    test : Split
        Rows that nothing is chosen by; may be empty.
    """

    model: nn.Module
    source: str
    calibration: Split
    judged: Split
    test: Split


def of_run(folder: Path, variant: str | None, seed: int | None, rows: int) -> TrainedModel:
    """The final model of a run with the run's own data.

    Parameters
    ----------
    folder : path
        A run folder.
    variant, seed
        Which of its models; the first of each by default.
    rows : int
        Calibration rows at most.
    """
    from fedmac.build_devices import build_data
    from fedmac.runs import Run

    run = Run(folder)
    model = run.load_model(variant, seed)
    name = run.variants[0] if variant is None else variant
    scenario = next(v.scenario for v in run.scenario.resolve() if v.name == name)
    if not LOSSES[scenario.training.loss].of_classes:
        raise ScenarioError(
            f"training.loss = {scenario.training.loss!r} of {folder}: plans are judged by their accuracy; accepted: a "
            f"model of classes ({', '.join(name for name, loss in LOSSES.items() if loss.of_classes)})"
        )
    data = build_data(scenario, scenario.seed if seed is None else seed)
    return _with_rows(model, f"{folder} ({name}, seed {scenario.seed if seed is None else seed})", data, rows)


def of_factory(name: str, weights: Path | None, data_source: str | None, rows: int) -> TrainedModel:
    """A model by name or import path with weights from a safetensors file.

    Parameters
    ----------
    name : str
        ``package.module:factory``, called with ``input_shape`` and ``num_classes``.
    weights : path
        Safetensors, its names as in the model's state.
    data_source : str
        As ``data.source`` of a scenario.
    rows : int
        Calibration rows at most.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from clients.models import build

    if weights is None or data_source is None:
        missing = "weights" if weights is None else "data"
        raise ScenarioError(f"{missing}: not given for model {name!r}; accepted: --weights FILE and --data NAME")
    if not weights.is_file():
        raise ScenarioError(f"weights = '{weights}': no such file; accepted: a safetensors file")
    try:
        data = load(data_source, devices=1, partition="iid").grouped()
        model = build(name, data.input_shape, data.num_classes)
        model.load_state_dict(load_file(weights))
    except (ValueError, TypeError) as error:
        raise ScenarioError(str(error)) from error
    except (RuntimeError, SafetensorError) as error:
        raise ScenarioError(f"weights = '{weights}': not of model {name!r}: {error}") from error
    return _with_rows(model, f"{name} with {weights}", data, rows)


def _with_rows(model: nn.Module, source: str, data: FederatedData, rows: int) -> TrainedModel:
    # Rows lie device by device: every k-th is of all devices.
    every = max(1, len(data.train) // rows)
    chosen = torch.arange(0, len(data.train), every)[:rows]
    calibration = Split(data.train.inputs[chosen], data.train.targets[chosen])
    judged = data.validation if len(data.validation) else calibration
    return TrainedModel(model.eval().cpu(), source, calibration, judged, data.test)
