"""What the server decides: Flower's strategies over the air."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from strategies.air_grid import AirGrid
    from strategies.names import STRATEGIES
    from strategies.over_the_air import OverTheAir

__all__ = ["STRATEGIES", "AirGrid", "OverTheAir"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={"air_grid": ["AirGrid"], "names": ["STRATEGIES"], "over_the_air": ["OverTheAir"]},
)
