"""The network: a namespace with the bridge (the switch), one per host, and the cables between them.

    client c1 ──┐
    outsider x1 ┼── [ bridge br0 in namespace "sw" ] ──┬── s1 (eth0)
                                                       ├── s2 (eth0)
                                                       └── s3 (eth0)

Namespaces are named `bt<run>-…`, with the run's process id, so runs do not collide; interfaces exist only inside
namespaces. A run leaves a note of itself under /run/baton-testbed; the next start sweeps what a crashed run left.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .shell import CommandFailed, Process, inside, run

RUNS = Path("/run/baton-testbed")
SUBNET_PREFIX = 24
# As on a physical wire: no unfinished checksum and no segment larger than the MTU crosses a cable.
_OFFLOADS_OFF = ["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"]
_COMMON_SYSCTLS = {
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
}


def _start_time(pid: int) -> str:
    """A process's start time in clock ticks: with its id, it names the process for good. Empty if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[19]


def _remove_namespace(name: str) -> None:
    """Ends what still runs in a namespace of ours, by id, then deletes it with all interfaces in it."""
    with contextlib.suppress(CommandFailed):
        for pid in run(["ip", "netns", "pids", name]).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    with contextlib.suppress(CommandFailed):
        run(["ip", "netns", "delete", name])


def leave_note(run_id: str) -> None:
    """Says whose a run is: when this process has ended, its namespaces are swept."""
    (RUNS / run_id).mkdir(parents=True, mode=0o700)
    (RUNS / run_id / "owner").write_text(f"{os.getpid()} {_start_time(os.getpid())}\n")


def sweep() -> list[str]:
    """Removes what runs left behind that ended without their clean-up; returns the names of those runs."""
    swept = []
    for note in RUNS.glob("*/owner"):
        with contextlib.suppress(OSError, ValueError):
            pid, started = note.read_text().split()
            if started == _start_time(int(pid)):
                continue
            for namespace in Path("/run/netns").glob(f"bt{note.parent.name}-*"):
                _remove_namespace(namespace.name)
            shutil.rmtree(note.parent)
            swept.append(note.parent.name)
    return swept


def write_sysctls(namespace: str, values: dict[str, str]) -> None:
    """Sets sysctls of a namespace; those the kernel lacks (IPv6 compiled out) are left out."""
    present = [f"{key}={value}" for key, value in values.items() if Path("/proc/sys", *key.split(".")).exists()]
    if present:
        run(["ip", "netns", "exec", namespace, "sysctl", "-q", "-w", *present])


@dataclass
class Host:
    """A namespace with one cable to the switch."""

    name: str
    namespace: str
    address: str
    mac: str
    port: str
    """Its port's name on the bridge."""

    def start(self, arguments: Sequence[str], *, log: Path, environment: dict[str, str] | None = None) -> Process:
        """Starts a program on it."""
        return Process(arguments, log=log, namespace=self.namespace, environment=environment)

    def run(self, arguments: Sequence[str], *, timeout: float = 30.0) -> str:
        """Runs a command on it, to its end."""
        return run(["ip", "netns", "exec", self.namespace, *arguments], timeout=timeout)

    def connect(self, port: int, *, timeout: float) -> socket.socket:
        """A connection to one of its own ports, as from one of its own programs."""
        with inside(self.namespace):
            connection = socket.socket()
        connection.settimeout(timeout)
        try:
            connection.connect(("127.0.0.1", port))
        except OSError:
            connection.close()
            raise
        return connection

    def sysctl(self, values: dict[str, str]) -> None:
        """Sets sysctls; those that its kernel lacks are left out."""
        write_sysctls(self.namespace, values)


@dataclass
class Network:
    """The switch and everything plugged into it. Use as a context manager: leaving it takes all down."""

    run_id: str = field(default_factory=lambda: str(os.getpid()))
    hosts: dict[str, Host] = field(default_factory=dict)

    @property
    def switch(self) -> str:
        """The switch's namespace."""
        return f"bt{self.run_id}-sw"

    @property
    def directory(self) -> Path:
        """Where sockets and keys of this run are: short paths, as Unix sockets need."""
        return RUNS / self.run_id

    def __enter__(self) -> Network:
        sweep()
        leave_note(self.run_id)
        try:
            self._add_namespace(self.switch)
            # Where something has loaded br_netfilter (Docker does), a bridge takes each frame through the IP firewall.
            write_sysctls(self.switch, {"net.bridge.bridge-nf-call-iptables": "0"})
            # A bridge as it comes: it learns, it floods what it has not learnt. No spanning tree, so no delay.
            run(["ip", "-n", self.switch, "link", "add", "br0", "type", "bridge"])
            run(["ip", "-n", self.switch, "link", "set", "br0", "up"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in Path("/run/netns").glob(f"bt{self.run_id}-*"):
            _remove_namespace(namespace.name)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _add_namespace(self, name: str) -> None:
        run(["ip", "netns", "add", name])
        write_sysctls(name, _COMMON_SYSCTLS)
        run(["ip", "-n", name, "link", "set", "lo", "up"])

    def add_host(self, name: str, number: int, *, behind: str | None = None) -> Host:
        """Plugs a new host into the switch, with the address 10.0.0.`number`; with `behind`, a cable into that
        namespace takes the place of the switch's (its end there is named like the port)."""
        host = Host(name, f"bt{self.run_id}-{name}", f"10.0.0.{number}", f"0a:00:00:00:00:{number:02x}", f"p-{name}")
        self._add_namespace(host.namespace)
        self.cable(host.namespace, "eth0", behind or self.switch, host.port, mac=host.mac)
        if behind is None:
            run(["ip", "-n", self.switch, "link", "set", host.port, "master", "br0"])
        run(["ip", "-n", host.namespace, "address", "add", f"{host.address}/{SUBNET_PREFIX}", "dev", "eth0"])
        self.hosts[name] = host
        return host

    def add_relay(self, name: str) -> str:
        """A namespace without addresses, wired to the switch as `eth0` (for delay.py); returns its name."""
        namespace = f"bt{self.run_id}-{name}"
        self._add_namespace(namespace)
        self.cable(namespace, "eth0", self.switch, f"p-{name}")
        run(["ip", "-n", self.switch, "link", "set", f"p-{name}", "master", "br0"])
        return namespace

    def cable(self, one: str, its_end: str, other: str, others_end: str, *, mac: str | None = None) -> None:
        """A veth pair between two namespaces, offloads off at both ends, both ends up."""
        address = ["address", mac] if mac else []
        run(
            ["ip", "link", "add", its_end, "netns", one, *address, "type", "veth"]
            + ["peer", "name", others_end, "netns", other]
        )
        for namespace, end in ((one, its_end), (other, others_end)):
            run(["ip", "netns", "exec", namespace, "ethtool", "-K", end, *_OFFLOADS_OFF])
            run(["ip", "-n", namespace, "link", "set", end, "up"])

    def cut(self, host: str) -> None:
        """Pulls a host's cable: its port goes down, and the host loses its carrier."""
        run(["ip", "-n", self.switch, "link", "set", self.hosts[host].port, "down"])

    def mend(self, host: str) -> None:
        """Plugs the cable in again."""
        run(["ip", "-n", self.switch, "link", "set", self.hosts[host].port, "up"])

    def block_ethertype(self, ethertype: int, hosts: list[str]) -> None:
        """The switch drops frames of this type from and to these hosts, and only those."""
        self.block(f"ether type {ethertype:#06x}", hosts)

    def block(self, match: str, hosts: list[str]) -> None:
        """The switch drops what matches (in nft's words) from and to these hosts, and only that."""
        ports = self._ports(hosts)
        self._drop(f"{match} iifname {ports}", f"{match} oifname {ports}")

    def part(self, one: list[str], other: list[str]) -> None:
        """The switch passes nothing from a host of one group to one of the other; hosts of neither reach both."""
        here, there = self._ports(one), self._ports(other)
        self._drop(f"iifname {here} oifname {there}", f"iifname {there} oifname {here}")

    def _ports(self, hosts: list[str]) -> str:
        return "{ " + ", ".join(f'"{self.hosts[name].port}"' for name in hosts) + " }"

    def _drop(self, *matches: str) -> None:
        rules = "\n".join(f"{match} counter drop" for match in matches)
        chain = f"chain forward {{ type filter hook forward priority 0;\n{rules}\n}}"
        nft = ["ip", "netns", "exec", self.switch, "nft", "-f", "-"]
        run(nft, stdin=f"table bridge testbed {{\n{chain}\n}}\n")

    def unblock(self) -> int:
        """Ends what `block_ethertype` or `part` began; returns how many frames were dropped."""
        nft = ["ip", "netns", "exec", self.switch, "nft"]
        dropped = sum(int(number) for number in re.findall(r"packets (\d+)", run([*nft, "list", "ruleset"])))
        run([*nft, "delete", "table", "bridge", "testbed"])
        return dropped


class ForwardingTableWatch:
    """Watches what the bridge learns: every notification of its forwarding table, from the start to `stop`."""

    def __init__(self, network: Network, log: Path) -> None:
        self._switch = network.switch
        self._log = log
        self._monitor = Process(["bridge", "monitor", "fdb"], log=log, namespace=network.switch)

    def stop(self) -> set[str]:
        """Every address that was in the table at any time."""
        run_out = run(["bridge", "-n", self._switch, "fdb", "show"])
        self._monitor.stop()
        return set(re.findall(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", (run_out + self._log.read_text()).lower()))
