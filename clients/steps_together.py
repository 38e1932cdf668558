"""Which steps of several devices can be taken at once: those on as many examples."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clients.batch_order import LocalStep


@dataclass(frozen=True)
class StepTogether:
    """A step that some devices of a batch take at once, on as many examples each.

    Parameters
    ----------
    devices : list of int
        Who they are, as positions in the batch, ascending; g of them.
    rows : Tensor of shape (g, n)
        Their examples, each as a number among its device's own.
    """

    devices: list[int]
    rows: Tensor


def steps_together(steps: Sequence[Sequence[LocalStep]]) -> list[StepTogether]:
    """Put the steps of several devices side by side, without changing the order of any device's own.

    Steps go together that are of the same epoch and on as many examples; nobody's examples are padded, so that each
    device's arithmetic is that of training it alone. Within an epoch all full mini-batches go before the last ones,
    which may be smaller: n devices of any numbers of examples take as many steps in an epoch as the largest has full
    mini-batches, and one for each smaller size that occurs.

    Parameters
    ----------
    steps : sequence of sequence of LocalStep
        For each device its steps, in their order; within an epoch none is on more examples than the one before.
    """
    groups: dict[tuple[int, int, int], list[tuple[int, Tensor]]] = defaultdict(list)
    for device, own in enumerate(steps):
        alike: Counter[tuple[int, int]] = Counter()
        for step in own:
            kind = step.epoch, -len(step.rows)
            groups[*kind, alike[kind]].append((device, step.rows))
            alike[kind] += 1
    return [
        StepTogether([device for device, _ in groups[place]], torch.stack([rows for _, rows in groups[place]]))
        for place in sorted(groups)
    ]
