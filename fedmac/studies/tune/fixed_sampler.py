"""An Optuna sampler whose values are known beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.samplers import BaseSampler

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


class FixedSampler(BaseSampler):
    """Gives each parameter the one value that it was made with.

    Optuna's own way, ``enqueue_trial``, leaves a waiting trial in the storage if the process is killed just then.

    Parameters
    ----------
    values : mapping
        The value of each parameter by its name.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """No parameter is sampled jointly with others."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, see :meth:`infer_relative_search_space`."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a parameter."""
        return self.values[param_name]
