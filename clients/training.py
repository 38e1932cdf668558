"""What a device computes: gradient steps on its own examples, and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from channel.randomness import torch_generator
from clients.data import Split
from clients.parameters import flat_state


@dataclass(frozen=True)
class Training:
    r"""How a device trains: stochastic gradient descent on :math:`f_i(w) + (l_2/2)\|w\|^2 + (\mu/2)\|w - w_t\|^2`.

    :math:`f_i` is the mean cross-entropy over the device's examples and :math:`w_t` the received model.

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
    batch_size : int, default 32
        Mini-batch size; the last batch of an epoch may be smaller.
    momentum : float, default 0
        Momentum of the device's own steps, forgotten between rounds.
    l2 : float, default 0
        Weight of the L2 term of the objective.
    proximal_mu : float, default 0
        Weight of FedProx's proximal term; FedProx sends its own value with each round.
    """

    learning_rate: float
    full_batch: bool = False
    local_steps: int = 1
    local_epochs: int = 1
    batch_size: int = 32
    momentum: float = 0.0
    l2: float = 0.0
    proximal_mu: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy, fraction of right answers and number of examples."""

    loss: float
    accuracy: float
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
    """

    def __init__(self, model: nn.Module, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.state = flat_state(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]

    @property
    def size(self) -> int:
        """Length d of the flat state."""
        return self.state.numel()

    def train(
        self, received: Tensor, data: Split, training: Training, *, seed: int, round: int, device: int
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

        Returns
        -------
        state : Tensor of shape (d,)
            The trained model; a view that the next call overwrites.
        loss : float
            Mean cross-entropy over the examples visited, each before its step.
        """
        self.state.copy_(received)
        self.model.train()
        anchor = [p.detach().clone() for p in self.parameters] if training.proximal_mu else None
        inputs, targets = data.inputs.to(self.device), data.targets.to(self.device)
        velocity: Sequence[Tensor] | None = None
        total, visited = torch.zeros((), device=self.device), 0
        for batch in _batches(len(targets), training, seed, round, device):
            x, y = (inputs, targets) if batch is None else (inputs[batch], targets[batch])
            loss = functional.cross_entropy(self.model(x), y)
            step = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                if training.l2:
                    torch._foreach_add_(step, self.parameters, alpha=training.l2)
                if anchor is not None:
                    torch._foreach_add_(step, self.parameters, alpha=training.proximal_mu)
                    torch._foreach_add_(step, anchor, alpha=-training.proximal_mu)
                if training.momentum:
                    if velocity is None:
                        velocity = step
                    else:
                        torch._foreach_mul_(velocity, training.momentum)
                        torch._foreach_add_(velocity, step)
                    step = velocity
                torch._foreach_add_(self.parameters, step, alpha=-training.learning_rate)
                total += loss.detach() * len(y)
            visited += len(y)
        return self.state, float(total) / max(visited, 1)

    @torch.no_grad()
    def evaluate(self, state: Tensor, data: Split, batch_size: int = 2048) -> Evaluation:
        """Mean cross-entropy and accuracy of `state` on `data`; NaN on an empty split."""
        self.state.copy_(state)
        self.model.eval()
        loss, right, examples = 0.0, 0, len(data.targets)
        for start in range(0, examples, batch_size):
            x = data.inputs[start : start + batch_size].to(self.device)
            y = data.targets[start : start + batch_size].to(self.device)
            logits = self.model(x)
            loss += float(functional.cross_entropy(logits, y, reduction="sum"))
            right += int((logits.argmax(dim=1) == y).sum())
        if examples == 0:
            return Evaluation(float("nan"), float("nan"), 0)
        return Evaluation(loss / examples, right / examples, examples)


def _batches(examples: int, training: Training, seed: int, round: int, device: int) -> list[Tensor | None]:
    """Row indices of each step's batch; None stands for all rows."""
    if training.full_batch:
        return [None] * training.local_steps
    generator = torch_generator(seed, "batches", round, device)
    batches: list[Tensor | None] = []
    for _ in range(training.local_epochs):
        batches += torch.randperm(examples, generator=generator).split(training.batch_size)
    return batches


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
