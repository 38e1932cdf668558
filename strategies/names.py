"""Flower's strategies by the names a scenario uses."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StrategyName:
    """A strategy a scenario can name.

    Parameters
    ----------
    path : str
        ``module:class``.
    summary : str
        One line for `fedmac list`.
    individual : bool
        Whether it needs each device's own update.
    second_order : bool
        Whether it makes iterations of its own, of devices' gradients and curvature, instead of averaging what devices
        train: ``training.learning_rate`` and its like are not used.
    noise_safe : bool
        Of second-order ones: whether it is there for links with noise.
    on_clock : bool
        Whether it is a system of a server and its workers, or of peers: it runs on a simulated clock or in real time.
    peers : bool
        Whether it is a system without a server; the class is then no Flower strategy.
    """

    path: str
    summary: str
    individual: bool = False
    second_order: bool = False
    noise_safe: bool = False
    on_clock: bool = False
    peers: bool = False

    def load(self) -> type[Any]:
        """The class."""
        module, _, name = self.path.partition(":")
        loaded: type[Any] = getattr(importlib.import_module(module), name)
        return loaded


_FLOWER = "flwr.serverapp.strategy"

STRATEGIES: dict[str, StrategyName] = {
    "fedavg": StrategyName(f"{_FLOWER}:FedAvg", "weighted mean of the models"),
    "fedavgm": StrategyName(f"{_FLOWER}:FedAvgM", "FedAvg with momentum at the server"),
    "fedadam": StrategyName(f"{_FLOWER}:FedAdam", "Adam at the server on the mean update"),
    "fedyogi": StrategyName(f"{_FLOWER}:FedYogi", "Yogi at the server on the mean update"),
    "fedadagrad": StrategyName(f"{_FLOWER}:FedAdagrad", "Adagrad at the server on the mean update"),
    "fedprox": StrategyName(f"{_FLOWER}:FedProx", "FedAvg with a proximal term at the devices (proximal_mu)"),
    "dingo": StrategyName(
        "strategies.dingo:Dingo",
        "Newton-type, lowers the gradient's norm; no learning rate",
        second_order=True,
        noise_safe=True,
    ),
    "giant": StrategyName(
        "strategies.giant:Giant",
        "mean of the devices' Newton directions, for convex losses",
        second_order=True,
        noise_safe=True,
    ),
    "disco": StrategyName(
        "strategies.disco:Disco", "damped Newton, conjugate gradients across devices, convex", second_order=True
    ),
    "inexact-dane": StrategyName(
        "strategies.dane:InexactDane", "mean of models from SVRG steps on a shared problem", second_order=True
    ),
    "aide": StrategyName("strategies.dane:Aide", "InexactDANE, accelerated", second_order=True),
    "synchronous-sgd": StrategyName(
        "strategies.synchronous_sgd:SynchronousSgd", "a step against the mean mini-batch gradient", second_order=True
    ),
    "synchronous": StrategyName(
        "strategies.systems.synchronous:Synchronous",
        "server that waits for its workers' updates, or for all but some",
        on_clock=True,
    ),
    "asynchronous": StrategyName(
        "strategies.systems.asynchronous:Asynchronous", "server that moves with every update", on_clock=True
    ),
    "stale-synchronous": StrategyName(
        "strategies.systems.stale_synchronous:StaleSynchronous",
        "asynchronous, but nobody runs far ahead of the slowest",
        on_clock=True,
    ),
    "fedbuff": StrategyName(
        "strategies.systems.fedbuff:FedBuff", "asynchronous, moves after every so many updates", on_clock=True
    ),
    "ring-all-reduce": StrategyName(
        "strategies.peers.ring_all_reduce:RingAllReduce",
        "no server: workers average their updates round a ring",
        on_clock=True,
        peers=True,
    ),
    "gossip": StrategyName(
        "strategies.peers.named_gossip:NamedGossip",
        "no server: each worker averages its model with a random neighbour",
        on_clock=True,
        peers=True,
    ),
    "elastic-averaging": StrategyName(
        "strategies.peers.elastic_averaging:ElasticAveraging",
        "workers on springs around a centre, which one of them keeps",
        on_clock=True,
        peers=True,
    ),
    "fedmedian": StrategyName(f"{_FLOWER}:FedMedian", "coordinate-wise median", True),
    "fedtrimmedavg": StrategyName(f"{_FLOWER}:FedTrimmedAvg", "trimmed mean", True),
    "krum": StrategyName("strategies.krum:Krum", "the update nearest to its neighbours", True),
    "multikrum": StrategyName("strategies.krum:MultiKrum", "mean of the updates nearest to their neighbours", True),
    "bulyan": StrategyName("strategies.krum:Bulyan", "Krum, then trimmed mean", True),
    "qfedavg": StrategyName(
        f"{_FLOWER}:QFedAvg", "fair reweighting by loss; client_learning_rate is that of training if left out", True
    ),
}
"""Strategies by name; those that need individual updates go with a digital uplink."""

SEPARATELY_CODED = (
    "coding each exchange on its own by a ratio r bounds its SNR by 1 / (1/r - 1), whatever the energy, and curvature "
    "magnifies what is left"
)
"""Why a strategy that is there for links with noise refuses a code."""

SET_BY_FEDMAC = frozenset(
    {
        "self", "min_train_nodes", "min_evaluate_nodes", "min_available_nodes", "weighted_by_key", "arrayrecord_key",
        "configrecord_key", "train_metrics_aggr_fn", "evaluate_metrics_aggr_fn", "on_iteration",
        "devices",
    }
)  # fmt: skip


def strategy_parameters(name: str) -> list[str]:
    """The parameters a scenario may give the strategy `name`."""
    signature = inspect.signature(STRATEGIES[name].load().__init__)
    return [p for p in signature.parameters if p not in SET_BY_FEDMAC]


def check_strategy(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse an unknown strategy, or a parameter it does not have.

    Raises
    ------
    ValueError
        Naming the value and what is accepted.
    """
    if name not in STRATEGIES:
        close = difflib.get_close_matches(name, STRATEGIES, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ValueError(f"name = {name!r}: unknown strategy; {hint}accepted: {', '.join(STRATEGIES)}")
    if not parameters:
        return
    accepted = strategy_parameters(name)
    for key, value in parameters.items():
        if key not in accepted:
            close = difflib.get_close_matches(key, accepted, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"{key} = {value!r}: {name} has no such parameter; {hint}accepted: {', '.join(accepted)}")
        default = _default(name, key)
        if isinstance(default, str | bool):
            if type(value) is not type(default):
                raise ValueError(
                    f"{key} = {value!r}: accepted: {'a text' if isinstance(default, str) else 'true, false'}"
                )
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key} = {value!r}: accepted: a number")


def _default(name: str, parameter: str) -> object:
    return inspect.signature(STRATEGIES[name].load().__init__).parameters[parameter].default
