"""The SuperLink behind a gate: from other machines it serves devices and nothing else.

One port of Flower's SuperLink answers three APIs. The Fleet API knows registered devices by their keys; the Control
API (start a run, which is code that runs on the server and on every device; register a key) and the Runtime API (be
the ServerApp of a run) know nobody and serve everybody who reaches the port. Here they serve the SuperLink's own
machine only. Run as ``python -m fedmac.deployment.gate`` with the arguments of ``flower-superlink``.

Source: Flower 1.41 ``flwr.superlink.main`` (routes under ``/v1/fleet``, ``/v1/control``, ``/v1/runtime``).
"""

from __future__ import annotations

import ipaddress
import logging
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fedmac.deployment.control import GATE

_FOR_DEVICES = "/v1/fleet/"
_HEALTH = "/health"
_QUESTIONS = ("ControlServicer.ListRuns", "ControlServicer.ListNodes")  # asked each second


class Gate:
    """ASGI middleware that lets other machines reach the devices' API only.

    The gate itself answers ``/gate``: whoever starts a SuperLink asks there whether it is behind one (GET), and lets
    devices in when their keys are registered (POST, from this machine). Devices are told to come back later (status
    503) until then: a SuperNode whose key is not registered yet would give up for good.

    Parameters
    ----------
    app : ASGI application
        What is behind the gate.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.open_to_devices = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or (answer := self._answer(scope)) is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _answer(self, scope: Scope) -> PlainTextResponse | None:
        """What the gate itself has to say; None if the request passes."""
        path, from_here = scope["path"], _is_from_here(scope)
        if path.startswith(_FOR_DEVICES):
            return None if self.open_to_devices else PlainTextResponse("not ready yet", status_code=503)
        if path == GATE:
            self.open_to_devices |= from_here and scope.get("method") == "POST"
            return PlainTextResponse("open to devices" if self.open_to_devices else "closed")
        if path == _HEALTH or from_here:
            return None
        return PlainTextResponse("only the server's own machine may ask this; run `fedmac run` there", status_code=403)


def _is_from_here(scope: Scope) -> bool:
    """Whether a request comes from this machine: over loopback, or from the very address that it was sent to."""
    client, server = scope.get("client"), scope.get("server")
    if not client:
        return False
    try:
        return ipaddress.ip_address(client[0]).is_loopback or bool(server and client[0] == server[0])
    except ValueError:
        return False


def _is_no_question(record: logging.LogRecord) -> bool:
    """Whether a line of the log is more than one of our own questions."""
    text = record.getMessage()
    return not any(question in text for question in _QUESTIONS)


def main() -> None:
    """Run ``flower-superlink`` with its app behind the gate."""
    from flwr.superlink import main as superlink
    from flwr.superlink.cli.flower_superlink import flower_superlink

    create = superlink.create_app

    def create_behind_gate(*arguments: Any, **named: Any) -> Any:
        app = create(*arguments, **named)
        app.add_middleware(Gate)  # the last one added is the outermost
        return app

    superlink.create_app = create_behind_gate
    logging.getLogger("flwr").addFilter(_is_no_question)
    logging.getLogger("uvicorn.access").addFilter(lambda record: "/v1/control/list-" not in record.getMessage())
    flower_superlink()


if __name__ == "__main__":
    main()
