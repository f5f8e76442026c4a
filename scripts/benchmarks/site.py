"""Where forwarders are measured: a network namespace with the virtual IP, a capture, and held sockets."""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.member import REPOSITORY, write_key
from testbed.shell import Process, run, wait_until
from testbed.tools import tool
from testbed.topology import Network

from .plan import Traffic

VIP, VMAC = "10.0.0.100", "02:00:00:00:00:64"
CLIENT_MAC = "02:00:00:00:00:01"
# Descriptors of a process that holds sockets, besides those.
_OTHER_DESCRIPTORS = 64
_CAPTURES = REPOSITORY / "target" / "bench" / "traffic"


@dataclass
class Site:
    """The namespace. `wire` and `host` are the ends of two cables, whose far ends `wire-far` and `host-far` are in
    another namespace, `far`."""

    network: Network
    namespace: str
    far: str
    home: Path
    key: Path


@contextlib.contextmanager
def site(home: Path) -> Iterator[Site]:
    """Makes the namespaces, and removes them with all in them."""
    home.mkdir(parents=True, exist_ok=True)
    with Network() as network:
        here, far = network.add_relay("here"), network.add_relay("far")
        for name in ("wire", "host"):
            network.cable(here, name, far, f"{name}-far")
        run(["ip", "-n", here, "address", "add", f"{VIP}/32", "dev", "lo"])
        # Clients are beyond it; nothing is ever sent there.
        run(["ip", "-n", here, "route", "add", "default", "dev", "eth0"])
        key = write_key(network.directory / "cluster.key")
        yield Site(network, here, far, home, key)


@contextlib.contextmanager
def huge_pages(count: int) -> Iterator[None]:
    """So many free huge pages of the default size, for as long as it is measured."""
    setting = Path("/proc/sys/vm/nr_hugepages")
    before = setting.read_text()
    if count:
        setting.write_text(str(int(before) + count))
    try:
        reserved = int(setting.read_text()) - int(before)
        if reserved < count:
            raise RuntimeError(f"only {reserved} of {count} huge pages could be reserved")
        yield
    finally:
        if count:
            setting.write_text(before)


def capture(traffic: Traffic) -> Path:
    """The capture of some traffic, written once."""
    if traffic.capture is not None:
        return traffic.capture.resolve()
    counts = {kind: traffic.count(kind) for kind in ("established", "foreign", "syn", "arp")}
    name = "-".join([*(f"{kind}{count}" for kind, count in counts.items() if count), *map(str, traffic.sizes)])
    file = _CAPTURES / f"{name}.pcap"
    if not file.exists():
        _CAPTURES.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        shares = [argument for kind, count in counts.items() for argument in (f"--{kind}", str(count))]
        sizes = ",".join(map(str, traffic.sizes))
        ends = ["--from", CLIENT_MAC, "--to", VMAC, "--vip", VIP]
        run([tool("testbed-traffic"), "--out", str(part), *ends, *shares, "--sizes", sizes], timeout=120)
        part.rename(file)
    return file


@contextlib.contextmanager
def held_sockets(place: Site, count: int) -> Iterator[None]:
    """So many established connections of the VIP in the namespace's kernel, for a member to find when it starts."""
    each = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _OTHER_DESCRIPTORS
    holders = []
    try:
        for first in range(0, count, each):
            command = [tool("testbed-sockets"), "--vip", VIP, "--first", str(first)]
            command += ["--count", str(min(each, count - first))]
            log = place.home / f"sockets-{first}.log"
            log.write_text("")
            holder = subprocess.Popen(
                ["ip", "netns", "exec", place.namespace, *command],
                stdin=subprocess.PIPE,
                stdout=log.open("ab"),
                stderr=subprocess.STDOUT,
            )
            holders.append(holder)
            wait_until(lambda log=log, holder=holder: _holds(log, holder), "the held sockets", timeout=120)
        yield
    finally:
        for holder in holders:
            if holder.stdin is not None:
                holder.stdin.close()
        for holder in holders:
            holder.wait(timeout=120)


def _holds(log: Path, holder: subprocess.Popen[bytes]) -> bool:
    if holder.poll() is not None:
        raise RuntimeError(f"the held sockets: {log.read_text().strip()}")
    return "ready" in log.read_text()


__all__ = ["CLIENT_MAC", "VIP", "VMAC", "Process", "Site", "capture", "held_sockets", "site"]
