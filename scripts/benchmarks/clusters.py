"""Clusters that keep a virtual IP served, all on one topology: a bridge, three servers with nginx, one client."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.cluster import CLIENT_ADDRESSES, CLIENT_SYSCTLS
from testbed.member import HEARTBEAT_ETHERTYPE, MEMBER_SYSCTLS, VIP
from testbed.member import Member, Settings, VipSettings, wait_ready, write_key
from testbed.shell import Process, run, wait_until
from testbed.topology import SUBNET_PREFIX, Host, Network, write_sysctls
from testbed.web import Service

from .plan import System

_SERVERS = 3


@dataclass
class Bed:
    """The network, its servers and the client."""

    network: Network
    home: Path
    servers: list[Host]
    client: Host


@contextlib.contextmanager
def bed(home: Path) -> Iterator[Bed]:
    """Raises the network, without captures: they would be a load of their own."""
    home.mkdir(parents=True, exist_ok=True)
    with Network() as network:
        servers = [network.add_host(f"s{number}", 10 + number) for number in range(1, _SERVERS + 1)]
        for server in servers:
            write_sysctls(server.namespace, MEMBER_SYSCTLS)
        client = network.add_host("c1", 2)
        write_sysctls(client.namespace, CLIENT_SYSCTLS)
        for address in CLIENT_ADDRESSES:
            run(["ip", "-n", client.namespace, "address", "add", f"{address}/{SUBNET_PREFIX}", "dev", "eth0"])
        yield Bed(network, home, servers, client)


class Cluster(ABC):
    """A running cluster."""

    patience: float
    """Seconds after an event within which new connections are served again, generously."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed

    @abstractmethod
    def active(self) -> str:
        """The server that the next event is about: it accepts new connections. Waits until all is as it should be."""

    def clients(self, name: str) -> list[str]:
        """The client's addresses from which new connections go to this server while it is active."""
        return CLIENT_ADDRESSES

    @abstractmethod
    def kill(self, name: str) -> None:
        """SIGKILL of the daemon; returns before it is gone. Cutting the link is the caller's."""

    def clear(self, name: str) -> None:
        """Removes what a killed daemon left behind in its kernel that would disturb once the link is whole again."""

    @abstractmethod
    def revive(self, name: str) -> None:
        """Starts the daemon anew on a server whose link is whole again; returns when all is as before."""

    @abstractmethod
    def hand_over(self, name: str) -> None:
        """The role moves from this server to another, as planned."""

    def hand_back(self, name: str) -> None:
        """Ends what a handover has left to do, so that the next one can be."""

    @abstractmethod
    def part(self, name: str) -> None:
        """The servers' own messages from and to this one are lost; clients still reach all."""

    @abstractmethod
    def stop(self) -> None:
        """Ends all daemons."""


class BatonCluster(Cluster):
    """baton on each server."""

    def __init__(self, bed: Bed, system: System) -> None:
        super().__init__(bed)
        settings = system.settings
        heartbeat = float(settings["heartbeat"])
        self.patience = 1.0 + 10 * heartbeat
        options = {"actives": str(settings["actives"])}
        if int(settings["actives"]) > 1:
            options["hedge"] = f"{float(settings['hedge']) * 1000:.0f}ms"
        key = write_key(bed.network.directory / "cluster.key")
        common = Settings(heartbeat=f"{heartbeat * 1000:.0f}ms", vips=(VipSettings(options=options),))
        self._actives = int(settings["actives"])
        self._members = {
            host.name: Member(host, bed.home / host.name, bed.network.directory, key, common) for host in bed.servers
        }
        for member in self._members.values():
            member.start()
        wait_ready(list(self._members.values()))

    def active(self) -> str:
        found: list[str] = []

        def settled() -> bool:
            views = {name: member.vip() for name, member in self._members.items()}
            found[:] = [name for name, vip in views.items() if vip["role"] == "active" and not vip["rank"]]
            return len(found) == 1 and sum(vip["role"] == "active" for vip in views.values()) == self._actives

        wait_until(settled, f"{self._actives} active", timeout=10)
        return found[0]

    def kill(self, name: str) -> None:
        self._members[name].kill(wait=False)

    def revive(self, name: str) -> None:
        member = self._members[name]
        member.kill()
        member.start()
        wait_ready(list(self._members.values()))

    def hand_over(self, name: str) -> None:
        # The next that is not active, in a ring.
        names = list(self._members)
        place = names.index(name)
        ring = [*names[place + 1 :], *names[:place]]
        successor = next(each for each in ring if self._members[each].vip()["role"] != "active")
        self._members[successor].activate()

    def part(self, name: str) -> None:
        self.bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, [name])

    def stop(self) -> None:
        for member in self._members.values():
            member.stop()
            member.service.stop()


class DaemonCluster(Cluster):
    """nginx and a daemon on each server, which says to the others that it lives: VRRP, CARP."""

    protocol = "112"
    """Both speak IP protocol 112."""

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._services = [Service(host, bed.home / host.name / "nginx") for host in bed.servers]
        self._daemons: dict[str, Process] = {}

    def _begin(self) -> None:
        for host in self.bed.servers:
            self._daemons[host.name] = self._start(host)
        self._settle()

    @abstractmethod
    def _start(self, host: Host) -> Process: ...

    @abstractmethod
    def _settle(self) -> None:
        """Returns when the servers' roles are as they should be."""

    def host(self, name: str) -> Host:
        """A server by its name."""
        return next(host for host in self.bed.servers if host.name == name)

    def kill(self, name: str) -> None:
        # Stopped first: a child that outlives its parent, be it for a moment, takes its leave as if it were planned
        # (keepalived's is asked to end by the kernel, and says priority 0).
        family = _family(self._daemons[name].pid)
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def revive(self, name: str) -> None:
        self._daemons[name].kill()
        self._daemons[name] = self._start(self.host(name))
        # It has to hear the others before it is of use.
        time.sleep(self.patience / 2)
        self._settle()
        dead = [name for name, daemon in self._daemons.items() if not daemon.alive()]
        if dead:
            raise RuntimeError(f"no daemon on {', '.join(dead)}: {self._daemons[dead[0]].log_text()[-400:]}")

    def hand_back(self, name: str) -> None:
        self.revive(name)

    def part(self, name: str) -> None:
        self.bed.network.block(f"ether type ip ip protocol {self.protocol}", [name])

    def stop(self) -> None:
        for daemon in self._daemons.values():
            daemon.stop()
        for service in self._services:
            service.stop()


class AddressCluster(DaemonCluster):
    """A cluster in which one server has the virtual IP as an address of its own."""

    def _holders(self) -> list[str]:
        return [host.name for host in self.bed.servers if VIP in run(_list_addresses(host))]

    def _settle(self) -> None:
        patience = self.patience + 20
        wait_until(lambda: len(self._holders()) == 1, "one holder of the address", timeout=patience, every=0.05)

    def active(self) -> str:
        self._settle()
        return self._holders()[0]

    def clear(self, name: str) -> None:
        host = self.host(name)
        with contextlib.suppress(Exception):
            prefix = next(word for word in run(_list_addresses(host)).split() if word.startswith(f"{VIP}/"))
            run(["ip", "-n", host.namespace, "address", "delete", prefix, "dev", "eth0"])


def _list_addresses(host: Host) -> list[str]:
    return ["ip", "-n", host.namespace, "-o", "-4", "address", "show", "dev", "eth0"]


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        own = [int(child) for child in children.read_text().split()]
    except OSError:
        return [pid]
    return [pid, *(each for child in own for each in _family(child))]


_KEEPALIVED = """\
global_defs {{
    router_id {name}
    vrrp_version 3
    # Its shortest, at once: the default sends five, and five more after 5 s.
    vrrp_garp_master_delay 1
}}
vrrp_instance bench {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int {advert:g}
    virtual_ipaddress {{ {vip}/{prefix} }}
}}
"""


class Keepalived(AddressCluster):
    """VRRP version 3, which has adverts of centiseconds."""

    def __init__(self, bed: Bed, system: System) -> None:
        super().__init__(bed)
        self._advert = float(system.settings["advert"])
        self.patience = 1.5 + 3.5 * self._advert
        self._begin()

    def _start(self, host: Host) -> Process:
        priority = 100 + self.bed.servers.index(host)
        config = _KEEPALIVED.format(
            name=host.name, priority=priority, advert=self._advert, vip=VIP, prefix=SUBNET_PREFIX
        )
        return start_keepalived(host, self.bed.home / host.name, config)

    def hand_over(self, name: str) -> None:
        # It has no command for it: to stop the holder is the documented way (it says so with priority 0).
        self._daemons[name].popen.send_signal(signal.SIGTERM)


def start_keepalived(host: Host, home: Path, config: str) -> Process:
    """Starts it on a server, with this configuration."""
    file = home / "keepalived.conf"
    file.write_text(config)
    files = {kind: home / f"{kind}.pid" for kind in ("pid", "vrrp_pid")}
    for pid_file in files.values():
        # It would not start while it takes the killed one for running, which it does until that is reaped.
        pid_file.unlink(missing_ok=True)
    pids = [argument for kind, pid_file in files.items() for argument in (f"--{kind}", str(pid_file))]
    return Process(
        ["keepalived", "--vrrp", "--dont-fork", "--log-console", "--use-file", str(file), *pids],
        log=home / "keepalived.log",
        namespace=host.namespace,
    )


class Ucarp(AddressCluster):
    """CARP."""

    def __init__(self, bed: Bed, system: System) -> None:
        super().__init__(bed)
        self._advert, self._ratio = float(system.settings["advert"]), int(system.settings["dead_ratio"])
        self.patience = 2.0 + 1.2 * self._advert * self._ratio
        for host in bed.servers:
            for verb, change in (("up", "add"), ("down", "delete")):
                script = self._script(host, verb)
                script.write_text(f"#!/bin/sh\nip address {change} {VIP}/{SUBNET_PREFIX} dev eth0\n")
                script.chmod(0o755)
        self._begin()

    def _script(self, host: Host, verb: str) -> Path:
        return self.bed.home / host.name / verb

    def _start(self, host: Host) -> Process:
        up, down = (str(self._script(host, verb)) for verb in ("up", "down"))
        return Process(
            ["ucarp", "--interface=eth0", f"--srcip={host.address}", "--vhid=1", "--pass=bench", f"--addr={VIP}"]
            + [f"--upscript={up}", f"--downscript={down}", "--neutral", "--shutdown", f"--advbase={self._advert:.0f}"]
            + [f"--advskew={self.bed.servers.index(host)}", f"--deadratio={self._ratio}"],
            log=self.bed.home / host.name / "ucarp.log",
            namespace=host.namespace,
        )

    def hand_over(self, name: str) -> None:
        # ucarp(8): on SIGUSR2 it demotes itself.
        os.kill(self._daemons[name].pid, signal.SIGUSR2)
