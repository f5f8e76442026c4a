"""What moves frames between two ports: baton, DPDK's testpmd, the kernel's bridge.

All are counted alike: frames received from the wire.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from testbed.control_socket import ControlSocket
from testbed.member import baton_binary
from testbed.shell import Process, run, wait_until

from .plan import System
from .site import VIP, VMAC, Site

# Buffers beyond those that a replayed capture holds: rings, caches, bursts under way.
_SPARE_BUFFERS = 32_768
_WORKER_CORE, _CONTROL_CORE = 1, 0


@dataclass(frozen=True)
class Ports:
    """Two devices, as EAL's `--vdev` takes them."""

    wire: str
    host: str
    buffers: int
    """That the two keep for themselves."""
    huge_pages: bool = False
    """Whether they are reserved for all. If not, a member asks for transparent ones for its tables, as ever."""


@dataclass(frozen=True)
class Count:
    """A reading."""

    received: int
    """From the wire."""
    passed: int
    """To the host or the wire."""
    at: float
    """Monotonic seconds."""


class Forwarder(Protocol):
    """A running system."""

    pid: int
    """Of the process whose busiest thread is the worker; 0 where there is none."""

    def count(self) -> Count: ...


_MEMBER = """\
cluster: {{name: bench, key_file: {key}}}
node: {{name: bench}}
vips:
  - {{address: {vip}/24, mac: "{vmac}", ports: [80], orphans: {orphans}}}
dataplane:
  wire: {{vdev: "{wire}"}}
  host: {{vdev: "{host}"}}
  workers: [{worker}]
  control_core: {control}
  poll: {poll}
  connections: {connections}
  buffers: {buffers}
  huge_pages: {huge_pages}
control: {{socket: {socket}}}
log: {{level: info, format: text}}
"""


class Baton:
    """A member of one, which is the active one unless it is drained."""

    def __init__(self, process: Process, socket: ControlSocket) -> None:
        self._process = process
        self._socket = socket
        self.pid = process.pid

    def count(self) -> Count:
        before = time.monotonic()
        frames = self._socket.status()["frames"]
        return Count(frames["wire_rx"], frames["wire_tx"] + frames["host_tx"], (before + time.monotonic()) / 2)

    def status(self) -> dict[str, object]:
        """Its own view."""
        return self._socket.status()


@contextlib.contextmanager
def baton(place: Site, system: System, ports: Ports) -> Iterator[Baton]:
    """Runs a member on these ports."""
    settings = system.settings
    config, path = place.home / "baton.yaml", place.network.directory / "bench.sock"
    config.write_text(
        _MEMBER.format(
            key=place.key,
            vip=VIP,
            vmac=VMAC,
            orphans="{after: 2s}" if settings.get("orphans", True) else "never",
            wire=ports.wire,
            host=ports.host,
            worker=_WORKER_CORE,
            control=_CONTROL_CORE,
            poll=settings.get("poll", "busy"),
            connections=settings.get("connections", 1 << 20),
            buffers=ports.buffers + _SPARE_BUFFERS,
            huge_pages="require" if ports.huge_pages else "auto",
            socket=path,
        )
    )
    log = place.home / "baton.log"
    log.write_text("")
    binary = str(settings.get("binary", baton_binary()))
    process = Process(
        [binary, "run", "--config", str(config)],
        log=log,
        namespace=place.namespace,
        environment={"RUNTIME_DIRECTORY": str(place.network.directory)},
    )
    try:
        wait_until(lambda: _ready(process, path, log), "baton to be ready", timeout=60)
        if settings.get("role") == "passive":
            run([binary, "drain", "--socket", str(path)])
        with ControlSocket(path) as socket:
            yield Baton(process, socket)
    finally:
        process.stop()


def _ready(process: Process, path: Path, log: Path) -> bool:
    if not process.alive():
        raise RuntimeError(f"baton ended: {log.read_text().strip()[-800:]}")
    with contextlib.suppress(OSError), ControlSocket(path) as socket:
        return socket.status()["ready"] is True
    return False


class Testpmd:
    """DPDK's own forwarder, by its command line."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    def say(self, command: str) -> None:
        """Types a command."""
        if self._process.stdin is None or self._process.poll() is not None:
            raise RuntimeError(f"testpmd has ended: {self._log.read_text()[-800:]}")
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def said(self) -> str:
        """All that it has written so far."""
        return self._log.read_text(errors="replace")

    def count(self) -> Count:
        wire, host = self._port(0), self._port(1)
        return Count(wire[0], wire[1] + host[1], wire[2])

    def _port(self, port: int) -> tuple[int, int, float]:
        """Frames received and sent by now, and when that was."""
        asked = len(self._log.read_bytes())
        before = time.monotonic()
        self.say(f"show port stats {port}")
        pattern = re.compile(rb"RX-packets: (\d+).*?TX-packets: (\d+).*?Throughput", re.DOTALL)
        found = None
        while (found := pattern.search(self._log.read_bytes()[asked:])) is None:
            if time.monotonic() - before > 5:
                raise RuntimeError(f"testpmd does not count: {self.said()[-800:]}")
            time.sleep(0.001)
        return int(found[1]), int(found[2]), before


@contextlib.contextmanager
def testpmd(
    place: Site,
    mode: str,
    ports: Ports,
    *,
    core: int = _WORKER_CORE,
    namespace: str | None = None,
    log: str = "testpmd",
) -> Iterator[Testpmd]:
    """Runs testpmd on these ports, with as many buffers, as long bursts and as large caches as baton has."""
    buffers = ports.buffers + _SPARE_BUFFERS
    # Without huge pages each buffer takes a page.
    memory = 128 + buffers * (2560 if ports.huge_pages else 4096) // (1 << 20)
    eal = ["--lcores", f"0@{_CONTROL_CORE},1@{core}", "-m", str(memory), "--no-pci"]
    eal += ["--in-memory"] if ports.huge_pages else ["--no-huge", "--no-shconf"]
    eal += ["--no-telemetry", "--log-level=*:warning", "--single-file-segments"]
    eal += ["--file-prefix", f"bench-{log}", "--vdev", ports.wire, "--vdev", ports.host]
    own = ["--interactive", "--nb-cores=1", f"--forward-mode={mode}", f"--total-num-mbufs={buffers}"]
    own += ["--mbcache=256", "--burst=64", "--no-lsc-interrupt", "--no-mlockall"]
    file = place.home / f"{log}.log"
    with file.open("wb") as output:
        process = subprocess.Popen(
            # Into a file it would write only when its buffer is full.
            ["ip", "netns", "exec", namespace or place.namespace, "stdbuf", "-oL", "dpdk-testpmd", *eal, "--", *own],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        forwarder = Testpmd(process, file)
        wait_until(lambda: _prompts(forwarder, process), "testpmd", timeout=60)
        forwarder.say("start")
        yield forwarder
    finally:
        if process.poll() is None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.write(b"quit\n")
                process.stdin.close()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)


def _prompts(forwarder: Testpmd, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"testpmd ended: {forwarder.said()[-800:]}")
    return "testpmd> " in forwarder.said()


class Bridge:
    """The kernel's own way between the two interfaces."""

    pid = 0

    def __init__(self, place: Site) -> None:
        self._namespace = place.namespace

    def count(self) -> Count:
        before = time.monotonic()
        received, passed = (self._statistic(*of) for of in (("wire", "rx"), ("host", "tx")))
        return Count(received, passed, before)

    def _statistic(self, interface: str, way: str) -> int:
        path = f"/sys/class/net/{interface}/statistics/{way}_packets"
        # `ip netns exec` mounts the namespace's own sysfs.
        return int(run(["ip", "netns", "exec", self._namespace, "cat", path]))


@contextlib.contextmanager
def bridge(place: Site) -> Iterator[Bridge]:
    """A bridge of the two interfaces, which floods what it has not learnt."""
    there = ["ip", "-n", place.namespace, "link"]
    run([*there, "add", "bench0", "type", "bridge"])
    try:
        for name in ("wire", "host"):
            run([*there, "set", name, "master", "bench0"])
        run([*there, "set", "bench0", "up"])
        yield Bridge(place)
    finally:
        run([*there, "delete", "bench0"])


@contextlib.contextmanager
def forwarder(place: Site, system: System, ports: Ports) -> Iterator[Forwarder]:
    """Runs a system of a file."""
    if system.kind == "baton":
        with baton(place, system, ports) as member:
            yield member
    elif system.kind == "testpmd":
        with testpmd(place, str(system.settings["mode"]), ports) as program:
            yield program
    else:
        with bridge(place) as kernel:
            yield kernel
