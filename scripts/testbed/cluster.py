"""The whole testbed: network, members, client, captures and the watch on the forwarding table, in one context."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .captures import Captures
from .member import MEMBER_SYSCTLS, VIP, Member, Settings, wait_ready, write_key
from .shell import run, wait_until
from .topology import SUBNET_PREFIX, ForwardingTableWatch, Host, Network, write_sysctls

# Addresses of the client: several, so that a long load does not run out of ports.
CLIENT_ADDRESSES = [f"10.0.0.{number}" for number in range(50, 58)]
CLIENT_SYSCTLS = {
    "net.ipv4.ip_local_port_range": "1100 65000",
    "net.ipv4.tcp_tw_reuse": "1",
    # A client that measures reports each reset itself: none is to be rate-limited away.
    "net.ipv4.tcp_challenge_ack_limit": "2147483647",
}


class Site:
    """Where members live: here in namespaces of this machine. `scripts/vms` has another."""

    @contextlib.contextmanager
    def opened(self, network: Network, home: Path, *, without_baton: bool) -> Iterator[None]:
        """Lends the site to a testbed."""
        yield

    def add_member(self, network: Network, name: str, number: int, home: Path, key: Path, settings: Settings) -> Member:
        """A host on the switch with a member; its baton is not started."""
        host = network.add_host(name, number)
        host.sysctl(MEMBER_SYSCTLS)
        return Member(host, home / name, network.directory, key, settings)


site = Site()


@dataclass
class Testbed:
    """A running testbed."""

    network: Network
    home: Path
    members: list[Member]
    client: Host
    captures: Captures
    table_watch: ForwardingTableWatch
    key: Path

    def active(self, address: str = VIP) -> Member:
        """The one member that is active for a VIP; waits until that is exactly one."""
        return self.ranked(1, address)[0]

    def ranked(self, count: int, address: str = VIP) -> list[Member]:
        """The members that are active for a VIP, by rank; waits until that is exactly so many."""
        found: list[Member] = []

        def so_many() -> bool:
            found[:] = self.actives(address)
            return len(found) == count

        wait_until(so_many, f"exactly {count} active for {address}", timeout=10)
        return found

    def actives(self, address: str = VIP) -> list[Member]:
        """Those members whose baton runs and says it is active, by rank."""
        running = [member for member in self.members if member.process is not None and member.process.alive()]
        views = [(member, member.vip(address)) for member in running]
        active = [(vip["rank"] or 0, member) for member, vip in views if vip["role"] == "active"]
        return [member for _, member in sorted(active, key=lambda entry: entry[0])]

    def passives(self) -> list[Member]:
        """All others."""
        active = self.active()
        return [member for member in self.members if member is not active]

    def wait_active(self, member: Member, address: str = VIP, *, timeout: float = 10.0) -> None:
        """Waits until this member alone is active for a VIP."""
        wait_until(lambda: self.actives(address) == [member], f"{member.name} alone active", timeout=timeout)

    def vmac(self, address: str = VIP) -> str:
        """A VIP's virtual MAC."""
        return str(self.members[0].vip(address)["mac"]).lower()

    def add_client(self, name: str, number: int) -> Host:
        """A further client beside c1, on a port of its own, with the addresses 10.0.0.`number` to `number` + 3."""
        host = self.network.add_host(name, number)
        _make_client(host, [f"10.0.0.{number + more}" for more in range(1, 4)])
        self.captures.add(name)
        return host

    def add_member(self, name: str, number: int, key: Path, settings: Settings) -> Member:
        """A further member; not started."""
        return site.add_member(self.network, name, number, self.home, key, settings)


def _make_client(host: Host, addresses: list[str]) -> None:
    write_sysctls(host.namespace, CLIENT_SYSCTLS)
    for address in addresses:
        run(["ip", "-n", host.namespace, "address", "add", f"{address}/{SUBNET_PREFIX}", "dev", "eth0"])


@contextlib.contextmanager
def testbed(
    home: Path,
    *,
    members: int = 3,
    settings: Settings | None = None,
    capture_filter: str = "",
    start: bool = True,
    without_baton: bool = False,
) -> Iterator[Testbed]:
    """Raises a testbed and takes it down again.

    `home` takes logs and captures. `without_baton` gives the first member the VIP as a plain address instead: what a
    check measures there is what the kernel alone does. `start=False` leaves starting baton to the caller.
    """
    settings = settings or Settings()
    with contextlib.ExitStack() as cleanup:
        network = cleanup.enter_context(Network())
        cleanup.enter_context(site.opened(network, home, without_baton=without_baton))
        key = network.directory / "cluster.key"
        if not without_baton:
            write_key(key)
        names = [(f"s{number}", 10 + number) for number in range(1, members + 1)]
        built = [site.add_member(network, name, number, home, key, settings) for name, number in names]
        client = network.add_host("c1", 2)
        _make_client(client, CLIENT_ADDRESSES)
        watch = ForwardingTableWatch(network, home / "forwarding-table.log")
        captures = Captures(network, home / "captures", capture_filter)
        cleanup.callback(captures.stop)
        bed = Testbed(network, home, built, client, captures, watch, key)
        if without_baton:
            built[0].host.run(["ip", "address", "add", f"{VIP}/{SUBNET_PREFIX}", "dev", "eth0"])
        # First of all in the clean-up: the daemons leave cleanly while their network is still there.
        cleanup.callback(_stop_all, built)
        if start and not without_baton:
            for member in built:
                member.start()
            wait_ready(built)
            for vip in settings.vips:
                bed.ranked(int(vip.options.get("actives", "1")), vip.address)
        yield bed


def _stop_all(members: list[Member]) -> None:
    for member in members:
        if member.process is not None and member.process.alive():
            member.process.popen.terminate()
    for member in members:
        member.stop()
