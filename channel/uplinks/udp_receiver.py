"""A receiver on the other side of a network: devices' signals come as datagrams, and are added up as they come.

It is the loop-back stand-in of a software-defined radio: something apart that hears, blocks that get lost, time that
runs out. What goes over the network is each device's signal as an antenna would hear it, in blocks of float32.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channel.mac import receive
from channel.uplinks.receiver import Complex, Heard, ReceiverError
from channel.uplinks.superposition import superpose_symbols

HEADER = struct.Struct("!4sIIHI")
"""Mark, number of the burst, device, antenna, first use of the block; 18 bytes in network order."""

MARK = b"FMAC"
BLOCK = 256
"""Uses in a datagram: 1 kB, which fits every link's frame."""


class UdpReceiver:
    """Hears devices through a UDP socket on this machine, in a thread of its own.

    Use it as a context manager. A block that comes twice counts once; one that does not come is lost, with its energy.

    Parameters
    ----------
    timeout : float
        Seconds without any datagram after which those that are missing count as lost, > 0.
    host : str
        Address to listen on.
    port : int
        Its port; 0 for one that is free.
    """

    def __init__(self, timeout: float = 0.5, host: str = "127.0.0.1", port: int = 0) -> None:
        if not 0 < timeout < math.inf:
            raise ValueError(f"UdpReceiver: timeout is {timeout}; accepted: seconds > 0")
        self.timeout = timeout
        self.strange = 0
        """Datagrams so far that were no block of the burst under way."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind((host, port))
        self._socket.settimeout(0.1)  # how long closing waits for the thread
        self.address: tuple[str, int] = self._socket.getsockname()
        self._burst: _Burst | None = None
        self._number = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._listen, name="udp-receiver", daemon=True)
        self._thread.start()

    def __enter__(self) -> UdpReceiver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and give the port back."""
        self._closing = True
        self._thread.join()
        self._socket.close()

    def receive(self, symbols: Tensor, arriving: Complex, noise_power: float, draws: np.random.Generator) -> Heard:
        """Let all devices send, sum what comes, and add the noise, as :class:`channel.uplinks.receiver.Receiver` says.

        Raises
        ------
        ReceiverError
            If no block at all comes within the time-out.
        """
        devices, antennas, uses = len(symbols), arriving.shape[2], symbols.shape[1]
        with self._changed:
            self._number = (self._number + 1) % 2**32
            burst = self._burst = _Burst(self._number, devices, antennas, uses)
        for device in range(devices):
            for antenna in range(antennas):
                signal = superpose_symbols(symbols[[device]], arriving[:, [device], antenna])
                self.radiate(burst.number, device, antenna, signal.numpy())
        with self._changed:
            while burst.missing and time.monotonic() - burst.last < self.timeout:
                self._changed.wait(self.timeout / 4)
            self._burst = None
        if burst.missing == burst.blocks:
            where = f"UdpReceiver at {self.address[0]}:{self.address[1]}"
            what = f"none of {burst.blocks} blocks of {devices} devices came"
            raise ReceiverError(f"{where}: {what} within timeout = {self.timeout:g} s")
        samples = torch.stack([receive(row, noise_power, draws) for row in torch.from_numpy(burst.sum)])
        return Heard(samples, lost=burst.missing)

    def radiate(self, burst: int, device: int, antenna: int, signal: NDArray[np.float64]) -> None:
        """Send a device's signal (m,), as it arrives at an antenna, in blocks; in place of the device's radio."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as radio:
            for first in range(0, len(signal), BLOCK):
                header = HEADER.pack(MARK, burst, device, antenna, first)
                radio.sendto(header + signal[first : first + BLOCK].astype("<f4").tobytes(), self.address)

    def _listen(self) -> None:
        while not self._closing:
            try:
                datagram = self._socket.recv(65536)
            except TimeoutError:
                continue
            with self._changed:
                if self._burst is None or not self._burst.add(datagram):
                    self.strange += 1
                elif not self._burst.missing:
                    self._changed.notify_all()


class _Burst:
    """What has come of one burst."""

    def __init__(self, number: int, devices: int, antennas: int, uses: int) -> None:
        self.number = number
        self.devices = devices
        self.sum = np.zeros((antennas, uses))
        self.blocks = devices * antennas * math.ceil(uses / BLOCK)
        self.last = time.monotonic()
        self._come: set[tuple[int, int, int]] = set()

    @property
    def missing(self) -> int:
        return self.blocks - len(self._come)

    def add(self, datagram: bytes) -> bool:
        """Add a block to the sum; False if it is none of this burst's, or was here before."""
        if len(datagram) < HEADER.size:
            return False
        mark, number, device, antenna, first = HEADER.unpack_from(datagram)
        antennas, uses = self.sum.shape
        if mark != MARK or number != self.number or device >= self.devices or antenna >= antennas:
            return False
        place, size = (device, antenna, first), len(datagram) - HEADER.size
        if first % BLOCK or first >= uses or size != 4 * min(BLOCK, uses - first) or place in self._come:
            return False
        samples = np.frombuffer(datagram, dtype="<f4", offset=HEADER.size)
        if not np.isfinite(samples).all():
            return False
        self.sum[antenna, first : first + len(samples)] += samples
        self._come.add(place)
        self.last = time.monotonic()
        return True
