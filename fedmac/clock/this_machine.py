"""How fast this machine trains, and what it draws while it does."""

from __future__ import annotations

import platform
import statistics
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from clients.device_profiles import ComputeProfile
from clients.training_flops import flops_per_example

ENERGY_COUNTER = Path("/sys/class/powercap/intel-rapl:0/energy_uj")
"""The processor's own count of what it has drawn, in microjoules, where Linux offers and permits it."""

BATCH, FEATURES, HIDDEN, CLASSES = 32, 784, 128, 10
PERIODS = 5


class PowerUnknown(ValueError):
    """Nothing on this machine says what it draws."""


def measure_profile(
    name: str, *, seconds: float = 2.0, device: str = "cpu", watts: float | None = None, idle_watts: float = 0.0
) -> ComputeProfile:
    """Train a small network (784-128-10, mini-batches of 32) and time it.

    Parameters
    ----------
    name : str
        Of the profile.
    seconds : float, default 2
        How long to train, > 0, after a warm-up of a fifth of it.
    device : str, default "cpu"
        PyTorch's name of it.
    watts : float, optional
        Drawn while training; measured from the processor's counter if left out.
    idle_watts : float, default 0
        Drawn while waiting.

    Returns
    -------
    ComputeProfile
        Its speed is the median over five periods; what was measured has three digits.

    Raises
    ------
    PowerUnknown
        If `watts` is not given and cannot be measured.
    ValueError
        If a value is out of range.
    """
    if not seconds > 0:
        raise ValueError(f"seconds = {seconds!r}: accepted: a number > 0")
    if watts is None and (device != "cpu" or _joules_drawn() is None):
        raise PowerUnknown(
            f"watts: not given, and {ENERGY_COUNTER} cannot be read; accepted: --watts, what the machine draws while "
            "it trains (by a wattmeter, or its data sheet)"
        )
    work = _Work(torch.device(device))
    work.speed(seconds / PERIODS)
    before, start = _joules_drawn(), time.perf_counter()
    speeds = [work.speed(seconds / PERIODS) for _ in range(PERIODS)]
    after, passed = _joules_drawn(), time.perf_counter() - start
    how = "given"
    if watts is None:
        assert before is not None
        assert after is not None
        if after <= before:
            raise PowerUnknown(f"watts: {ENERGY_COUNTER} did not advance; accepted: --watts")
        watts, how = rounded((after - before) / passed), "by the processor's counter"
    where = f"{platform.machine()}, {_counted(torch.get_num_threads(), 'thread')}" if device == "cpu" else device
    source = (
        f"Measured by `fedmac profile`: PyTorch {torch.__version__} on {where}, MLP {FEATURES}-{HIDDEN}-{CLASSES}, "
        f"batches of {BATCH}; power {how}"
    )
    return ComputeProfile(
        name,
        flops_per_s=rounded(statistics.median(speeds)),
        busy_watts=watts,
        idle_watts=idle_watts,
        source=source,
    )


def rounded(value: float) -> float:
    """A measured value to three significant digits; two measurements differ by more."""
    return float(f"{value:.3g}")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


class _Work:
    """Gradient steps on one mini-batch."""

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device = device
        self.inputs = torch.randn(BATCH, FEATURES, generator=generator).to(device)
        self.targets = torch.randint(CLASSES, (BATCH,), generator=generator).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        self.model = layers.to(device)
        self.flops = BATCH * flops_per_example(self.model, self.inputs, self.targets, nn.functional.cross_entropy)

    def speed(self, seconds: float) -> float:
        """FLOP/s over about so many seconds."""
        parameters: list[torch.Tensor] = list(self.model.parameters())
        steps, start = 0, time.perf_counter()
        while True:
            loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-0.01)
            steps += 1
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            if (passed := time.perf_counter() - start) >= seconds:
                return self.flops * steps / passed


def _joules_drawn() -> float | None:
    with suppress(OSError, ValueError):
        return int(ENERGY_COUNTER.read_text()) / 1e6
    return None
