"""The transmit order: all a device must know to turn its update into channel symbols."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from channel.codecs import CODECS, FACTOR_CODECS, Codec, DitheredQuantizer, FactorCodec, NestedDitheredQuantizer
from channel.codecs.packet import Packing
from channel.codes import CODES, Code
from channel.randomness import key

ORDER_KEY = "fedmac.order"
"""Name of the record in a training message that carries the order."""

FACTORS_KEY = "fedmac.factors"
"""Name of the record in a message to the app that asks for the factors of its layers' gradients, and of the array
record in the reply that holds them: ``<layer>.inputs`` and ``<layer>.errors`` of each dense layer."""

TRANSMISSION_KEY = "fedmac.transmission"
"""Name of the record in a reply that carries what the device reports beside its symbols."""

SYMBOLS_KEY = "fedmac.symbols"
"""Name of the array record in a reply that carries the symbols, one array of the same name."""

PACKET_KEY = "fedmac.packet"
"""Name of the array record in a reply that carries a packet's bytes, one array of the same name."""

BLOCKS_KEY = "fedmac.blocks"
"""Name of the record in a message whose reply is vectors instead of a trained model: their sizes by name."""

SCALARS_KEY = "fedmac.scalars"
"""Name of the record in such a message that says how many numbers the reply's metrics must hold, by name."""

RECEPTION_KEY = "fedmac.reception"
"""Name of the record in a merged reply that says which nodes it is the mean of."""

DEVICE = "device"
"""Key of the order's record: the number that the server knows the device by."""

SEED = "seed"
"""Key of the order's record, and of what a device reports beside what it sends: the exchange's seed, by which the
server knows that a reply is not an earlier one again."""

ANEW = "anew"
"""Key of the order's record: whether it is the first that the device gets, so that what it kept is of another run."""

KEPT_RUN, KEPT_NUMBER, KEPT_SAFE, KEPT_AFTER = "kept-run", "kept-number", "kept-safe", "kept-after"
"""Keys of the order's record, for devices that keep on their own disk what the next order needs: the run's name, the
order's number in it, the last number that a checkpoint stands for, and, in a run that goes on from one, its number."""

NO_PACKET = -1
"""In place of an exchange's seed: a device of which no packet has been decoded yet."""

DEVICE_QUERY = "fedmac.device-query"
"""Name of the record in a message by which the server asks a node which device (data partition) it is."""


class OrderError(ValueError):
    """An order that cannot be read, or names what there is not."""


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
        OrderError
            If the code is unknown or refuses its parameters.
        """
        code: Code = _made("transmit", "code", self.code, CODES, self.parameters)
        return code

    def to_config(self) -> dict[str, Any]:
        """The order as scalars, for a Flower ``ConfigRecord``."""
        return {"code": self.code, "parameters": json.dumps(dict(self.parameters)), "seed": self.seed}

    def own(self, device: int) -> dict[str, Any]:
        """What it says to this device beside."""
        return {DEVICE: device}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TransmitOrder:
        """Read an order written by :meth:`to_config`.

        Raises
        ------
        OrderError
            If an entry is missing or of the wrong type.
        """
        return cls(_read(config, "code", str), _parameters(config), _whole(config, SEED))

    def of_block(self, block: int) -> TransmitOrder:
        """The order for one of several vectors sent in the same exchange: the first is coded by the order itself."""
        return self if block == 0 else TransmitOrder(self.code, self.parameters, key(self.seed, "block", block))


@dataclass(frozen=True)
class PacketOrder:
    """Codec, its parameters and the seed of one exchange on a digital link.

    Parameters
    ----------
    codec : str
        Name of the codec, a key of :data:`channel.codecs.CODECS` or :data:`channel.codecs.FACTOR_CODECS`.
    parameters : mapping
        Keyword arguments of the codec.
    seed : int
        Seed of the exchange, of which each device has its own.
    packing : {"fixed", "entropy"}
        How packets hold their symbols.
    error_feedback : float, optional
        Weight of error feedback; none if not given.
    first_group : int
        With the nested quantiser devices up to this number send plain packets, see :mod:`channel.codecs.ceo`.
    budgets : mapping of int to int
        Bits that a device's packet may take, by device number; as many as it takes for those that are not there.
    lost_since : mapping of int to int
        Of devices whose last packet was not decoded: seed of the exchange of the last one that was, :data:`NO_PACKET`
        if none was. The last packet of those that are not there has arrived. A seed, and not only that the packet was
        lost, because the server cannot tell a device that sent for nothing from one that never got the order.
    """

    codec: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    packing: Packing = "fixed"
    error_feedback: float | None = None
    first_group: int = -1
    budgets: Mapping[int, int] = field(default_factory=dict)
    lost_since: Mapping[int, int] = field(default_factory=dict)

    def codec_of(self, device: int, size: int | None = None) -> Codec:
        """The codec that a device uses for an update of `size` entries; needed where there are budgets.

        Raises
        ------
        OrderError
            If the codec is unknown or refuses its parameters, or none so coarse that it keeps to the device's budget.
        """
        codec = self._codec_of(device)
        if size is None or device not in self.budgets:
            return codec
        coarsened = codec.coarsened(size, self.budgets[device], self.packing)
        if coarsened is None:
            raise OrderError(f"packet order: no packet of {codec.name} is as short as {self.budgets[device]} bits")
        return coarsened

    @property
    def factor_codec(self) -> FactorCodec | None:
        """The codec if it is one of factors, the same for every device; else None, see :meth:`codec_of`."""
        if self.codec not in FACTOR_CODECS:
            return None
        codec: FactorCodec = _made("packet", "codec", self.codec, FACTOR_CODECS, self.parameters)
        return codec

    def _codec_of(self, device: int) -> Codec:
        codec: Codec = _made("packet", "codec", self.codec, CODECS, self.parameters)
        if isinstance(codec, NestedDitheredQuantizer) and device <= self.first_group:
            return DitheredQuantizer(codec.levels, codec.bucket)
        return codec

    def seed_of(self, device: int) -> int:
        """The device's own seed: errors of devices that share one do not average out."""
        return key(self.seed, "packet", device)

    def to_config(self) -> dict[str, Any]:
        """What the order says to every device, as scalars, for a Flower ``ConfigRecord``."""
        config: dict[str, Any] = {
            "codec": self.codec,
            "parameters": json.dumps(dict(self.parameters)),
            "seed": self.seed,
            "packing": self.packing,
            "first-group": self.first_group,
        }
        return config | ({} if self.error_feedback is None else {"error-feedback": self.error_feedback})

    def own(self, device: int) -> dict[str, Any]:
        """What it says to this device beside."""
        own = (("budget", self.budgets), ("lost-since", self.lost_since))
        return {DEVICE: device} | {key: values[device] for key, values in own if device in values}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> PacketOrder:
        """Read an order written by :meth:`to_config` and :meth:`own`.

        Raises
        ------
        OrderError
            If an entry is missing or of the wrong type.
        """
        packing = _read(config, "packing", str)
        if packing not in get_args(Packing):
            raise OrderError(f"packing is {packing!r}; accepted: {', '.join(get_args(Packing))}")
        budgets, lost_since = (
            {_whole(config, DEVICE): _whole(config, key, least)} if key in config else {}
            for key, least in (("budget", 0), ("lost-since", NO_PACKET))
        )
        return cls(
            _read(config, "codec", str),
            _parameters(config),
            _whole(config, SEED),
            packing,
            float(_read(config, "error-feedback", (int, float))) if "error-feedback" in config else None,
            _whole(config, "first-group", -1),
            budgets,
            lost_since,
        )


def _made(order: str, what: str, name: str, known: Mapping[str, Callable[..., Any]], parameters: Any) -> Any:
    """What an order names, with its parameters."""
    if name not in known:
        raise OrderError(f"{order} order: unknown {what} {name!r}; known {what}s: {', '.join(known)}")
    try:
        return known[name](**parameters)
    except (TypeError, ValueError, OverflowError) as error:
        raise OrderError(f"{order} order: {what} {name}: {error}") from error


def _read(config: Mapping[str, Any], name: str, kinds: type | tuple[type, ...]) -> Any:
    value = config.get(name)
    if not isinstance(value, kinds) or isinstance(value, bool):
        accepted = "a text" if kinds is str else "a whole number" if kinds is int else "a number"
        raise OrderError(f"order: {name} is {value!r:.60}; accepted: {accepted}")
    return value


def _whole(config: Mapping[str, Any], name: str, least: int = 0) -> int:
    if (value := int(_read(config, name, int))) < least:
        raise OrderError(f"order: {name} is {value}; accepted: a whole number >= {least}")
    return value


def _parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    text = _read(config, "parameters", str)
    try:
        parameters = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OrderError(f"order: parameters are {text:.60}: {error}; accepted: a JSON object") from error
    if not isinstance(parameters, dict):
        raise OrderError(f"order: parameters are {text:.60}; accepted: a JSON object")
    return parameters
