"""Whether a SuperLink answers, and by how much its clock and this machine's differ."""

from __future__ import annotations

import http.client
import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedmac.doctor.finding import Finding, Level

AHEAD_S, BEHIND_S = 5.0, 305.0
"""How far a device's clock may be ahead of the SuperLink's, and behind it: its signed requests are refused beyond.

Source: Flower 1.41 ``flwr.common.constant``, SYSTEM_TIME_TOLERANCE and TIMESTAMP_TOLERANCE.
"""

WORTH_SAYING_S = 2.0
TIMEOUT_S = 5.0


def clock(address: str, authority: Path | None = None) -> Finding:
    """Ask a SuperLink on ``/health``, over TLS if it speaks it, and compare the date of its answer with ours.

    Parameters
    ----------
    address : str
        ``host:port``.
    authority : Path, optional
        Certificate of the authority that has signed the SuperLink's; the system's authorities by default.
    """
    about = f"server {address}"
    try:
        secure, date, now = _asked(address, authority)
    except ssl.SSLCertVerificationError as error:
        advice = "the folder's ca.crt must be the one that signed it, for this name or address"
        return Finding("problem", about, f"its certificate is not accepted: {error.verify_message}", advice)
    except (OSError, http.client.HTTPException) as error:
        advice = "start it (fedmac deploy server), or see that its port is let through"
        return Finding("problem", about, f"no answer: {_why(error)}", advice)
    level: Level = "ok" if secure else "warning"
    how = "answers" if secure else "answers without TLS, so that anyone on the way can read and change everything"
    try:
        skew = parsedate_to_datetime(date or "").timestamp() + 0.5 - now  # a date is cut to whole seconds
    except ValueError:
        return Finding(level, about, f"{how}; its clock is unknown, as it says no date")
    said = f"{how}; this clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} its clock"
    if not -AHEAD_S <= skew <= BEHIND_S:
        return Finding("problem", about, f"{said}, and it refuses this device", "set the clock (NTP)")
    if abs(skew) > WORTH_SAYING_S:
        return Finding("warning", about, said, f"set the clock (NTP): more than {AHEAD_S:.0f} s ahead is refused")
    return Finding(level, about, f"{how}; clocks agree within {WORTH_SAYING_S:.0f} s")


def _asked(address: str, authority: Path | None) -> tuple[bool, str | None, float]:
    """Whether it speaks TLS, the date it says, and our time (s) half-way between question and answer."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    context = ssl.create_default_context(cafile=authority)
    try:
        return True, *_date(http.client.HTTPSConnection(host, int(port), timeout=TIMEOUT_S, context=context))
    except ssl.SSLCertVerificationError:
        raise
    except (ssl.SSLError, ConnectionResetError):  # it speaks no TLS
        return False, *_date(http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S))


def _date(connection: http.client.HTTPConnection) -> tuple[str | None, float]:
    try:
        before = time.time()
        connection.request("GET", "/health")
        response = connection.getresponse()
        after = time.time()
        response.read(1024)
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise OSError(f"status {response.status} on /health: no SuperLink")
    return response.getheader("Date"), (before + after) / 2


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, TimeoutError):
        return f"none within {TIMEOUT_S:.0f} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
