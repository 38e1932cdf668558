"""The cells of scenarios/scaling.py: workers, networks, stragglers, systems; and the clock of a larger model.

The model that learns is small, so that thousands of runs fit on one core. Its clock is that of ResNet-18 on ImageNet,
the model of Jin et al.: a device's speed is scaled so that a row takes as long as 32 images there, and the links so
that a message does. Times, joules and who waits for whom follow from these alone.

Source: P. H. Jin, Q. Yuan, F. Iandola, K. Keutzer, "How to scale distributed deep learning?", arXiv:1611.04581, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clients.device_profiles import shipped_profiles
from clients.training_flops import flops_per_example
from fedmac.build_devices import build_workplace
from fedmac.clock.links import LINK_KINDS
from fedmac.scenario import Scenario

IMAGES_PER_ROW = 32
FLOPS_PER_ROW = IMAGES_PER_ROW * 3 * 2 * 1.814e9
"""Of ResNet-18 in training on so many images: 1.814e9 products and sums an image forward (torchvision's count), twice
as many back. A worker's row stands for a mini-batch."""
PARAMETERS = 11_689_512
"""Of ResNet-18."""

NETWORKS: Mapping[str, tuple[str, str]] = {
    "data-centre": ("infiniband", "data-centre-gpu"),
    "wifi": ("wifi", "flagship-phone"),
    "cellular": ("lte", "flagship-phone"),
}
"""Link and device profile by name."""
STRAGGLERS: Mapping[str, Mapping[str, float]] = {
    "none": {"jitter": 0.02, "straggler_probability": 0.0, "straggler_slowdown": 1.0},
    "mild": {"jitter": 0.2, "straggler_probability": 0.05, "straggler_slowdown": 3.0},
    "heavy": {"jitter": 0.5, "straggler_probability": 0.1, "straggler_slowdown": 10.0},
}
WORKERS = (2, 4, 8, 16, 32, 64, 128)
BATCH = {"weak": 1, "strong": 128}
"""Rows of a worker's step, which are the same for any p; and of all workers' steps together."""

SYSTEMS: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "synchronous": lambda p: {"name": "synchronous"},
    "backup-workers": lambda p: {"name": "synchronous", "backup_workers": math.ceil(p / 8)},
    "asynchronous": lambda p: {"name": "asynchronous", "server_learning_rate": 1 / p},
    "asynchronous-bounded": lambda p: {
        "name": "asynchronous",
        "server_learning_rate": 1 / p,
        "largest_staleness": 2 * p,
    },
    "stale-synchronous": lambda p: {"name": "stale-synchronous", "staleness_bound": 2},
    "fedbuff": lambda p: {"name": "fedbuff", "buffer": p // 2},
    "ring-all-reduce": lambda p: {"name": "ring-all-reduce"},
    "gossip": lambda p: {"name": "gossip"},
    "elastic-averaging": lambda p: {"name": "elastic-averaging"},
}
"""The table `strategy` of each system for p workers. Rates are of the mean: 1/p of a worker's where each update counts
in full, so that one learning rate means about the same step everywhere."""
WITH_BARRIER = ("synchronous", "backup-workers", "ring-all-reduce")
"""Systems in which a round begins for all at once."""


@dataclass(frozen=True)
class Cell:
    """One setting, in which all systems run.

    Attributes
    ----------
    scaling : {"weak", "strong"}
        Rows a worker fixed, or rows of all together.
    network, stragglers : str
        Keys of :data:`NETWORKS` and :data:`STRAGGLERS`.
    workers : int
        p.
    """

    scaling: str
    network: str
    stragglers: str
    workers: int

    @property
    def name(self) -> str:
        """As `--only` sees it."""
        return f"{self.scaling} {self.network} {self.stragglers} p={self.workers}"

    @property
    def folder(self) -> Path:
        """Below that of the study."""
        return Path(self.scaling, self.network, self.stragglers, f"p-{self.workers}")

    @property
    def batch(self) -> int:
        """Rows of a worker's step."""
        rows = BATCH[self.scaling]
        return rows if self.scaling == "weak" else max(1, rows // self.workers)

    def settings(self, scenario: Scenario) -> dict[str, Any]:
        """The scenario's keys in this cell."""
        link, profile = NETWORKS[self.network]
        return {
            "data": {"devices": self.workers},
            "training": {"batch_size": self.batch},
            "devices": {**STRAGGLERS[self.stragglers], **worker_profile(scenario, profile)},
            "network": network_table(scenario, link),
        }


def worker_profile(scenario: Scenario, name: str) -> dict[str, Any]:
    """Keys of the table `devices`: a shipped profile, so slow that a row takes as long as 32 images of ResNet-18."""
    profile = asdict(shipped_profiles()[name])
    profile["flops_per_s"] = float(f"{profile['flops_per_s'] * size_of(scenario)[0] / FLOPS_PER_ROW:.4g}")
    profile["source"] = f"{name}, {FLOPS_PER_ROW:.4g} FLOP a row"
    own = {key: value for key, value in profile.items() if key not in ("name", "checked") and value is not None}
    return {"profiles": ["worker"], "own": {"worker": own}}


def network_table(scenario: Scenario, link: str) -> dict[str, Any]:
    """The table `network`: a link at the rates at which a message takes as long as ResNet-18's; latencies stay."""
    kind, share = LINK_KINDS[link], size_of(scenario)[1] / PARAMETERS
    rates = {"up_mbps": kind.link.up_bps, "down_mbps": kind.link.down_bps, "server_mbps": kind.server_bps}
    return {"link": link, **{key: float(f"{bps / 1e6 * share:.4g}") for key, bps in rates.items()}}


_SIZES: dict[str, tuple[float, int]] = {}


def size_of(scenario: Scenario) -> tuple[float, int]:
    """FLOPs of the scenario's model in training on a row, and its number of parameters."""
    kind = repr((scenario.data.source, scenario.model))
    if kind not in _SIZES:
        work = build_workplace(scenario, 0)
        trainer, rows = work.trainer, work.data.train
        flops = flops_per_example(trainer.model, rows.inputs[:2], rows.targets[:2], trainer.loss.mean)
        _SIZES[kind] = flops, trainer.size
    return _SIZES[kind]
