"""The transmit order: all a device must know to turn its update into channel symbols."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from channel.codes import CODES, Code
from channel.randomness import key

ORDER_KEY = "fedmac.order"
"""Name of the record in a training message that carries the order."""

TRANSMISSION_KEY = "fedmac.transmission"
"""Name of the record in a reply that carries what the device reports beside its symbols."""

SYMBOLS_KEY = "fedmac.symbols"
"""Name of the array record in a reply that carries the symbols, one array of the same name."""

BLOCKS_KEY = "fedmac.blocks"
"""Name of the record in a message whose reply is vectors instead of a trained model: their sizes by name."""

SCALARS_KEY = "fedmac.scalars"
"""Name of the record in such a message that says how many numbers the reply's metrics must hold, by name."""

RECEPTION_KEY = "fedmac.reception"
"""Name of the record in a merged reply that says which nodes it is the mean of."""

DEVICE_QUERY = "fedmac.device-query"
"""Name of the record in a message by which the server asks a node which device (data partition) it is."""


@dataclass(frozen=True)
class TransmitOrder:
    """Code, its parameters and the shared seed of one exchange.

    Parameters
    ----------
    code : str
        Name of the code, a key of :data:`channel.codes.CODES`.
    parameters : mapping
        Keyword arguments of the code.
    seed : int
        Seed of this exchange's code, shared by every device and the server.
    """

    code: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def build_code(self) -> Code:
        """The code this order names.

        Raises
        ------
        ValueError
            If the code is unknown or refuses its parameters.
        """
        if self.code not in CODES:
            raise ValueError(f"transmit order: unknown code {self.code!r}; known codes: {', '.join(CODES)}")
        return CODES[self.code](**self.parameters)

    def to_config(self) -> dict[str, Any]:
        """The order as scalars, for a Flower ``ConfigRecord``."""
        return {"code": self.code, "parameters": json.dumps(dict(self.parameters)), "seed": self.seed}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TransmitOrder:
        """Read an order written by :meth:`to_config`."""
        return cls(str(config["code"]), json.loads(str(config["parameters"])), int(config["seed"]))

    def of_block(self, block: int) -> TransmitOrder:
        """The order for one of several vectors sent in the same exchange: the first is coded by the order itself."""
        return self if block == 0 else TransmitOrder(self.code, self.parameters, key(self.seed, "block", block))
