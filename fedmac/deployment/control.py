"""Asking a SuperLink: which nodes are there, how a run stands; and telling it to start or to stop one.

Flower's Control API: protobuf messages over HTTP. ``http.client`` carries them, as urllib and httpx may send
loopback to a proxy.

Source: Flower 1.41 ``flwr.supercore.control``, ``flwr.supercore.protobuf``.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flwr.proto import control_pb2 as messages
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo

Scalar = str | int | float | bool

GATE = "/gate"
"""Where a SuperLink's gate is asked (:mod:`fedmac.deployment.gate`)."""

_MEDIA = "application/protobuf"
_STREAM_MEDIA = "application/flower-protobuf-stream"
_SECONDS = 10.0
_LONGEST_FRAME = 64 * 2**20

Answer = TypeVar("Answer", bound=Message)


class NoAnswer(OSError):
    """The SuperLink was not reached, or what answered is none; the message says at which address, and why."""


class NothingThere(NoAnswer):
    """Nothing listens at the address."""


class Refused(NoAnswer):
    """The SuperLink answered, and would not."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Control:
    """The Control API of one SuperLink.

    Parameters
    ----------
    address : str
        ``host:port``.
    authority : Path, optional
        Certificate (PEM) of the authority that has signed the SuperLink's; the system's authorities by default.
    insecure : bool
        Speak HTTP without TLS.
    seconds : float
        How long an answer may take.
    """

    def __init__(
        self, address: str, *, authority: Path | None = None, insecure: bool = False, seconds: float = _SECONDS
    ) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self.host = host.removeprefix("[").removesuffix("]")
        self.port = int(port)
        self.seconds = seconds
        self.authority = authority
        self.tls = None if insecure else ssl.create_default_context(cafile=authority)

    def healthy(self) -> None:
        """Return if the SuperLink is up.

        Raises
        ------
        NoAnswer
            If it does not answer, or not as a SuperLink that is up.
        """
        self._whole("GET", "/health")

    def gate(self, *, let_devices_in: bool = False) -> None:
        """Return if the SuperLink is behind our gate; let devices in if asked to.

        Raises
        ------
        Refused
            If it is not behind one.
        NoAnswer
            If it does not answer.
        """
        self._whole("POST" if let_devices_in else "GET", GATE)

    def status(self, run: int | None = None) -> tuple[str, str]:
        """Return a run's status ("" before it exists, "running", "finished:failed" …) and its details.

        Without a number, of the only run there is.
        """
        request = messages.ListRunsRequest() if run is None else messages.ListRunsRequest(run_id=run)
        try:
            answer = self._ask("list-runs", request, messages.ListRunsResponse)
        except Refused as error:
            if run is not None and error.status == http.client.NOT_FOUND:
                return "", ""
            raise
        for number, one in answer.run_dict.items():
            if run in (None, number):
                return ":".join(part for part in (one.status.status, one.status.sub_status) if part), one.status.details
        return "", ""

    def start(self, app: Path, config: Mapping[str, Scalar]) -> int:
        """Send an app to the SuperLink to be run; return the run's number."""
        from flwr.cli.build import build_fab_from_disk
        from flwr.common.serde import user_config_to_proto
        from flwr.proto.fab_pb2 import Fab

        bundle = build_fab_from_disk(app)
        fab = Fab(hash_str=sha256(bundle).hexdigest(), content=bundle)
        request = messages.StartRunRequest(fab=fab, override_config=user_config_to_proto(dict(config)))
        answer = self._ask("start-run", request, messages.StartRunResponse)
        if not answer.HasField("run_id"):
            raise Refused(f"{self.address}: the server has not started the run", http.client.OK)
        return answer.run_id

    def unfinished(self, **config: Scalar) -> list[int]:
        """Numbers of the runs that are not over and have been started with this configuration, among other keys."""
        from flwr.common.serde import user_config_from_proto

        answer = self._ask("list-runs", messages.ListRunsRequest(), messages.ListRunsResponse)
        return [
            number
            for number, run in answer.run_dict.items()
            if run.status.status != "finished" and config.items() <= user_config_from_proto(run.override_config).items()
        ]

    def stop(self, run: int) -> None:
        """End a run; one that has ended already stays as it is."""
        self._ask("stop-run", messages.StopRunRequest(run_id=run), messages.StopRunResponse)

    def nodes(self) -> list[NodeInfo]:
        """The registered nodes; ``status`` is "registered", "online" or "offline"."""
        answer = self._ask("list-nodes", messages.ListNodesRequest(), messages.ListNodesResponse)
        return [node for node in answer.nodes_info if node.status != "unregistered"]

    def register(self, public_key: bytes, name: str) -> int:
        """Let the node with this public key (PEM) take part; return its number."""
        request = messages.RegisterNodeRequest(public_key=public_key, name=name)
        return self._ask("register-node", request, messages.RegisterNodeResponse).node_id

    def unregister(self, node: int) -> None:
        """Let a node take part no longer."""
        self._ask("unregister-node", messages.UnregisterNodeRequest(node_id=node), messages.UnregisterNodeResponse)

    def log(self, run: int) -> Iterator[str]:
        """What a run's ServerApp writes, from its beginning, until the run is over."""
        body = messages.StreamLogsRequest(run_id=run).SerializeToString()
        connection = self._connection(None)
        try:
            response = self._response(connection, "POST", "/v1/control/stream-logs", body, _STREAM_MEDIA)
            while head := response.read(4):
                size = int.from_bytes(head, "big")
                if len(head) < 4 or size > _LONGEST_FRAME or len(frame := response.read(size)) < size:
                    raise NoAnswer(f"{self.address}: the log of run {run} breaks off")
                yield messages.StreamLogsResponse.FromString(frame).log_output
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswer(f"{self.address}: the log of run {run} breaks off: {error!r}") from None
        finally:
            connection.close()

    def _ask(self, what: str, request: Message, kind: type[Answer]) -> Answer:
        content = self._whole("POST", f"/v1/control/{what}", request.SerializeToString())
        try:
            answer: Answer = kind.FromString(content)
        except DecodeError as error:
            raise NoAnswer(f"{self.address}: no SuperLink's answer to {what}: {error}") from None
        return answer

    def _whole(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = self._connection(self.seconds)
        try:
            return self._response(connection, method, path, body, _MEDIA).read()
        except http.client.HTTPException as error:
            raise NoAnswer(f"{self.address}: no answer on {path}: {error!r}") from None
        finally:
            connection.close()

    def _connection(self, seconds: float | None) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        return http.client.HTTPSConnection(self.host, self.port, timeout=seconds, context=self.tls)

    def _response(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes, media: str
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, path, body, {"content-type": _MEDIA, "accept": media})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            kind = NothingThere if isinstance(error, ConnectionRefusedError) else NoAnswer
            raise kind(f"{self.address}: {self._why(error)}") from None
        if response.status != http.client.OK:
            raise Refused(f"{self.address}: {_reason(response)}", response.status)
        return response

    def _why(self, error: Exception) -> str:
        """What went wrong on the way, in words."""
        if isinstance(error, ssl.SSLCertVerificationError):
            advice = "" if self.authority else "; accepted: the server's folder, in which its authority's ca.crt is"
            return f"its certificate is not accepted: {error.verify_message}{advice}"
        if isinstance(error, ssl.SSLError):
            return f"no TLS connection ({error.reason}); a server started with --insecure is at http://{self.address}"
        if isinstance(error, TimeoutError):
            return f"no answer within {self.seconds:g} s"
        if isinstance(error, ConnectionRefusedError):
            return "nothing listens there"
        if isinstance(error, http.client.HTTPException | ConnectionResetError) and self.tls is None:
            return f"no HTTP answer ({type(error).__name__}); does it speak TLS?"
        return str(error) or type(error).__name__


def _reason(response: http.client.HTTPResponse) -> str:
    """Why a SuperLink would not, out of its answer."""
    content = response.read(2**16)
    try:
        facts = json.loads(content)
        parts = [facts.get(key) for key in ("message", "public_message", "public_details", "detail")]
        said = " ".join(str(part) for part in parts if part)
    except (ValueError, AttributeError):
        said = content[:200].decode(errors="replace")
    return f"{said or 'no reason given'} (HTTP {response.status})"


__all__ = ["GATE", "Control", "NoAnswer", "NothingThere", "Refused", "Scalar"]
