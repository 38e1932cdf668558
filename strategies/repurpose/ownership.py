"""Which values of a network must have the same owners: additions tie their operands."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.repurpose.network import Network, Step


@dataclass(frozen=True)
class Ownership:
    """Values of equal owners.

    Attributes
    ----------
    of_value : tuple of int
        For each value the number of its owners; 0 is the input's, and its shapes have owners of their own.
    units : tuple of int
        For each owners how many units they share out.
    first_layer : tuple of str
        For each owners the first weighted step that makes a value of theirs; empty where every worker holds all, which
        is so of the input.
    """

    of_value: tuple[int, ...]
    units: tuple[int, ...]
    first_layer: tuple[str, ...]

    def everywhere(self, number: int) -> bool:
        """Whether these owners are of what every worker holds."""
        return not self.first_layer[number]

    def before(self, step: Step) -> int:
        """Owners of what a step takes."""
        return self.of_value[step.sources[0]]


def ownership(network: Network) -> Ownership:
    """Find the values that share owners.

    A layer of weights makes a value with owners of its own; other steps leave each unit where it is. An addition is
    done where both of its operands are, so that they share owners; what every worker holds is at hand there.
    """
    parent: list[int] = [0]
    shared = {0}

    def root(value: int) -> int:
        while parent[value] != value:
            value = parent[value]
        return value

    for number, step in enumerate(network.steps, start=1):
        parent.append(number if step.weighted or step.kind == "reshape" else root(step.sources[0]))
        if step.kind == "reshape":
            shared.add(number)
        if step.kind == "add":
            first, second = sorted(root(source) for source in step.sources)
            parent[number] = second if first in shared else first
            if first not in shared:
                parent[second] = first
    roots = [root(value) for value in range(len(parent))]
    order = sorted(set(roots) | {0})
    return Ownership(
        of_value=tuple(order.index(found) for found in roots),
        units=tuple(network.units(found) for found in order),
        first_layer=tuple(network.steps[found - 1].name if found not in shared else "" for found in order),
    )
