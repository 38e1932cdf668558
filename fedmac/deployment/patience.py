"""A connection that was too slow is tried again, by all of Flower's processes."""

from __future__ import annotations

import httpx
from flwr.supercore import retry
from flwr.supercore.retry import RetryInvoker

PROGRAMS = {
    "flower-superexec": "flwr.supercore.cli:flower_superexec",
    "flwr-serverapp": "flwr.superlink.cli.flwr_serverapp:flwr_serverapp",
}
"""What a SuperLink starts by name, and speaks TLS with it; each with its entry point."""


def patient(invoker: RetryInvoker) -> RetryInvoker:
    """Let Flower's requests be tried again after a time-out, also one within a TLS handshake.

    Flower 1.41 (``flwr.supercore.retry.http_retry``) takes every error whose words have "ssl" in them for a bad
    certificate and gives up for good; so it does at "_ssl.c: The handshake operation timed out", which is what a busy
    server or a bad link leads to.

    Parameters
    ----------
    invoker : RetryInvoker
        Changed in place.

    Returns
    -------
    RetryInvoker
        The same.
    """
    gives_up = invoker.should_giveup

    def gives_up_now(error: Exception) -> bool:
        return not isinstance(error, httpx.TimeoutException) and gives_up is not None and gives_up(error)

    invoker.should_giveup = gives_up_now
    return invoker


def be_patient() -> None:
    """Make all requests of this process patient; to be called before other modules of Flower are imported."""
    make = retry.make_simple_http_retry_invoker
    retry.make_simple_http_retry_invoker = lambda: patient(make())


def patient_program(entry_point: str) -> str:
    """A Python program that runs an entry point, ``module:function``, patiently."""
    module, _, function = entry_point.partition(":")
    first = "from fedmac.deployment.patience import be_patient\n\nbe_patient()\n\n"
    return f"{first}from {module} import {function}\n\n{function}()\n"
