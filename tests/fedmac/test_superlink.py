"""Flower's engine under our control: what runs, what fails, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from fedmac.engines import flower, processes, superlink
from fedmac.engines.flower import EngineError, FlowerSimulation, run_app, run_simulation, write_app
from tests.interruptible import interruptible

linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")

APPS = """
import json, os, time
from pathlib import Path
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()

@server.main()
def main(grid, context):
    if context.run_config["fail"]:
        raise ArithmeticError("the server gave up")
    while len(nodes := list(grid.get_node_ids())) < context.run_config["nodes"]:  # they register with Ray
        time.sleep(0.1)
    content = RecordDict({"x": MetricRecord({"x": 5})})
    messages = [Message(content, message_type="train", dst_node_id=node) for node in nodes]
    replies = [reply.content["x"] for reply in grid.send_and_receive(messages)]
    facts = {"sum": sum(reply["x"] for reply in replies), "pids": [reply["pid"] for reply in replies]}
    facts["home"] = os.environ["FLWR_HOME"]
    Path(context.run_config["out"]).write_text(json.dumps(facts))

@client.train()
def train(message, context):
    if (started := context.run_config["started"]):
        Path(started).touch()
        time.sleep(600)
    x = message.content["x"]["x"] + context.node_config["partition-id"]
    return Message(RecordDict({"x": MetricRecord({"x": x, "pid": os.getpid()})}), reply_to=message)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A Flower app of our own whose nodes answer 5 + their partition id."""
    config: dict[str, flower.Scalar] = {"out": "", "started": "", "fail": False, "nodes": 1}
    directory = write_app(tmp_path / "app", config, serverapp="tiny.apps:server", clientapp="tiny.apps:client")
    (directory / "tiny").mkdir()
    (directory / "tiny/__init__.py").touch()
    (directory / "tiny/apps.py").write_text(APPS)
    return directory


def marked(mark: str) -> set[int]:
    """Return the processes whose environment holds the mark: looked up apart from the code under test."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                hit = mark.encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if hit:
                found.add(int(entry.name))
    return found


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended may stay in /proc until its adoptive parent has noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(what: Callable[[], bool], seconds: float = 90.0) -> bool:
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.05)
    return what()


# The real thing


@linux
@pytest.mark.flower
def test_a_run_reaches_every_node_and_leaves_nothing_behind(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("RUN_MARK", mark)
    polls: list[float] = []
    out = tmp_path / "out.json"
    log = tmp_path / "logs/run.log"
    run_app(app, {"out": str(out), "nodes": 3}, nodes=3, workers=2, log=log, on_poll=lambda: polls.append(0.0))

    facts = json.loads(out.read_text())
    assert facts["sum"] == 3 * 5 + (0 + 1 + 2)
    assert len(set(facts["pids"])) <= 2  # workers
    assert len(polls) > 1
    assert "Successfully started run" in log.read_text()
    assert not Path(facts["home"]).exists()
    assert not marked(mark)
    assert not any(lives(pid) for pid in facts["pids"])


@linux
@pytest.mark.flower
def test_a_failing_server_app_fails_the_run_with_its_own_traceback(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("RUN_MARK", mark)
    with pytest.raises(EngineError) as failure:
        run_app(app, {"fail": True}, nodes=1, workers=1, log=tmp_path / "run.log")
    message = str(failure.value)
    assert message.startswith("the Flower run ended finished:failed")
    assert 'raise ArithmeticError("the server gave up")\nArithmeticError: the server gave up\n' in message
    assert not marked(mark)


@linux
@pytest.mark.flower
def test_ctrl_c_ends_superlink_simulation_and_ray(app: Path, tmp_path: Path) -> None:
    mark, started = uuid.uuid4().hex, tmp_path / "started"
    call = f"run_app(Path({str(app)!r}), {{'started': {str(started)!r}}}, nodes=1, workers=1"
    code = f"from pathlib import Path\nfrom fedmac.engines.flower import run_app\n{call}, log=Path('run.log'))"
    room = os.pathsep.join([str(Path(flower.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"RUN_MARK": mark, "PYTHONPATH": room, "TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        interruptible("-c", code), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert wait_for(lambda: started.exists() or child.poll() is not None)
        assert len(marked(mark)) > 4  # ourselves, SuperLink, SuperExec, simulation and Ray
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
    assert child.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
    assert not marked(mark)


# Without starting Flower


def fake_superlink(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    script = tmp_path / "fake"
    script.write_text(f"#!{sys.executable}\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setattr(superlink, "script", lambda _name: str(script))


def test_a_superlink_that_dies_is_reported_with_the_end_of_its_log(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_superlink(monkeypatch, tmp_path, "import sys; print('no luck today'); sys.exit(3)")
    with pytest.raises(EngineError, match=r"(?s)SuperLink exited with 3.*no luck today"):
        run_app(app, {}, nodes=1, workers=1, log=tmp_path / "run.log")


@linux
def test_a_superlink_that_never_answers_is_given_up_and_ended(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("RUN_MARK", mark)
    fake_superlink(monkeypatch, tmp_path, "import time; time.sleep(60)")
    with pytest.raises(EngineError, match=r"did not answer within 0\.3 s"):
        run_simulation(app, {}, FlowerSimulation(nodes=1, startup_timeout=0.3), log=tmp_path / "run.log")
    assert not marked(mark)


# One process keeps SIGTERM off, one is orphaned in a session of its own: neither group nor descent holds it.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
orphan = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
subprocess.run([sys.executable, "-c", orphan], start_new_session=True)
open(sys.argv[1], "w").close()
time.sleep(60)
"""


@linux
def test_stopping_finds_orphans_and_the_stubborn_but_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.3)
    ready = tmp_path / "ready"
    environment = os.environ | {"FLWR_HOME": str(tmp_path)}
    ours = subprocess.Popen([sys.executable, "-c", STUBBORN, str(ready)], env=environment)
    other = subprocess.Popen(["sleep", "60"], env=os.environ | {"FLWR_HOME": f"{tmp_path}-of-another"})
    try:
        assert wait_for(ready.exists, 10)
        found = processes.Processes(tmp_path)
        assert ours.pid in found.look()
        assert len(found.look()) == 2
        found.stop()
        assert ours.wait(timeout=5) == -signal.SIGKILL
        assert not found.look()
        assert other.poll() is None
    finally:
        ours.kill()
        other.kill()
        ours.wait()
        other.wait()


@pytest.mark.skipif(shutil.which("ps") is None or not Path("/proc/self/stat").exists(), reason="needs both")
def test_ps_and_proc_tell_the_same_descent() -> None:
    from_ps, from_proc = processes.process_table_of_ps(), processes.process_table()
    assert from_ps[os.getpid()][0] == from_proc[os.getpid()][0] == os.getppid()


def test_a_missing_ray_names_the_extra(app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EngineError, match=re.escape("pip install -e '.[simulation]'")):
        run_app(app, {}, nodes=1, workers=1, log=tmp_path / "run.log")


@pytest.mark.parametrize(
    ("run_config", "error", "message"),
    [
        ({"rounds": 3}, ValueError, r"'rounds'.* declares fail, nodes, out, started"),
        ({"fail": "yes"}, TypeError, r"run_config\['fail'\] is 'yes'; the app declares it as bool"),
        ({"out": ["a"]}, TypeError, r"Flower takes str, int, float and bool"),
    ],
)
def test_a_run_config_that_flower_would_misread_is_refused(
    app: Path,
    tmp_path: Path,
    run_config: Mapping[str, flower.Scalar],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        run_app(app, run_config, nodes=1, workers=1, log=tmp_path / "run.log")


def test_a_directory_without_an_app_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a pyproject\.toml"):
        run_app(tmp_path, {}, nodes=1, workers=1, log=tmp_path / "run.log")


def test_the_written_app_makes_a_bundle_that_flower_accepts(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk
    from flwr.common.config import get_fab_config

    directory = write_app(tmp_path / "app", {"scenario": "", "rounds": 2, "lr": 0.5, "fast": True})
    config = get_fab_config(build_fab_from_disk(directory))["tool"]["flwr"]["app"]
    assert config["components"] == {
        "serverapp": "fedmac.server_app:app",
        "clientapp": "fedmac.client_app:app",
    }
    assert config["config"] == {"scenario": "", "rounds": 2, "lr": 0.5, "fast": True}


def test_the_size_of_the_simulation_is_always_stated() -> None:
    assert FlowerSimulation(7).federation_config() == "num-supernodes=7 client-resources-num-cpus=1"
    full = FlowerSimulation(nodes=7, cpus_per_node=2, total_cpus=4, gpus_per_node=0.5).federation_config()
    assert full.split()[2:] == ["client-resources-num-gpus=0.5", "init-args-num-cpus=4"]


@pytest.mark.parametrize(
    "values",
    [
        {"nodes": 0},
        {"nodes": 1, "cpus_per_node": 0},
        {"nodes": 1, "cpus_per_node": 2, "total_cpus": 1},
        {"nodes": 1, "total_cpus": 2, "ray_address": "auto"},
        {"nodes": 1, "gpus_per_node": -1.0},
        {"nodes": 1, "startup_timeout": 0.0},
    ],
)
def test_an_impossible_simulation_is_refused_by_the_field_s_name(values: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=rf"{list(values)[-1]}|total_cpus"):
        FlowerSimulation(**values)


def test_only_the_last_traceback_of_this_run_is_quoted(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    head = "Traceback (most recent call last):\n"
    old = f"{head}  File a\nKeyError: 'an older run'\n"
    log.write_text(f"{old}{head}  File b\nValueError: first\nnoise\n{head}  File c\nOSError: disk\nExit Code: 700\n")
    assert flower.last_traceback(log, len(old)) == f"{head}  File c\nOSError: disk"
    log.write_text("killed\n")
    assert flower.last_traceback(log, 0) == "killed"
