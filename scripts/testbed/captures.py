"""Captures on every bridge port: one tcpdump per port, of what came in from the host behind it.

What comes in on all ports is all traffic there is: the switch sends nothing of its own. So a frame appears once, and
its file says which host sent it, whatever its source address claims.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from pathlib import Path
from struct import Struct

from .packets import Frame
from .shell import Process, TimedOut
from .topology import Network

# Enough for all headers and the start of a request.
_SNAPLEN = 160
_RECORD = Struct("<IIII")
_NANOSECOND_MAGIC = 0xA1B23C4D


@dataclass
class _Running:
    host: str
    file: Path
    process: Process


class Captures:
    """The captures of a run; `frames` reads them once they have been stopped."""

    def __init__(self, network: Network, directory: Path, capture_filter: str = "") -> None:
        """Starts them all and returns when each of them listens. The filter is tcpdump's."""
        self._network = network
        self._directory = directory
        self._filter = capture_filter
        self._running: list[_Running] = []
        self._stopped = False
        self.lost = 0
        """Frames the kernel could not hand to tcpdump; known after `stop`."""
        self.clock_offset = time.monotonic_ns() - time.time_ns()
        """Nanoseconds from a capture's clock to the clients' monotonic one."""
        directory.mkdir(parents=True)
        for name in network.hosts:
            self.add(name)

    def add(self, host: str) -> None:
        """Starts the capture of one more host's port."""
        file = self._directory / f"{host}.pcap"
        process = Process(
            ["tcpdump", "-i", self._network.hosts[host].port, "-Q", "in", "-n", "-Z", "root", "-B", "16384"]
            + ["-s", str(_SNAPLEN), "--time-stamp-precision=nano", "-w", str(file), *self._filter.split()],
            log=self._directory / f"{host}.log",
            namespace=self._network.switch,
        )
        self._running.append(_Running(host, file, process))
        deadline = time.monotonic() + 10
        while "listening on" not in process.log_text():
            if not process.alive() or time.monotonic() > deadline:
                raise TimedOut(f"tcpdump on {host}'s port does not listen: {process.log_text().strip()}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Ends all captures, once all is written: tcpdump is handed frames when a block is full or a second over."""
        if self._stopped:
            return
        self._stopped = True
        time.sleep(1.2)
        for capture in self._running:
            capture.process.stop(by=signal.SIGINT)
            text = capture.process.log_text()
            for lost in re.findall(r"^(\d+) packets? dropped by", text, re.MULTILINE):
                self.lost += int(lost)

    def frames(self) -> Iterator[Frame]:
        """All frames of all ports in the order of time."""
        self.stop()
        return merge(*(self._read(capture) for capture in self._running), key=lambda frame: frame.time)

    def _read(self, capture: _Running) -> Iterator[Frame]:
        data = capture.file.read_bytes()
        if int.from_bytes(data[:4], "little") != _NANOSECOND_MAGIC:
            raise ValueError(f"{capture.file} is not a capture with nanoseconds")
        position = 24
        while position + 16 <= len(data):
            seconds, nanoseconds, length, original = _RECORD.unpack_from(data, position)
            position += 16
            raw = data[position : position + length]
            position += length
            yield Frame(seconds * 1_000_000_000 + nanoseconds, capture.host, raw, original)
