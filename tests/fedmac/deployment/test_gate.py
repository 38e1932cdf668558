"""The gate in front of a SuperLink: devices from anywhere, everything else from the server's own machine only."""

from __future__ import annotations

import asyncio
import importlib
import logging

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fedmac.deployment import gate
from fedmac.deployment.gate import Gate

AFAR, HERE = "192.0.2.9", "127.0.0.1"
FLEET = "/v1/fleet/pull-messages"
CONTROL = ("/v1/control/start-run", "/v1/control/register-node", "/v1/control/list-nodes", "/v1/control/stop-run")
RUNTIME = ("/v1/runtime/acquire-task", "/v1/runtime/pull-messages")
OTHERS = ("/docs", "/openapi.json", "/", "/v1/fleet", "/V1/FLEET/pull-messages", "//v1/fleet/x")


async def _behind(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("behind the gate")


def gated(*, opened: bool = True) -> Gate:
    app = Gate(Starlette(routes=[Route("/{path:path}", _behind, methods=["GET", "POST"])]))
    if opened:
        assert ask(app, "/gate", HERE).status_code == 200
    return app


def ask(app: Gate, path: str, client: str | None, method: str = "POST", base: str = "https://server") -> httpx.Response:
    """What `client` is answered on `path`."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(client, 5000) if client else None)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url=base) as asking:
            return await asking.request(method, path)

    return asyncio.run(request())


def test_devices_get_through_from_anywhere() -> None:
    app = gated()
    for client in (AFAR, HERE, "2001:db8::9"):
        assert ask(app, FLEET, client).text == "behind the gate"


@pytest.mark.parametrize("path", [*CONTROL, *RUNTIME, *OTHERS])
def test_nothing_but_the_devices_api_is_served_to_other_machines(path: str) -> None:
    app = gated()
    answer = ask(app, path, AFAR)
    assert (answer.status_code, "behind" in answer.text) == (403, False)


@pytest.mark.parametrize("path", [*CONTROL, *RUNTIME])
@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.9.1", "::1"])
def test_the_server_s_own_machine_may_ask_everything(path: str, client: str) -> None:
    assert ask(gated(), path, client).text == "behind the gate"


def test_a_machine_that_dials_its_own_address_is_the_server_s() -> None:
    app = gated()
    assert ask(app, CONTROL[0], "192.0.2.7", base="https://192.0.2.7").status_code == 200
    assert ask(app, CONTROL[0], "192.0.2.8", base="https://192.0.2.7").status_code == 403


@pytest.mark.parametrize("client", [None, "unix", "127.0.0.1.example.org"])
def test_who_cannot_be_placed_is_from_afar(client: str | None) -> None:
    assert ask(gated(), CONTROL[0], client).status_code == 403


def test_everybody_may_ask_whether_the_server_is_well() -> None:
    assert ask(gated(), "/health", AFAR, "GET").text == "behind the gate"


def test_devices_wait_until_the_gate_is_opened_and_only_this_machine_opens_it() -> None:
    app = gated(opened=False)
    assert ask(app, FLEET, AFAR).status_code == 503  # which SuperNodes take as "try again"
    for client, method in ((AFAR, "POST"), (AFAR, "GET"), (HERE, "GET")):
        assert ask(app, "/gate", client, method).text == "closed"
    assert ask(app, FLEET, AFAR).status_code == 503
    assert ask(app, "/gate", HERE, "POST").text == "open to devices"
    assert ask(app, FLEET, AFAR).status_code == 200


def test_a_web_socket_from_afar_is_closed() -> None:
    sent: list[dict[str, object]] = []

    async def send(message: object) -> None:
        assert isinstance(message, dict)
        sent.append(message)

    async def receive() -> dict[str, object]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": CONTROL[0], "client": (AFAR, 1), "server": ("192.0.2.7", 1)}
    asyncio.run(gated()(scope, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_flower_s_app_is_built_behind_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.superlink import main as superlink

    built = []

    def start() -> None:
        built.append(superlink.create_app())

    monkeypatch.setattr(superlink, "create_app", superlink.create_app)  # put back afterwards
    command = importlib.import_module("flwr.superlink.cli.flower_superlink")
    monkeypatch.setattr(command, "flower_superlink", start)
    before = {name: list(logging.getLogger(name).filters) for name in ("flwr", "uvicorn.access")}
    try:
        gate.main()
    finally:
        for name, filters in before.items():
            logging.getLogger(name).filters = filters
    app = built[0]
    assert app.user_middleware[0].cls is Gate  # the outermost
    assert ask(app, "/v1/control/list-runs", AFAR).status_code == 403
    assert ask(app, "/v1/runtime/acquire-task", AFAR).status_code == 403
    assert ask(app, "/v1/fleet/pull-messages", AFAR).status_code == 503
