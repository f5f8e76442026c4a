"""Members in virtual machines, as a site of the testbed: its checks run there as they are."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from testbed.cluster import Site
from testbed.member import MEMBER_SYSCTLS, REPOSITORY, Member, Settings
from testbed.shell import CommandFailed, Process, run
from testbed.topology import RUNS, SUBNET_PREFIX, Host, Network, leave_note, sweep

from .image import Image
from .machine import HOST_PORTS, Kind, VirtualMachine, read_answer

PCI_ADDRESS = "0000:00:04.0"
SETUP = REPOSITORY / "scripts" / "setup"
_HUGE_PAGES = 96
_HOST_PORTS = {
    "tap": "tap: vip0",
    "vhost-net": 'vdev: "net_virtio_user0,path=/dev/vhost-net,iface=vip0,queues=1,queue_size=1024"',
}


def _setup(driver: str) -> str:
    return f"{SETUP} --huge-pages {_HUGE_PAGES} --bind {PCI_ADDRESS} --driver {driver}"


class _Popen:
    """The part of subprocess.Popen that the testbed uses, for a program inside a machine."""

    def __init__(self, machine: VirtualMachine, request: dict[str, Any]) -> None:
        self._machine = machine
        self._connection = machine.channel(**request)
        self._pending = b""
        self.returncode: int | None = None
        answer = self._line(10)
        if answer is None or "pid" not in answer:
            raise CommandFailed(f"{machine.name}: {request['start'][0]}: {answer}")
        self.pid: int = answer["pid"]

    def _line(self, seconds: float) -> dict[str, Any] | None:
        """What the agent says next; None if it says nothing in that time."""
        while b"\n" not in self._pending:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(seconds):
                    return None
            data = self._connection.recv(4096)
            if not data:
                return {"ended": -signal.SIGKILL}
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        parsed: dict[str, Any] = json.loads(line)
        return parsed

    def poll(self) -> int | None:
        """Its exit status, if it has ended."""
        return self._look(0)

    def _look(self, seconds: float) -> int | None:
        if self.returncode is None and not self._machine.alive():
            # Without power a machine says nothing more.
            self.returncode = -signal.SIGKILL
        if self.returncode is None and (said := self._line(seconds)) is not None:
            self.returncode = said["ended"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended."""
        deadline = time.monotonic() + (timeout or 3600)
        while self._look(max(0.0, min(0.2, deadline - time.monotonic()))) is None:
            if time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid} on {self._machine.name}", timeout or 0)
        return self.returncode or 0

    def send_signal(self, number: int) -> None:
        """Signals it, unless it has ended."""
        if self.poll() is None:
            self._connection.sendall(json.dumps({"signal": int(number)}).encode() + b"\n")

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class GuestProcess(Process):
    """A program inside a machine, whose log is in the directory that it shares."""

    def __init__(
        self, machine: VirtualMachine, arguments: Sequence[str], log: Path, environment: dict[str, str]
    ) -> None:
        self.log = log
        log.touch()
        request = {"start": list(arguments), "log": str(log), "environment": environment}
        self.popen = _Popen(machine, request)  # type: ignore[assignment]


class VmHost(Host):
    """A machine as a host on the switch."""

    def __init__(self, machine: VirtualMachine) -> None:
        number = machine.number
        super().__init__(machine.name, machine.namespace, f"10.0.0.{number}", machine.mac, machine.port)
        self.machine = machine
        self.processes: list[GuestProcess] = []

    def start(self, arguments: Sequence[str], *, log: Path, environment: dict[str, str] | None = None) -> Process:
        """As for any host."""
        self.processes.append(GuestProcess(self.machine, arguments, log, environment or {}))
        return self.processes[-1]

    def run(self, arguments: Sequence[str], *, timeout: float = 30.0) -> str:
        """As for any host."""
        return self.machine.run(arguments, timeout=timeout)

    def connect(self, port: int, *, timeout: float) -> socket.socket:
        """As for any host."""
        connection = self.machine.channel(connect=port, timeout=timeout)
        with connection.makefile("rb", buffering=0) as lines:
            answer = json.loads(lines.readline() or b'{"error": "hung up"}')
        if "error" in answer:
            connection.close()
            raise ConnectionRefusedError(answer["error"])
        return connection

    def sysctl(self, values: dict[str, str]) -> None:
        """As for any host."""
        if values:
            self.machine.run(["sysctl", "-q", "-w", *(f"{key}={value}" for key, value in values.items())])


class VmMember(Member):
    """A member on a PCI card of its own."""

    host: VmHost

    def __init__(
        self, host: VmHost, home: Path, sockets: Path, key: Path, settings: Settings, host_port: str
    ) -> None:
        machine = host.machine
        self._host_port = host_port
        self.cores = machine.kind.processors
        if key.exists():
            machine.write(key, key.read_text())
        machine.run(["mkdir", "-p", "-m", "700", str(sockets / f"{host.name}.dpdk")])
        super().__init__(host, home, sockets, key, settings)
        relay = Path(__file__).with_name("relay.py")
        self.relay = Process(
            [sys.executable, "-B", str(relay), str(self.socket), *map(str, machine.address)],
            log=home / "relay.log",
            namespace=machine.namespace,
        )

    def ports(self) -> str:
        """The card, by its place on the bus; the member's own address moves to the host port."""
        device = _HOST_PORTS[self._host_port]
        host = f"{{{device}, address: {self.host.address}/{SUBNET_PREFIX}}}"
        return f'  wire: {{pci: "{PCI_ADDRESS}"}}\n  host: {host}\n  huge_pages: require'


class Machines(Site):
    """Virtual machines, which live on from one testbed to the next."""

    def __init__(self, kind: Kind, image: Image, home: Path, shared: Path) -> None:
        """`shared` is where testbeds keep their files."""
        self._kind = kind
        self._image = image
        self._home = home
        self._shared = shared
        self._run = f"{os.getpid()}vm"
        self._namespace = f"bt{self._run}-pool"
        self.machines: dict[str, VirtualMachine] = {}
        self.host_port = HOST_PORTS[0]
        """That of members from now on."""
        self._hosts: list[VmHost] = []
        self._members: list[VmMember] = []
        self._without_baton = False

    def __enter__(self) -> Machines:
        sweep()
        leave_note(self._run)
        run(["ip", "netns", "add", self._namespace])
        run(["ip", "-n", self._namespace, "link", "set", "lo", "up"])
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines.values():
            machine.kill()
        run(["ip", "netns", "delete", self._namespace])
        shutil.rmtree(RUNS / self._run)

    def boot(self, count: int) -> None:
        """Starts so many machines at once, as far as they do not run."""
        missing = [number for number in range(1, count + 1) if not self._runs(f"s{number}")]
        for number in missing:
            self._boot(f"s{number}", 10 + number)
        for number in missing:
            self.machines[f"s{number}"].booted()
        self._prepare([self.machines[f"s{number}"] for number in missing], _setup(self._kind.driver))

    def _runs(self, name: str) -> bool:
        return name in self.machines and self.machines[name].alive()

    def _boot(self, name: str, number: int) -> VirtualMachine:
        machine = VirtualMachine(name, number, self._kind, self._image, self._namespace, self._home, self._shared)
        self.machines[name] = machine
        return machine

    def _prepare(self, machines: list[VirtualMachine], setup: str) -> None:
        """Gives their cards to a driver, on all of them at once."""
        missing = [machine for machine in machines if machine.prepared != setup]
        asked = [(machine, machine.channel(timeout=60, run=["sh", "-c", setup])) for machine in missing]
        for machine, channel in asked:
            done = read_answer(machine.name, channel)
            if done["status"] != 0:
                raise CommandFailed(f"{machine.name}: {setup}: {done['stderr'].strip()}")
            machine.prepared = setup

    @contextlib.contextmanager
    def opened(self, network: Network, home: Path, *, without_baton: bool) -> Iterator[None]:
        """Machines are plugged into this testbed's switch as they are asked for, and unplugged in the end."""
        self._without_baton = without_baton
        try:
            yield
        finally:
            for member in self._members:
                member.relay.stop()
            for host in self._hosts:
                self._unplug(network, host)
            self._members.clear()
            self._hosts.clear()

    def add_member(self, network: Network, name: str, number: int, home: Path, key: Path, settings: Settings) -> Member:
        """As on any site."""
        if not self._runs(name):
            self._boot(name, number)
            self.machines[name].booted()
        given_back = f"{SETUP} --undo && ip link set eth0 up && ip address replace 10.0.0.{number}/24 dev eth0"
        self._prepare([self.machines[name]], given_back if self._without_baton else _setup(self._kind.driver))
        host = VmHost(self.machines[name])
        run(["ip", "-n", self._namespace, "link", "set", host.port, "netns", network.switch])
        self._hosts.append(host)
        run(["ip", "-n", network.switch, "link", "set", host.port, "master", "br0", "up"])
        network.hosts[name] = host
        host.sysctl(MEMBER_SYSCTLS)
        member = VmMember(host, home / name, network.directory, key, settings, self.host_port)
        self._members.append(member)
        return member

    def _unplug(self, network: Network, host: VmHost) -> None:
        for process in host.processes:
            process.kill()
        run(["ip", "-n", network.switch, "link", "set", host.port, "nomaster", "netns", self._namespace])
