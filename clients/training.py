"""What a device computes: gradient steps on its own examples, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from channel.randomness import key
from clients.batch_order import batches
from clients.data import Split
from clients.dense import DenseNetwork
from clients.factored_step import factored_step
from clients.factors import DenseFactors
from clients.losses import CROSS_ENTROPY, Loss
from clients.parameters import flat_state

Step = Callable[[Tensor, Tensor], Tensor]
"""Takes one step on a batch (inputs, targets) and returns the loss before it."""


@dataclass(frozen=True)
class Training:
    r"""How a device trains: stochastic gradient descent on :math:`f_i(w) + (l_2/2)\|w\|^2 + (\mu/2)\|w - w_t\|^2`.

    :math:`f_i` is the mean loss over the device's examples and :math:`w_t` the received model.

    Parameters
    ----------
    learning_rate : float
        Step size, > 0.
    full_batch : bool, default False
        Each step uses all the device's examples; otherwise mini-batches of `batch_size`.
    local_steps : int, default 1
        Number of full-batch steps (only with `full_batch`).
    local_epochs : int, default 1
        Passes over the device's examples (only without `full_batch`).
    local_batches : int, optional
        Number of mini-batch steps in place of `local_epochs`, from as many epochs as they take; 1 is FedSGD.
    batch_size : int, default 32
        Mini-batch size; the last batch of an epoch may be smaller.
    momentum : float, default 0
        Momentum of the device's own steps, forgotten between rounds.
    warm_up : int, default 0
        Rounds over which the step size rises to its value: in round t of the first it is t / warm_up of it.
    l2 : float, default 0
        Weight of the L2 term of the objective.
    proximal_mu : float, default 0
        Weight of FedProx's proximal term; FedProx sends its own value with each round.
    clip_norm : float, optional
        C > 0: an update of a larger norm is scaled down to it before it is sent; see :mod:`clients.clipping`.
    """

    learning_rate: float
    full_batch: bool = False
    local_steps: int = 1
    local_epochs: int = 1
    local_batches: int | None = None
    batch_size: int = 32
    momentum: float = 0.0
    warm_up: int = 0
    l2: float = 0.0
    proximal_mu: float = 0.0
    clip_norm: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Mean loss, fraction of right answers (None where targets are not classes) and number of examples."""

    loss: float
    accuracy: float | None
    examples: int


class Trainer:
    """Trains and evaluates one model for any number of devices, one after the other.

    The model's state lies in one flat vector, so that a device's work costs two copies beside its gradient steps.

    Parameters
    ----------
    model : nn.Module
        Taken over: its state is overwritten by every call.
    device : torch.device or str, default "cpu"
        Where to compute.
    loss : Loss, default cross-entropy
        What to lower.

    Attributes
    ----------
    autocast : torch.dtype or None
        Type in which training multiplies (PyTorch's automatic mixed precision); None, as at first, for the model's own.
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu", loss: Loss = CROSS_ENTROPY) -> None:
        self.device = torch.device(device)
        self.loss = loss
        self.model = model.to(self.device)
        self.state = flat_state(self.model)
        self.parameters: list[Tensor] = [p for p in self.model.parameters() if p.requires_grad]
        self.dense = DenseNetwork.of(self.model) if loss is CROSS_ENTROPY else None
        self.autocast: torch.dtype | None = None
        self.counters = [(b, b.clone()) for b in self.model.buffers() if not b.is_floating_point()]

    @property
    def size(self) -> int:
        """Length d of the flat state."""
        return self.state.numel()

    def train(
        self,
        received: Tensor,
        data: Split,
        training: Training,
        *,
        seed: int,
        round: int,
        device: int,
        factors: dict[str, DenseFactors] | None = None,
    ) -> tuple[Tensor, float]:
        """One device's work of one round.

        Parameters
        ----------
        received : Tensor of shape (d,)
            The received model.
        data : Split
            The device's examples.
        training : Training
            Steps to take.
        seed, round, device : int
            Name the order of the mini-batches.
        factors : dict, optional
            Empty; filled with the factors of the one step's gradient, by layer in the order of the model's state. The
            step is then made of them: :math:`-\\eta X^T D` for a weight, :math:`-\\eta` times the sum of D's rows for a
            bias.

        Returns
        -------
        state : Tensor of shape (d,)
            The trained model; a view that the next call overwrites.
        loss : float
            Mean loss over the examples visited, each before its step.

        Raises
        ------
        ValueError
            If factors are asked for, and the work is more than a plain step on one mini-batch, or the model has
            parameters of which there are none.
        """
        self.state.copy_(received)
        for counter, start in self.counters:
            counter.copy_(start)
        self.model.train()
        inputs, targets = data.inputs.to(self.device), data.targets.to(self.device)
        if factors is None:
            take_step = self._written_out(training) or self._differentiated(training)
        else:
            take_step = factored_step(self.model, self.loss.mean, training, factors)
        losses, examples = [], []
        with self._layers_drawing_from(key(seed, "layers", round, device)), self._precision():
            for x, y in batches(inputs, targets, training, seed=seed, round=round, device=device):
                losses.append(take_step(x, y))
                examples.append(y.shape[0])
        mean = torch.dot(torch.stack(losses).double().cpu(), torch.tensor(examples, dtype=torch.float64)) / sum(
            examples
        )
        return self.state, float(mean)

    @contextmanager
    def _layers_drawing_from(self, seed: int) -> Iterator[None]:
        """Layers such as dropout know only PyTorch's global generator: seed it for them, and put it back after."""
        if self.dense is not None:
            yield
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def _precision(self) -> torch.autocast:
        # without the cache: it would keep the weights as they were before the first step
        enabled = self.autocast is not None
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled, cache_enabled=False)

    def _written_out(self, training: Training) -> Step | None:
        """Plain steps of a fully connected network, without automatic differentiation."""
        network = self.dense
        if network is None or training.momentum or training.proximal_mu or self.autocast is not None:
            return None
        return lambda x, y: network.step(x, y, training.learning_rate, training.l2)

    def _differentiated(self, training: Training) -> Step:
        """Steps of any model, from the parameters' present values."""
        parameters = self.parameters
        anchor = [p.detach().clone() for p in parameters] if training.proximal_mu else None
        velocity: list[Tensor] = []

        def take_step(x: Tensor, y: Tensor) -> Tensor:
            loss = self.loss.mean(self.model(x), y)
            step = list(torch.autograd.grad(loss, parameters))
            with torch.no_grad():
                if training.l2:
                    torch._foreach_add_(step, parameters, alpha=training.l2)
                if anchor is not None:
                    torch._foreach_add_(step, torch._foreach_sub(parameters, anchor), alpha=training.proximal_mu)
                if training.momentum and velocity:
                    torch._foreach_mul_(velocity, training.momentum)
                    torch._foreach_add_(velocity, step)
                elif training.momentum:
                    velocity.extend(step)
                torch._foreach_add_(parameters, velocity or step, alpha=-training.learning_rate)
            return loss.detach()

        return take_step

    @torch.no_grad()
    def evaluate(self, state: Tensor, data: Split, batch_size: int = 2048) -> Evaluation:
        """Mean loss and, where targets are classes, accuracy of `state` on `data`; NaN on an empty split."""
        self.state.copy_(state)
        self.model.eval()
        loss, right, examples = 0.0, 0, len(data.targets)
        for start in range(0, examples, batch_size):
            x = data.inputs[start : start + batch_size].to(self.device)
            y = data.targets[start : start + batch_size].to(self.device)
            outputs = self.model(x)
            loss += float(self.loss.mean(outputs, y)) * len(y)
            if self.loss.of_classes:
                right += int((outputs.argmax(dim=1) == y).sum())
        loss, accuracy = (loss / examples, right / examples) if examples else (math.nan, math.nan)
        return Evaluation(loss, accuracy if self.loss.of_classes else None, examples)


def compute_device(name: str) -> torch.device:
    """The device named "auto", "cpu" or "cuda" (or "cuda:1"); "auto" takes a GPU where there is one.

    Raises
    ------
    ValueError
        If the name is unknown or the GPU is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"training.device: {name!r} is not a device; accepted: auto, cpu, cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"training.device: {name!r} is not supported; accepted: auto, cpu, cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"training.device: {name!r} asked for, but PyTorch finds no GPU; accepted here: auto, cpu")
    return device
