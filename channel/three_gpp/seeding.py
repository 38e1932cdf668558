"""Sionna with a seed of ours, leaving no trace: not in its own settings, nor in PyTorch's global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch


def require_sionna() -> None:
    """Raise where Sionna is not installed; nothing is imported.

    Raises
    ------
    ImportError
        With what to install.
    """
    if find_spec("sionna") is None:
        raise ImportError("3GPP channels need Sionna: pip install 'fedmac[3gpp]'")


@contextmanager
def sionna_seeded(key: int) -> Iterator[None]:
    """Within the block Sionna draws from the stream of a key, on the CPU, with float32 unless told otherwise.

    PyTorch has one thread meanwhile: sums of several threads differ in the last digit with their number.

    Sionna keeps one generator a device and settings for the whole process, and seeds PyTorch's global generators as it
    is imported; all of them are afterwards what they were before.

    Parameters
    ----------
    key : int
        From :func:`channel.randomness.key`.

    Raises
    ------
    ImportError
        Sionna is not installed.
    """
    require_sionna()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        from sionna.phy import config

    drawn_from = config.torch_rng("cpu")
    state, device, precision = drawn_from.get_state(), config.device, config.precision
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        config.device, config.precision = "cpu", "single"
        drawn_from.manual_seed(key)
        yield
    finally:
        drawn_from.set_state(state)
        config.device, config.precision = device, precision
        torch.set_num_threads(threads)
