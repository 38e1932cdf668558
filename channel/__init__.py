"""The air: propagation and fading, the multiple-access channel, codes, power control and the ledger of costs.

Everything public is here by its name, for example ``from channel import RandomLinearCode``; modules load
when a name of theirs is first used, so importing the package costs nothing and cvxpy comes in with the first
problem it solves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from channel.channel import Channel, ChannelState
    from channel.codes import CODES, Code, RandomLinearCode, RandomMask, Uncoded
    from channel.fading import AWGN, FADINGS, Fading, GaussMarkov, Rayleigh, Rician
    from channel.layout import Layout
    from channel.ledger import Cost, Ledger
    from channel.mac import effective_real, pack, receive, superpose, unpack
    from channel.order import TransmitOrder
    from channel.power import (
        POWER_CONTROLS,
        Allocation,
        ChannelInversion,
        FullPower,
        MinimumMSE,
        PowerControl,
        PowerControlError,
        TruncatedInversion,
    )
    from channel.propagation import (
        FreeSpace,
        LogDistance,
        Propagation,
        db_from_linear,
        dbm_from_watts,
        linear_from_db,
        thermal_noise_power,
        uniform_disc,
        watts_from_dbm,
    )
    from channel.randomness import generator, key, torch_generator
    from channel.uplinks import UPLINKS, AnalogUplink, Cohort, IdealUplink, Reception, Uplink

__getattr__, __dir__, _ = lazy.attach(
    __name__,
    submod_attrs={
        "channel": ["Channel", "ChannelState"],
        "codes": ["CODES", "Code", "RandomLinearCode", "RandomMask", "Uncoded"],
        "fading": ["AWGN", "FADINGS", "Fading", "GaussMarkov", "Rayleigh", "Rician"],
        "layout": ["Layout"],
        "ledger": ["Cost", "Ledger"],
        "mac": ["effective_real", "pack", "receive", "superpose", "unpack"],
        "order": ["TransmitOrder"],
        "power": [
            "POWER_CONTROLS",
            "Allocation",
            "ChannelInversion",
            "FullPower",
            "MinimumMSE",
            "PowerControl",
            "PowerControlError",
            "TruncatedInversion",
        ],
        "propagation": [
            "FreeSpace",
            "LogDistance",
            "Propagation",
            "db_from_linear",
            "dbm_from_watts",
            "linear_from_db",
            "thermal_noise_power",
            "uniform_disc",
            "watts_from_dbm",
        ],
        "randomness": ["generator", "key", "torch_generator"],
        "uplinks": ["UPLINKS", "AnalogUplink", "Cohort", "IdealUplink", "Reception", "Uplink"],
    },
)

__all__ = [
    "AWGN",
    "CODES",
    "FADINGS",
    "POWER_CONTROLS",
    "UPLINKS",
    "Allocation",
    "AnalogUplink",
    "Channel",
    "ChannelInversion",
    "ChannelState",
    "Code",
    "Cohort",
    "Cost",
    "Fading",
    "FreeSpace",
    "FullPower",
    "GaussMarkov",
    "IdealUplink",
    "Layout",
    "Ledger",
    "LogDistance",
    "MinimumMSE",
    "PowerControl",
    "PowerControlError",
    "Propagation",
    "RandomLinearCode",
    "RandomMask",
    "Rayleigh",
    "Reception",
    "Rician",
    "TransmitOrder",
    "TruncatedInversion",
    "Uncoded",
    "Uplink",
    "db_from_linear",
    "dbm_from_watts",
    "effective_real",
    "generator",
    "key",
    "linear_from_db",
    "pack",
    "receive",
    "superpose",
    "thermal_noise_power",
    "torch_generator",
    "uniform_disc",
    "unpack",
    "watts_from_dbm",
]
