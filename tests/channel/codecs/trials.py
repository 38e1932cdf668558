"""Updates to compress, and what many draws of a codec make of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from channel.codecs.codec import Codec


def gaussian(size: int, seed: int = 1) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def heavy_tailed(size: int, seed: int = 2) -> Tensor:
    """Student's t with four degrees of freedom, in blocks of 1000 (no power of two) whose scale is lognormal."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.standard_normal(-(-size // 1000)) / 2).repeat(1000)[:size]
    return torch.from_numpy(rng.standard_t(4, size) * scales).float()


UPDATES = {"gaussian": gaussian, "heavy-tailed": heavy_tailed}


def nmse(decoded: Tensor, update: Tensor) -> float:
    return float((decoded.double() - update.double()).square().sum() / update.double().square().sum())


@dataclass(frozen=True)
class Trials:
    """Means over seeds, and the standard error of the NMSE."""

    nmse: float
    standard_error: float
    bits: float


def trials(codec: Codec, update: Tensor, seeds: int) -> Trials:
    errors, bits = [], []
    for seed in range(seeds):
        packet = codec.encode(update, seed=seed)
        errors.append(nmse(codec.decode(packet, seed=seed), update))
        bits.append(packet.bits)
    return Trials(float(np.mean(errors)), float(np.std(errors, ddof=1) / seeds**0.5), float(np.mean(bits)))


def squared_bias(codec: Codec, bucket: Tensor, copies: int, seeds: int) -> tuple[float, float]:
    """Squared relative bias over copies times seeds draws for one bucket, and the standard error of a zero one."""
    draws = copies * seeds
    total, error = torch.zeros(len(bucket), dtype=torch.float64), 0.0
    for seed in range(seeds):
        update = bucket.repeat(copies)
        decoded = codec.decode(codec.encode(update, seed=seed), seed=seed)
        total += decoded.double().view(copies, -1).sum(dim=0)
        error += nmse(decoded, update) / seeds
    bias = (nmse(total / draws, bucket) - error / draws) / (1 - 1 / draws)
    return bias, error / draws * (2 / len(bucket)) ** 0.5
