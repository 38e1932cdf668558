r"""What a device's processes may use, and what they draw while they compute.

The power of a busy core at clock f is :math:`\kappa f^3`, with :math:`\kappa = 10^{-28}` F the effective switched
capacitance that studies of federated learning on phones use [1]_; the energy of a message's work is that of `threads`
such cores over the seconds that it took. It is an estimate: nothing on the device is measured but time.

References
----------
.. [1] Z. Yang, M. Chen, W. Saad, C. S. Hong, M. Shikh-Bahaei, "Energy efficient federated learning over wireless
   communication networks", IEEE Trans. Wireless Commun. 20(3), 2021.
"""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable

from channel.order import TRANSMISSION_KEY
from channel.records import records_in

VARIABLE = "FEDMAC_PROFILE"
"""Environment variable that names a profile; the node's own configuration ``profile`` goes before it."""

SWITCHED_CAPACITANCE = 1e-28
"""Effective switched capacitance of a phone's core, F [1]_."""

UNLIMITED = 1 << 30
"""Threads of a device without a limit."""

BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
"""Features in /proc/cpuinfo of CPUs that multiply bfloat16; without one of them it is slower than float32."""


@dataclass(frozen=True)
class DeviceProfile:
    """A class of devices.

    Parameters
    ----------
    name : str
        As it is asked for.
    threads : int
        Most threads of one computation; the scenario's ``training.threads`` may ask for fewer.
    memory_mb : int or None
        Limit on a process's own data (MiB, ``RLIMIT_DATA``); none if not given.
    half_precision : bool
        Whether to train in bfloat16 where the CPU has instructions for it.
    watts : float or None
        Drawn while computing, by all threads; None where nothing is known.
    """

    name: str
    threads: int = UNLIMITED
    memory_mb: int | None = None
    half_precision: bool = False
    watts: float | None = None

    def autocast_of(self, dtype: torch.dtype) -> torch.dtype | None:
        """The type in which training a model of `dtype` multiplies; None for the model's own."""
        faster = self.half_precision and dtype == torch.float32 and multiplies_bfloat16()
        return torch.bfloat16 if faster else None

    def limit(self) -> None:
        """Put the limit on memory on this process, for good; one that is lower already stays."""
        if self.memory_mb is None:
            return
        wanted = self.memory_mb << 20
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limits = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))

    def joules(self, seconds: float) -> float | None:
        """Estimate of what `seconds` of work take; None where the power is not known."""
        return None if self.watts is None else self.watts * seconds


def core_watts(clock_hz: float) -> float:
    r"""Power of a busy core, :math:`\kappa f^3` (W) at a clock of f (Hz)."""
    return SWITCHED_CAPACITANCE * clock_hz**3


FULL = DeviceProfile("full")
"""The machine as it is."""

PROFILES = {
    profile.name: profile
    for profile in (
        FULL,
        # Two cores at the 2 GHz of [1]; 1 GiB is what a process of a phone with 4 GiB can have beside others.
        DeviceProfile("phone", threads=2, memory_mb=1024, half_precision=True, watts=2 * core_watts(2e9)),
    )
}
"""Profiles by name."""


def profile_of(context: Context) -> DeviceProfile:
    """The profile that the node's configuration names, else the environment variable; ``full`` if neither does.

    Raises
    ------
    ValueError
        If there is no such profile.
    """
    configured = context.node_config.get("profile")
    name = str(configured) if configured is not None else os.environ.get(VARIABLE, FULL.name)
    if name not in PROFILES:
        where = "node_config profile" if configured is not None else VARIABLE
        raise ValueError(f"{where} = {name!r}: unknown; accepted: {', '.join(PROFILES)}")
    return PROFILES[name]


def within_profile(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower mod: keep to the device's profile, and say in the reply what its work took, by an estimate.

    To be the first of the mods. A transmission then says ``profile``, ``precision`` (of an update: the type in which
    training multiplied) and, where the profile knows its power, ``joules``: watts times the ``seconds`` that it says
    already. Of these a run's record keeps the energy only.

    Raises
    ------
    ValueError
        If there is no such profile.
    MemoryError
        If the work needs more memory than the profile allows; the message names both.
    """
    profile = profile_of(context)
    profile.limit()
    dtype = _model_dtype(message)
    try:
        reply = call_next(message, context)
    except (MemoryError, RuntimeError) as error:  # PyTorch says it with a RuntimeError
        if profile.memory_mb is None or not _is_of_memory(error):
            raise
        raise MemoryError(
            f"profile {profile.name!r}: the device's work needs more than its memory_mb = {profile.memory_mb}; "
            "accepted: a smaller model, batch or data set, or another profile"
        ) from error
    if reply.has_error() or TRANSMISSION_KEY not in records_in(reply.content, ConfigRecord):
        return reply
    said = records_in(reply.content, ConfigRecord)[TRANSMISSION_KEY]
    seconds = said.get("seconds")
    if profile is not FULL and isinstance(seconds, int | float):
        said["profile"] = profile.name
        if dtype is not None:
            said["precision"] = str(profile.autocast_of(dtype) or dtype).removeprefix("torch.")
        if (joules := profile.joules(float(seconds))) is not None:
            said["joules"] = joules
    return reply


@lru_cache(maxsize=1)
def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16 numbers, as far as Linux says."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return not BFLOAT16_FLAGS.isdisjoint(value.split())
    return False


def _model_dtype(message: Message) -> torch.dtype | None:
    """The type of the model to train; None where the message asks for something else, which keeps its own type."""
    arrays = next(iter(records_in(message.content, ArrayRecord).values()), None)
    if message.metadata.message_type != MessageType.TRAIN or not arrays:
        return None
    return {"float32": torch.float32, "float64": torch.float64}.get(next(iter(arrays.values())).dtype)


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "allocate memory" in str(error)
