"""Times federated averaging in pfl-research's PyTorch simulation, the fastest open simulator we know.

What is timed: the workload of ``bare_loop.py`` (same data, same initial MLP 784-128-10, full participation,
batch 10, one local epoch, SGD with learning rate 0.05), run by pfl's own classes as its benchmarks put them
together: ``SimulatedBackend``, ``FederatedAveraging`` and ``PyTorchModel``, in one process. Per round: the
cohort is drawn, each user is trained, the updates and pfl's own metrics are summed, averaged and applied with
SGD of rate 1.

Where pfl leaves a choice, the faster one that does the same work is taken:

* data are tensors in memory, and each user's dataset object is kept from round to round, so that pfl's cache
  of batches serves (``FederatedDataset.from_slices`` would cut the batches anew every round);
* no postprocessor: users hold equally many samples, so that pfl's default weight of 1 each is the right one;
* no privacy, no validation cohort, no central evaluation, no printing of metrics. pfl evaluates every user
  in round 0 whatever the evaluation frequency; that is the warm-up, which is left out of the figures.

How: a callback reads ``time.perf_counter`` when pfl reports the end of a central iteration; figures as in
``bare_loop.py``. Run inside the environment that ``pfl_environment.py`` makes, which has ``pfl==0.6.0``:
``benchmarks/.venv-pfl/bin/python benchmarks/pfl_reference.py --devices 100 --samples 50 --rounds 10``.
It prints one line of JSON.
"""

from __future__ import annotations

import os
import time

# pfl picks its device from this variable and would take a GPU otherwise: the reference is a CPU figure.
os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import torch
from bare_loop import BATCH_SIZE, LEARNING_RATE, Workload, make_data, make_model, parse_workload, report
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """The shared MLP with the two methods, ``loss`` and ``metrics``, that pfl asks of a PyTorch model."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = make_model()

    def forward(self, features: Tensor) -> Tensor:
        """Give the logits of shape (batch, 10)."""
        return self.layers(features)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Give the mean cross-entropy that a training step minimises."""
        return functional.cross_entropy(self(features), labels)

    @torch.no_grad()
    def metrics(self, features: Tensor, labels: Tensor) -> dict[str, Weighted]:
        """Give the summed cross-entropy with its number of samples; called in the warm-up round only."""
        return {"loss": Weighted(functional.cross_entropy(self(features), labels).item(), len(labels))}


class RoundClock(TrainingProcessCallback):
    """Notes when each central iteration ended (pfl's own StopwatchCallback rounds to 10 ms)."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """Note the time; never stop, add no metric."""
        self.ends.append(time.perf_counter())
        return False, Metrics()


def make_federated_dataset(workload: Workload) -> FederatedDataset:
    """Hold every user's data in memory; the sampler cycles, so each is drawn once a round."""
    users = [PyTorchTensorDataset(tensors) for tensors in make_data(workload.devices, workload.samples)]
    return FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", range(workload.devices)))


def simulate(workload: Workload) -> tuple[nn.Module, list[float]]:
    """Run a warm-up and ``workload.rounds`` further rounds; give the final model and each round's end."""
    classifier = Classifier()
    model = PyTorchModel(
        model=classifier,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(classifier.parameters(), lr=1.0),
    )
    users = make_federated_dataset(workload)
    clock = RoundClock()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=workload.rounds + 1,
            evaluation_frequency=workload.rounds + 1,
            train_cohort_size=workload.devices,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=users, val_data=users),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LEARNING_RATE, local_batch_size=BATCH_SIZE
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[clock],
        send_metrics_to_platform=False,
    )
    return classifier, clock.ends


def main() -> None:
    """Time pfl and print the line of JSON."""
    workload = parse_workload("Time federated averaging in pfl-research's PyTorch simulation.")
    torch.set_num_threads(workload.threads)
    model, round_ends = simulate(workload)
    print(report("pfl", workload, model, round_ends))


if __name__ == "__main__":
    main()
