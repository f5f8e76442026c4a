"""A member: one baton process in its namespace, with its own configuration, key, socket and service."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .pace import pace
from .shell import CommandFailed, Process, TimedOut, run, wait_until
from .topology import SUBNET_PREFIX, Host
from .web import Service

VIP = "10.0.0.100"
GATEWAY = "10.0.0.1"
HEARTBEAT_ETHERTYPE = 0x88B5
REPOSITORY = Path(__file__).resolve().parents[2]
# Cookies are a kernel-wide secret that namespaces share: off, except where a check is about them (docs/testbed.md).
MEMBER_SYSCTLS = {
    "net.ipv4.tcp_syncookies": "0",
    "net.core.somaxconn": "4096",
    "net.ipv4.tcp_max_syn_backlog": "4096",
}

_CONFIG = """\
cluster:
  name: {cluster}
  key_file: {key}
  heartbeat: {heartbeat}
  missed: {missed}
node:
  name: {node}
  metric: connections
vips:
{vips}
dataplane:
{ports}
  workers: [{worker_core}]
  control_core: 0
  poll: adaptive
  connections: 65536
control: {{socket: {socket}}}
metrics: {{listen: "127.0.0.1:9464"}}
log: {{level: info, format: text}}
"""


def baton_binary() -> Path:
    """The binary under test: $BATON, or the newest build under target/."""
    if os.environ.get("BATON"):
        return Path(os.environ["BATON"]).resolve()
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    built = [target / profile / "baton" for profile in ("release", "debug") if (target / profile / "baton").exists()]
    if not built:
        raise FileNotFoundError("no baton binary: run `cargo build --release` first, or set BATON")
    return max(built, key=lambda binary: binary.stat().st_mtime)


@dataclass(frozen=True)
class VipSettings:
    """A virtual IP."""

    address: str = VIP
    options: Mapping[str, str] = field(default_factory=dict)
    """Further keys with their values, as the configuration has them; they take the place of the usual ones."""

    def written(self) -> str:
        """Its entry in the configuration."""
        keys = {"gateway": GATEWAY, "mac": "auto", "ports": "[80]", "actives": "1", **self.options}
        lines = [f"address: {self.address}/{SUBNET_PREFIX}", *(f"{key}: {value}" for key, value in keys.items())]
        return "  - " + "\n    ".join(lines)


@dataclass(frozen=True)
class Settings:
    """What a cluster's members have in common."""

    cluster: str = "testbed"
    heartbeat: str = "10ms"
    missed: int = 3
    vips: tuple[VipSettings, ...] = (VipSettings(),)


class Member:
    """A host on the switch with nginx and baton on it."""

    cores = os.cpu_count() or 1
    """Of its machine."""

    def __init__(self, host: Host, home: Path, sockets: Path, key: Path, settings: Settings) -> None:
        """Writes its configuration and starts its service; baton starts with `start`."""
        self.host = host
        self.name = host.name
        self.home = home
        self.settings = settings
        self.home.mkdir(parents=True)
        self.socket = sockets / f"{host.name}.sock"
        self.config = home / "baton.yaml"
        self.runtime = sockets / f"{host.name}.dpdk"
        self.runtime.mkdir(mode=0o700)
        self.write_config(key)
        self.service = Service(host, home / "nginx")
        self.process: Process | None = None
        self._starts = 0

    def write_config(self, key: Path, *, node: str | None = None) -> None:
        """(Re)writes the configuration; `node` gives another name than the host's."""
        self.config.write_text(
            _CONFIG.format(
                cluster=self.settings.cluster,
                key=key,
                heartbeat=self.heartbeat(),
                missed=self.settings.missed,
                node=node or self.name,
                vips="\n".join(vip.written() for vip in self.settings.vips),
                ports=self.ports(),
                worker_core=1 if self.cores > 1 else 0,
                socket=self.socket,
            )
        )

    def heartbeat(self) -> str:
        """Their interval."""
        number, unit = re.fullmatch(r"([0-9]+)([a-z]+)", self.settings.heartbeat).groups()  # type: ignore[union-attr]
        return f"{round(int(number) * pace.heartbeats)}{unit}"

    def ports(self) -> str:
        """The configuration's lines about the ports and their memory."""
        return "  wire: {interface: eth0}\n  host: {tap: vip0}\n  huge_pages: never"

    def start(self) -> None:
        """Starts baton; it is of use once `ready`."""
        self._starts += 1
        self.process = self.host.start(
            [str(baton_binary()), "run", "--config", str(self.config)],
            log=self.home / f"baton-{self._starts}.log",
            # DPDK keeps its run-time files by node name: runs side by side use the same names.
            environment={"RUNTIME_DIRECTORY": str(self.runtime)},
        )

    def signal(self, number: signal.Signals) -> None:
        """Sends baton a signal."""
        if self.process is None:
            raise RuntimeError(f"baton on {self.name} was never started")
        self.process.popen.send_signal(number)

    def kill(self, *, wait: bool = True) -> None:
        """SIGKILL: no goodbye, no clean-up. Without `wait` it returns before the process is gone."""
        if self.process is not None and wait:
            self.process.kill()
        elif self.process is not None:
            self.process.popen.kill()

    def stop(self) -> int:
        """SIGTERM: leaves cleanly; returns the exit status."""
        return 0 if self.process is None else self.process.stop()

    def command(self, *arguments: str, timeout: float = 30.0) -> str:
        """A baton command to this member over its control socket."""
        return run([str(baton_binary()), *arguments, "--socket", str(self.socket)], timeout=timeout)

    def status(self) -> dict[str, Any]:
        """`baton status --json`."""
        parsed: dict[str, Any] = json.loads(self.command("status", "--json"))
        return parsed

    def vip(self, address: str = VIP) -> dict[str, Any]:
        """A VIP's part of the status."""
        vips: list[dict[str, Any]] = self.status()["vips"]
        return next(vip for vip in vips if vip["address"] == address)

    def drops(self, reason: str) -> int:
        """A drop counter; a reason the status does not name is an error."""
        return int(self.status()["drops"][reason])

    def activate(self, address: str = VIP) -> None:
        """A planned handover of a VIP to this member."""
        self.command("activate", "--vip", address)

    def ready(self) -> bool:
        """Whether baton is up and settled; raises when it has ended instead."""
        if self.process is not None and not self.process.alive():
            raise RuntimeError(f"baton on {self.name} ended with {self.process.popen.returncode}: {self.last_words()}")
        if not self.socket.exists():
            return False
        try:
            return self.status()["ready"] is True
        except CommandFailed:
            return False

    def last_words(self) -> str:
        """The end of baton's log."""
        return "" if self.process is None else "\n".join(self.process.log_text().strip().splitlines()[-8:])

    def metrics(self) -> str:
        """The Prometheus text of /metrics."""
        client = http.client.HTTPConnection("127.0.0.1", 9464)
        client.sock = self.host.connect(9464, timeout=5)
        try:
            client.request("GET", "/metrics")
            return client.getresponse().read().decode()
        finally:
            client.close()

    def cpu_seconds(self) -> float:
        """The processor time baton has used so far."""
        if self.process is None:
            return 0.0
        fields = self.host.run(["cat", f"/proc/{self.process.pid}/stat"]).rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_key(path: Path) -> Path:
    """A new cluster key by `baton keygen`."""
    run([str(baton_binary()), "keygen", "--out", str(path)])
    return path


def wait_ready(members: list[Member], *, timeout: float = 30.0) -> None:
    """Waits until all are ready and know each other alive."""

    def missing() -> str:
        for member in members:
            if not member.ready():
                return f"{member.name} ready; it says: {member.last_words()}"
            # A suspect lives: on shared cores a heartbeat is late now and then.
            alive = {peer["name"] for peer in member.status()["peers"] if peer["state"] in ("alive", "suspect")}
            unknown = {other.name for other in members if other is not member} - alive
            if unknown:
                return f"{', '.join(sorted(unknown))} alive to {member.name}"
        return ""

    try:
        wait_until(lambda: not missing(), "all members ready and alive to each other", timeout=timeout, every=0.05)
    except TimedOut as error:
        raise TimedOut(f"{error}; missing: {missing()}") from None


def remove_tree(path: Path) -> None:
    """Removes a directory of ours with all in it, if it is there."""
    shutil.rmtree(path, ignore_errors=True)
