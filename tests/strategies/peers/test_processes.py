"""Peers as processes give what simulated peers give, and one that is gone is an error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from strategies.peers.collective import CollectivePeer, joined, run_as_peer
from strategies.peers.elastic_averaging import ElasticAveraging
from strategies.peers.exchange import Mode
from strategies.peers.gossip import Gossip
from strategies.peers.graph import ring
from strategies.peers.peer import Held, PeerLost, PeerSystem, Vector
from strategies.peers.processes import run_processes, start_peers
from strategies.peers.ring_all_reduce import RingAllReduce
from strategies.peers.simulated import run_simulated
from tests.strategies.peers.quadratics import apart, no_step, noisy_step

SIZE, STEPS = 7, 6
GPUS = torch.cuda.device_count()
MODES: tuple[Mode, ...] = ("push", "pull", "symmetric")


def systems(peers: int) -> list[PeerSystem]:
    """All of them."""
    gossip: list[PeerSystem] = [Gossip(ring(peers), mode, every=2, seed=4) for mode in MODES]
    elastic: list[PeerSystem] = [ElasticAveraging(every=2), *[ElasticAveraging(server=True)] * (peers > 2)]
    return [RingAllReduce(), *gossip, *elastic]


def noisy_step_anywhere(peer: int, step: int, x: Vector) -> Vector:
    """:func:`noisy_step` of a vector that may be a tensor."""
    if isinstance(x, np.ndarray):
        return noisy_step(peer, step, x)
    given = cast("torch.Tensor", x)
    return cast("Vector", torch.from_numpy(noisy_step(peer, step, given.numpy(force=True))).to(given.device))


def run_all(peer: CollectivePeer) -> tuple[list[Held], int, Vector, str]:
    """All systems one after the other, what was sent, the end of a run with large vectors, and what carried them."""
    begins = Held(apart(peer.peers, SIZE)[peer.number])
    held = [run_as_peer(system, peer, begins, range(1, STEPS + 1)) for system in systems(peer.peers)]
    numbers = peer.traffic.numbers
    # Far more than fits into the buffers between two processes, so that sending cannot end before receiving begins.
    large = np.full(200_000, float(peer.number), dtype=np.float32)
    mean = run_as_peer(RingAllReduce(), peer, Held(large), range(1, 3)).model
    gossiped = run_as_peer(Gossip(ring(peer.peers), "pull"), peer, Held(large), range(1, 13)).model
    assert mean is not None
    assert gossiped is not None
    return held, numbers, mean[:3] + gossiped[-1], f"{type(peer.messages).__name__} by {peer.messages.backend}"


@pytest.mark.parametrize(
    ("device", "carrier", "peers"),
    [
        pytest.param(None, "HostMessages by gloo", 3, id="arrays"),
        pytest.param("cpu", "DeviceMessages by gloo", 3, id="tensors"),
        pytest.param(
            "cuda",
            "DeviceMessages by nccl",
            4 if GPUS >= 4 else 2,  # powers of two: GPUs divide by others with another rounding
            id="GPUs",
            marks=pytest.mark.skipif(GPUS < 2, reason="needs two GPUs"),
        ),
    ],
)
def test_processes_and_simulated_peers_give_equal_iterates(device: str | None, carrier: str, peers: int) -> None:
    told = start_peers(run_all, noisy_step_anywhere, peers, timeout_s=60, device=device)
    runs = [run_simulated(system, noisy_step, apart(peers, SIZE), STEPS) for system in systems(peers)]
    for number, run in enumerate(runs):
        for peer in range(peers):
            for one, other in zip(told[peer][0][number], run.held[peer], strict=True):
                np.testing.assert_array_equal(one, other, err_msg=f"{systems(peers)[number]}, peer {peer}")
    for peer in range(peers):
        assert told[peer][1] == sum(run.traffic[peer].numbers for run in runs)
        assert np.isfinite(told[peer][2]).all()
        assert told[peer][3] == carrier


TORCHRUN = """
import sys
import numpy as np
from strategies.peers.collective import joined, run_as_peer
from strategies.peers.peer import Held
from strategies.peers.ring_all_reduce import RingAllReduce
from tests.strategies.peers.quadratics import apart, noisy_step

with joined(noisy_step, timeout_s=40) as peer:
    held = run_as_peer(RingAllReduce(), peer, Held(apart(peer.peers, 7)[peer.number]), range(1, 6))
np.save(f"{sys.argv[1]}/{peer.number}.npy", held.model)
"""


def test_torchrun_starts_the_same_peers(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(TORCHRUN, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, str(script), str(tmp_path)], env=environment, timeout=90, check=True, capture_output=True)
    models = [np.load(tmp_path / f"{number}.npy") for number in range(2)]
    np.testing.assert_array_equal(models, run_simulated(RingAllReduce(), noisy_step, apart(2, SIZE), 5).models)


def step_until_gone(peer: int, step: int, x: Vector) -> Vector:
    """Peer 1 dies in its third step."""
    if peer == 1 and step == 3:
        os._exit(7)
    return x


def test_a_peer_that_dies_is_an_error_that_names_it() -> None:
    with pytest.raises(PeerLost, match="peer 1"):
        run_processes(RingAllReduce(), step_until_gone, apart(2, SIZE), 5)


def step_that_hangs(peer: int, step: int, x: Vector) -> Vector:
    """Peer 1 hangs in its third step."""
    if peer == 1 and step == 3:
        time.sleep(120)
    return x


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_peer_that_hangs_is_an_error_once_the_time_is_over(device: str | None) -> None:
    with pytest.raises(PeerLost, match=r"peer 1 is gone, or did not answer peer 0 within 2 s"):
        run_processes(RingAllReduce(), step_that_hangs, apart(2, SIZE), 5, timeout_s=2, device=device)


def test_peers_that_never_join_are_an_error(tmp_path: Path) -> None:
    meeting = (tmp_path / "meeting").as_uri()
    with (
        pytest.raises(PeerLost, match="not all peers joined within 1 s"),
        joined(no_step, meeting=meeting, number=0, peers=2, join_s=1),
    ):
        pass


def test_a_time_out_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"timeout_s = 0: accepted: a finite number > 0"), joined(no_step, timeout_s=0):
        pass


def test_one_process_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"peers = 1: a peer alone has nobody to average with; accepted: .* >= 2"):
        run_processes(RingAllReduce(), no_step, apart(1, SIZE), 1)
