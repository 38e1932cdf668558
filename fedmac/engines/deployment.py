"""A deployment's SuperLink as an engine: the run goes to it, is followed, and leaves it running.

The ServerApp runs on the SuperLink's machine and writes the run folder there; the rounds are read from that folder as
they appear, so that the command and the SuperLink must share it: one machine, or one volume.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedmac.deployment.control import Control, NoAnswer, NothingThere, Scalar
from fedmac.deployment.folders import SERVER_FILE, ServerFolder, check_address, device_name
from fedmac.deployment.refusals import BadDeployment
from fedmac.engines.flower import last_traceback
from fedmac.engines.processes import termination_raises, uninterrupted
from fedmac.engines.superlink import EngineError
from fedmac.lock import held
from fedmac.record import FLOWER_LOG, FolderInTheWay
from fedmac.scenario_errors import ScenarioError

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 30.0  # a SuperLink that is busy or is being started again may miss some questions
_BEGIN_SECONDS = 300.0  # a server whose part that starts ServerApps has ended would leave a run waiting for ever
_STOP_SECONDS = 20.0
_LAST_LOGS_SECONDS = 10.0
_OURS = re.compile(r"(?:fedmac|strategies|channel|clients)\.[\w.]+: (.+)")  # the last line of a traceback


def superlink_at(where: str) -> Control:
    """The SuperLink that ``engine.superlink`` names.

    Parameters
    ----------
    where : str
        A deployment's folder or its server's (address and authority are in it), ``host:port`` (TLS, with the system's
        authorities), or ``http://host:port`` (nothing is encrypted).

    Raises
    ------
    ScenarioError
        If it names none.
    """
    try:
        if Path(where).is_dir():
            folder = ServerFolder.load(Path(where))
            return Control(folder.local_address, authority=folder.authority)
        insecure = where.startswith("http://")
        address = check_address(where.removeprefix("http://").removeprefix("https://").removesuffix("/"))
        return Control(address, insecure=insecure)
    except BadDeployment:
        accepted = f"a folder with {SERVER_FILE} or server/{SERVER_FILE} in it, host:port, or http://host:port"
        raise ScenarioError(f"engine.superlink = {where!r}: accepted: {accepted}") from None
    except OSError as error:
        raise ScenarioError(f"engine.superlink = {where!r}: its ca.crt cannot be read ({error})") from None


@contextmanager
def answering(where: str) -> Iterator[None]:
    """Say of a SuperLink that does not answer what to do about it; `where` is ``engine.superlink``.

    Raises
    ------
    EngineError
        In place of a ``NoAnswer``.
    """
    try:
        yield
    except NothingThere as error:
        folder = where if Path(where).is_dir() else "DIR"
        raise EngineError(
            f"engine.superlink: {error}; the server is started with `fedmac deploy server {folder}`"
        ) from None
    except NoAnswer as error:
        raise EngineError(f"engine.superlink: {error}") from None


def end_orphan(control: Control, out: Path) -> None:
    """End the runs whose record is in the folder `out`, and wait until they write there no longer.

    Raises
    ------
    EngineError
        If one goes on writing.
    NoAnswer
        If the SuperLink does not answer.
    """
    orphans = control.unfinished(out=str(out.absolute()))
    for orphan in orphans:
        _stop(control, orphan)
    deadline = time.monotonic() + _STOP_SECONDS
    while orphans:
        try:
            with held(out / FLOWER_LOG, ""):  # its ServerApp holds it as long as it lives
                return
        except FolderInTheWay:
            if time.monotonic() > deadline:
                raise EngineError(
                    f"{out}: run {orphans[0]} on {control.address} was told to stop, and goes on"
                ) from None
        time.sleep(0.2)


def run_on_superlink(
    app: Path,
    config: Mapping[str, Scalar],
    control: Control,
    *,
    devices: int,
    nodes_timeout: float,
    log: Path,
    on_poll: Callable[[], None],
) -> None:
    """Run a Flower app on a SuperLink that is there already, and return when it has completed.

    Parameters
    ----------
    app : Path
        The app's directory.
    config : mapping
        The run's configuration; paths must be absolute.
    control : Control
        The SuperLink.
    devices : int
        How many must be online.
    nodes_timeout : float
        Seconds to wait for them.
    log : Path
        File to which what the ServerApp writes is appended.
    on_poll : callable
        Called about once a second. What it raises ends the run.

    Raises
    ------
    EngineError
        If the SuperLink does not answer or its certificate is not accepted, devices are missing, or the run fails.
        An interruption (Ctrl-C) stops the run on the SuperLink first.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        wait_for_devices(control, devices, nodes_timeout)
        run = control.start(app, config)
    except NoAnswer as error:
        raise EngineError(f"engine.superlink: {error}") from None
    start = log.stat().st_size if log.exists() else 0
    writer = threading.Thread(target=_write_log, args=(control, run, log), daemon=True)
    writer.start()
    with termination_raises():
        try:
            status, details = _follow(control, run, on_poll)
        except BaseException:
            with uninterrupted():
                _stop(control, run)
            raise
    writer.join(_LAST_LOGS_SECONDS)
    if status != "finished:completed":
        why = _why_it_failed(details, last_traceback(log, start))
        raise EngineError(f"run {run} on {control.address} ended {status}: {why}\n(whole log: {log})")


def devices_online(control: Control, devices: int, seconds: float) -> list[str]:
    """Names of the devices that are online: so many as soon as they are, others when `seconds` are over.

    Raises
    ------
    NoAnswer
        If the SuperLink does not answer.
    """
    deadline, told = time.monotonic() + seconds, False
    while True:
        online = sorted(node.name or str(node.node_id) for node in control.nodes() if node.status == "online")
        if len(online) == devices or time.monotonic() > deadline:
            return online
        if not told:
            there = f"{len(online)} of {devices} devices online ({_some(online) or 'none'})"
            warnings.warn(f"{control.address}: {there}; waiting up to {seconds:g} s", stacklevel=2)
            told = True
        time.sleep(_POLL_SECONDS)


def wait_for_devices(control: Control, devices: int, seconds: float) -> None:
    """Wait until so many devices are online.

    Raises
    ------
    EngineError
        If there are not exactly as many within `seconds`; it names who is missing.
    NoAnswer
        If the SuperLink does not answer.
    """
    online = devices_online(control, devices, seconds)
    if len(online) == devices:
        return
    wanted = [device_name(device) for device in range(devices)]
    missing = [name for name in wanted if name not in online]
    names = f" (missing: {_some(missing)})" if set(online) <= set(wanted) else f" ({_some(online) or 'none'})"
    there = "1 device is" if len(online) == 1 else f"{len(online)} devices are"
    raise EngineError(
        f"data.devices = {devices}, but {there} online at {control.address}{names} after "
        f"engine.nodes_timeout_s = {seconds:g}; accepted: as many (`fedmac deploy device DIR --id K` starts device-K)"
    )


def _follow(control: Control, run: int, on_poll: Callable[[], None]) -> tuple[str, str]:
    """Poll until the run is finished; return its status and the details of it."""
    heard, status, details = time.monotonic(), "", ""
    begun_by = heard + _BEGIN_SECONDS
    while True:
        try:
            status, details = control.status(run)
        except NoAnswer as error:
            if time.monotonic() > heard + _PATIENCE_SECONDS:
                raise EngineError(
                    f"no answer for {_PATIENCE_SECONDS:g} s from the server: {error}; what was recorded so far is in "
                    "the run folder, and --resume finishes the run once the server is back"
                ) from None
        else:
            heard = time.monotonic()
            if not status:
                raise EngineError(
                    f"{control.address}: the server knows run {run} no longer: it was started anew; --resume "
                    "finishes the run"
                )
        on_poll()
        if status.startswith("finished"):
            return status, details
        if status == "running":
            begun_by = float("inf")
        if time.monotonic() > begun_by:
            raise EngineError(
                f"{control.address}: run {run} is {status} for {_BEGIN_SECONDS:g} s; start the server again, then "
                "--resume finishes the run"
            )
        time.sleep(_POLL_SECONDS)


def _why_it_failed(details: str, trace: str) -> str:
    """Of an error of FedMAC's own its line, which is for people; of any other what Flower says, and the traceback."""
    ours = _OURS.fullmatch(trace.rsplit("\n", 1)[-1])
    return f"{ours[1]}; once that is put right, --resume finishes the run" if ours else f"{details}\n{trace}"


def _stop(control: Control, run: int) -> None:
    """Stop the run if the SuperLink can be reached, and wait until it has taken note; its ServerApp ends itself."""
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        control.stop(run)
        while not control.status(run)[0].startswith("finished") and time.monotonic() < deadline:
            time.sleep(0.2)
    except NoAnswer:
        return  # why the run ends matters more, and a SuperLink that is gone runs nothing


def _write_log(control: Control, run: int, log: Path) -> None:
    try:
        with log.open("ab", buffering=0) as sink:
            for text in control.log(run):
                sink.write(text.encode())
    except OSError:
        return  # the run's end is told by its status; a log cut short stays as it is


def _some(names: list[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
