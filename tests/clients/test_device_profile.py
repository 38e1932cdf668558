"""Profiles: limits that hold, an estimate that says so, half precision only where it is fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from channel.order import ORDER_KEY, TRANSMISSION_KEY, TransmitOrder
from clients import device_profile
from clients.app import client_app
from clients.device_profile import (
    FULL,
    PROFILES,
    DeviceProfile,
    core_watts,
    multiplies_bfloat16,
    profile_of,
    within_profile,
)
from clients.training import Trainer
from tests import fleet

PHONE = PROFILES["phone"]
FREE = DeviceProfile("free", threads=1, watts=1.6)  # as the phone, without a limit that would hold in other tests too


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device_profile.PROFILES, "free", FREE)
    monkeypatch.setenv(device_profile.VARIABLE, "free")


def node(**configuration: Any) -> Context:
    return Context(1, 1, {"partition-id": 0, **configuration}, RecordDict(), {})


def order() -> dict[str, Any]:
    return TransmitOrder("uncoded", seed=1).to_config()


def trained(work: Any = None) -> tuple[RecordDict, Any]:
    """The reply to one training message, and the workplace that made it."""
    work = work or fleet.workplace(dtype=torch.float32)
    (message,) = fleet.train_messages(fleet.initial(work), [1])
    message.content[ORDER_KEY] = ConfigRecord(order())
    app = client_app(lambda _context, _config: work)
    return app(message, fleet.context()).content, work


def test_the_node_says_which_profile_else_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device_profile.VARIABLE, raising=False)
    assert profile_of(node()) is FULL
    monkeypatch.setenv(device_profile.VARIABLE, "phone")
    assert profile_of(node()) is PHONE
    assert profile_of(node(profile="full")) is FULL


def test_an_unknown_profile_is_refused_with_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"node_config profile = 'tablet'.*accepted: full, phone"):
        profile_of(node(profile="tablet"))
    monkeypatch.setenv(device_profile.VARIABLE, "watch")
    with pytest.raises(ValueError, match="FEDMAC_PROFILE = 'watch'"):
        profile_of(node())


def test_the_phones_power_is_that_of_its_cores() -> None:
    assert core_watts(2e9) == pytest.approx(0.8)
    assert core_watts(1e9) == pytest.approx(core_watts(2e9) / 8)  # the cube of the clock
    assert PHONE.watts == pytest.approx(PHONE.threads * 0.8)
    assert FULL.joules(3.0) is None


def test_a_transmission_says_its_seconds_and_the_energy_that_they_are_estimated_at(free: None) -> None:
    said = trained()[0].config_records[TRANSMISSION_KEY]
    assert said["joules"] == pytest.approx(1.6 * float(str(said["seconds"])))
    assert (said["profile"], said["precision"]) == ("free", "float32")


def test_without_a_profile_nothing_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(device_profile.VARIABLE, raising=False)
    assert not {"joules", "profile", "precision"} & set(trained()[0].config_records[TRANSMISSION_KEY])


def test_replies_that_are_no_transmissions_pass_unchanged(free: None) -> None:
    fleet.identify()
    reply = RecordDict({"mine": ConfigRecord({"seconds": 1.0})})
    passed = within_profile(Message(RecordDict(), 1, "train"), node(), lambda m, _: Message(reply, reply_to=m))
    assert dict(passed.content.config_records["mine"]) == {"seconds": 1.0}


@pytest.mark.parametrize(
    ("features", "has"), [("fpu sse avx2", False), ("fpu avx512_bf16", True), ("fp asimd bf16", True)]
)
def test_half_precision_is_used_only_where_the_cpu_has_it(
    features: str, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"Features\t: {features}\n" if "asimd" in features else f"processor: 0\nflags\t\t: {features}\n"
    monkeypatch.setattr(Path, "read_text", lambda _: line)
    monkeypatch.setattr(device_profile, "multiplies_bfloat16", multiplies_bfloat16.__wrapped__)
    assert PHONE.autocast_of(torch.float32) is (torch.bfloat16 if has else None)
    assert PHONE.autocast_of(torch.float64) is None
    assert FULL.autocast_of(torch.float32) is None


def test_training_in_bfloat16_multiplies_in_it_and_keeps_the_model_in_float32() -> None:
    seen: list[torch.dtype] = []
    model = torch.nn.Sequential(torch.nn.Linear(64, 10))
    model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    plain, half = Trainer(torch.nn.Sequential(torch.nn.Linear(64, 10))), Trainer(model)
    half.autocast = torch.bfloat16
    start, data = torch.zeros(650), fleet.digits(dtype=torch.float32).device(0)
    exact, _ = plain.train(start, data, fleet.ONE_EPOCH, seed=0, round=1, device=0)
    rough, _ = half.train(start, data, fleet.ONE_EPOCH, seed=0, round=1, device=0)
    assert set(seen) == {torch.bfloat16}
    assert rough.dtype == torch.float32
    # 8 bits of mantissa: a product is off by 2^-9 at most, and the two steps by not much more of their norm
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.02


LIMITED = """
import torch
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from clients import device_profile
TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
profile = device_profile.DeviceProfile("small", memory_mb=1024)
device_profile.PROFILES["small"] = profile
def ask(megabytes):
    def work(message, context):
        torch.ones(megabytes << 18)  # of 4 bytes
        return Message(RecordDict(), reply_to=message)
    context = Context(1, 1, {"profile": "small"}, RecordDict(), {})
    device_profile.within_profile(Message(RecordDict(), 1, "train"), context, work)
ask(100)
print("fits")
try:
    ask(2000)
except MemoryError as error:
    print(error)
"""


def test_the_limit_on_memory_holds_and_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False)
    fits, *said = done.stdout.splitlines()
    assert fits == "fits", done.stderr
    assert len(said) == 1
    assert "profile 'small': the device's work needs more than its memory_mb = 1024; accepted:" in said[0]


def test_errors_that_are_not_of_memory_keep_their_words(free: None) -> None:
    fleet.identify()

    def work(message: Message, context: Context) -> Message:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        within_profile(Message(RecordDict(), 1, "train"), node(), work)


def test_a_lower_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[tuple[int, int]] = []
    monkeypatch.setattr(device_profile.resource, "getrlimit", lambda _: (500 << 20, 2000 << 20))
    monkeypatch.setattr(device_profile.resource, "setrlimit", lambda _, limits: put.append(limits))
    DeviceProfile("any", memory_mb=1024).limit()
    DeviceProfile("any", memory_mb=100).limit()
    FULL.limit()
    assert put == [(500 << 20, 2000 << 20), (100 << 20, 2000 << 20)]
