"""FedMAC: federated learning over wireless multiple-access channels.

>>> import fedmac
>>> run = fedmac.run("scenarios/quickstart.toml")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from fedmac.optimum import optimum
    from fedmac.record import RecordError
    from fedmac.runs import Run, run
    from fedmac.scenario import Scenario
    from fedmac.scenario_errors import ScenarioError
    from fedmac.studies.compare.comparison import compare
    from fedmac.studies.sweep.perform import sweep
    from fedmac.studies.tune.perform import tune
    from strategies.air_grid import AirGrid
    from strategies.over_the_air import OverTheAir

__version__ = "0.1.0"

__all__ = [
    "AirGrid", "OverTheAir", "RecordError", "Run", "Scenario", "ScenarioError", "__version__",
    "compare", "optimum", "run", "sweep", "tune",
]  # fmt: skip

_LAZY = {
    "optimum": ["optimum"],
    "record": ["RecordError"],
    "runs": ["Run", "run"],
    "scenario": ["Scenario"],
    "scenario_errors": ["ScenarioError"],
    "studies.compare.comparison": ["compare"],
    "studies.sweep.perform": ["sweep"],
    "studies.tune.perform": ["tune"],
}

_attached, _, _ = lazy_loader.attach(__name__, submod_attrs=_LAZY)


def __getattr__(name: str) -> object:
    if name in ("AirGrid", "OverTheAir"):
        import strategies

        return getattr(strategies, name)
    return _attached(name)


def __dir__() -> list[str]:
    return sorted(__all__)
