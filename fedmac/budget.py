"""What a scenario may spend over all its rounds: the budget that a fair comparison holds equal."""

from __future__ import annotations

from dataclasses import dataclass

from fedmac.build import build_uplink, senders
from fedmac.scenario import Scenario


@dataclass(frozen=True)
class Budget:
    """What a variant may spend.

    Attributes
    ----------
    channel_uses : int
        Real channel uses, all rounds.
    energy : float
        Mean over the devices, J (or units of noise energy in normalised units), all rounds.
    examples : int or None
        Rows that it learns from; None where a record does not say.
    """

    channel_uses: int
    energy: float
    examples: int | None = None


def budget_of(scenario: Scenario, parameters: int, examples: int | None = None) -> Budget:
    """The budget of a scenario without variants.

    Parameters
    ----------
    scenario : Scenario
        One variant of a run; see :meth:`fedmac.Scenario.resolve`.
    parameters : int
        Length d of an update.
    examples : int, optional
        Rows that all devices hold together.

    Notes
    -----
    A round is one exchange. Of the devices, ``strategy.fraction_train`` send in each.
    """
    grant = build_uplink(scenario, scenario.seed).grant(parameters)
    share = senders(scenario) / scenario.data.devices
    return Budget(
        channel_uses=scenario.rounds * grant.uses,
        energy=scenario.rounds * share * grant.energy,
        examples=examples,
    )
