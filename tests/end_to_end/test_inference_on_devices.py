"""A plan on devices of their own: each holds its part, and the server carries what they send each other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fedmac.cli import app
from fedmac.engines.superlink import EngineError
from fedmac.repurposing import by_messages
from fedmac.scenario_errors import ScenarioError
from strategies.repurpose import Plan, account, repurpose, save_plan
from strategies.repurpose.part_file import part_path, save_parts
from tests.end_to_end.federation import Federation
from tests.strategies.repurpose.networks import dense, inputs

pytestmark = [
    pytest.mark.flower,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc"),
]

ROWS = 20


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan]:
    """A plan of two workers in its folder; one layer is silent, which spares an exchange."""
    folder = tmp_path_factory.mktemp("planned") / "plan"
    made = repurpose(dense(), inputs(dense()), 2, {"2": 1e-3, "4": 1e6})
    written(made, folder)
    return folder, made


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, plan: tuple[Path, Plan]) -> Iterator[Federation]:
    """A server and two devices, each with its part in its folder."""
    federation = Federation(tmp_path_factory.mktemp("federation"), devices=2)
    try:
        federation.start_server()
        for device in range(2):
            shutil.copy(part_path(plan[0] / "parts", device), federation.folder / f"device-{device}")
            federation.start_device(device)
        federation.wait_until_online(2)
        yield federation
    finally:
        federation.stop()


def written(plan: Plan, folder: Path) -> None:
    save_plan(plan, folder)
    save_parts(plan, folder / "parts")
    save_file({"inputs": inputs(dense(), rows=ROWS)}, folder / "sample.safetensors")


def infer(plan: Path, *arguments: object) -> Result:
    """`fedmac infer`; its errors of input and of the engine are raised."""
    # Every message starts a process, which takes long on a busy machine.
    words = ["infer", str(plan), "--timeout", "300", *map(str, arguments)]
    return CliRunner().invoke(app, words, catch_exceptions=False)


def check(ended: Result, plan: Plan, outputs: Path) -> None:
    """That a command's outputs and bytes are the plan's."""
    assert ended.exit_code == 0, ended.output
    sent = f"{ROWS * account(plan).bytes:,}"
    assert f"{ROWS} inputs on 2 workers, {ROWS} at a time" in ended.output
    assert f"bytes sent: {sent}, planned: {sent}" in ended.output
    # float32 sums in another order
    expected = plan.run(inputs(dense(), rows=ROWS))
    assert torch.allclose(load_file(outputs)["outputs"], expected, rtol=1e-5, atol=1e-5)


def test_devices_with_a_part_each_give_the_plans_outputs_and_send_its_bytes(
    federation: Federation, plan: tuple[Path, Plan], tmp_path: Path
) -> None:
    folder, made = plan
    before = {path.name for path in folder.iterdir()}
    ended = infer(
        folder, "--engine", "deployment", "--superlink", federation.folder, "--out", tmp_path / "out.safetensors"
    )
    check(ended, made, tmp_path / "out.safetensors")
    assert {path.name for path in folder.iterdir()} == before | {by_messages.LOG}
    assert federation.control.unfinished() == []


def test_a_device_without_its_part_is_named(federation: Federation, plan: tuple[Path, Plan]) -> None:
    own = part_path(federation.folder / "device-1", 1)
    own.rename(own.with_suffix(".away"))
    try:
        ended = infer(plan[0], "--engine", "deployment", "--superlink", federation.folder)
        assert ended.exit_code == 1
        assert "worker 1 (node" in ended.stderr
        assert f"{own}: no part here" in ended.stderr
    finally:
        own.with_suffix(".away").replace(own)


def test_a_plan_for_more_workers_than_there_are_devices_is_refused(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_messages, "DEVICES_SECONDS", 0.0)
    written(repurpose(dense(), inputs(dense()), 3, 1e-3), tmp_path)
    with pytest.raises(EngineError, match=r"for 3 workers, and 2 devices are online at .* \(device-0, device-1\)"):
        infer(tmp_path, "--engine", "deployment", "--superlink", federation.folder)


def test_devices_that_flower_simulates_give_the_plans_outputs(plan: tuple[Path, Plan], tmp_path: Path) -> None:
    ended = infer(plan[0], "--engine", "flower", "--out", tmp_path / "out.safetensors")
    check(ended, plan[1], tmp_path / "out.safetensors")


@pytest.mark.parametrize("arguments", [("--engine", "deployment"), ("--superlink", "here")])
def test_a_superlink_goes_with_the_deployment_engine_alone(plan: tuple[Path, Plan], arguments: tuple[str, ...]) -> None:
    with pytest.raises(ScenarioError, match="accepted: --superlink DIR with --engine deployment"):
        infer(plan[0], *arguments)
