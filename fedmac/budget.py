"""What a scenario may spend over all its rounds: the budget that a fair comparison holds equal."""

from __future__ import annotations

from dataclasses import dataclass

from fedmac.build import build_uplink, senders
from fedmac.scenario import Scenario
from strategies.names import STRATEGIES


@dataclass(frozen=True)
class Budget:
    """What a variant may spend.

    Attributes
    ----------
    channel_uses : int or None
        Real channel uses, all rounds; None where the exchanges of a round depend on how the run goes.
    energy : float or None
        Mean over the devices, J (or units of noise energy in normalised units), all rounds; None likewise.
    examples : int or None
        Rows that it learns from; None where a record does not say.
    """

    channel_uses: int | None
    energy: float | None
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
    A round is one exchange, of which ``strategy.fraction_train`` of the devices are part. A second-order strategy
    makes as many exchanges as its iteration needs, which nobody knows in advance. On a digital link without a deadline
    it is the channel that decides.
    """
    if STRATEGIES[scenario.strategy.name].second_order:
        return Budget(None, None, examples)
    grant = build_uplink(scenario, scenario.seed).grant(parameters)
    if grant is None:
        return Budget(None, None, examples)
    share = senders(scenario) / scenario.data.devices
    return Budget(
        channel_uses=scenario.rounds * grant.uses,
        energy=scenario.rounds * share * grant.energy,
        examples=examples,
    )
