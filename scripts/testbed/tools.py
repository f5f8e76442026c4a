"""The compiled tools (crates/testbed-tools): a flood of SYNs, and a long cable."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .cluster import CLIENT_SYSCTLS
from .member import REPOSITORY, VIP
from .shell import Process, run, wait_until
from .topology import Host, Network, write_sysctls


def tool(name: str) -> str:
    """The path of a built tool."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    for profile in ("release", "debug"):
        if (target / profile / name).exists():
            return str(target / profile / name)
    raise FileNotFoundError(f"{name} is not built: cargo build --release -p testbed-tools")


def add_distant_host(network: Network, name: str, number: int, *, each_way: str, log: Path) -> tuple[Host, Process]:
    """A client at the end of a long cable: every frame takes `each_way` (as `50ms`) in each direction."""
    relay = network.add_relay(f"{name}-cable")
    host = network.add_host(name, number, behind=relay)
    write_sysctls(host.namespace, CLIENT_SYSCTLS)
    process = Process(
        [tool("testbed-delay"), "--near", host.port, "--far", "eth0", "--each-way", each_way, "--host", host.mac],
        log=log,
        namespace=relay,
    )
    wait_until(lambda: "ready" in process.log_text(), "the long cable", timeout=5)
    return host, process


@dataclass
class Flood:
    """What a flood came to."""

    sent: int
    rate: float


class Flooder:
    """A running flood of spoofed SYNs at the VIP."""

    def __init__(self, host: Host, vmac: str, log: Path, *, seconds: int, rate: int = 0) -> None:
        self._seconds = seconds
        self._process = Process(
            [tool("testbed-flood"), "--interface", "eth0", "--from", host.mac, "--to", vmac, "--address", VIP]
            + ["--duration", f"{seconds}s", "--rate", str(rate)],
            log=log,
            namespace=host.namespace,
            stdout=subprocess.PIPE,
        )
        self._stand_back()

    def _stand_back(self) -> None:
        """Whoever floods has machines of his own: here it gets what the members' machines leave of the processor."""
        pid = self._process.popen.pid
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        # A session is scheduled as one (sched(7), autogroup): niceness counts within it, and this is that of the whole.
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/{pid}/autogroup").write_text("19", encoding="ascii")

    def wait(self) -> Flood:
        """Waits for its end."""
        self._process.popen.wait(timeout=self._seconds + 10)
        if self._process.popen.returncode != 0:
            raise RuntimeError(f"the flood failed: {self._process.log_text().strip()}")
        line = json.loads(self._process.output.read())
        return Flood(line["sent"], line["rate"])


def round_trip_ms(namespace: str, address: str, count: int = 10) -> float:
    """The median round trip of pings, in milliseconds."""
    text = run(["ip", "netns", "exec", namespace, "ping", "-n", "-i", "0.1", "-c", str(count), address], timeout=30)
    times = sorted(float(line.rpartition("time=")[2].split()[0]) for line in text.splitlines() if "time=" in line)
    if len(times) < count:
        raise RuntimeError(f"only {len(times)} of {count} pings to {address} came back")
    return times[len(times) // 2]
