"""Checks that need kernels of their own, or a card that the kernel has lost."""

from __future__ import annotations

import re
import socket
import time
from functools import partial

from testbed.checks import Check, Context
from testbed.checks.split import split_brain
from testbed.checks.takeover import Kill, judge_attempts
from testbed.clients.control import Client
from testbed.cluster import CLIENT_ADDRESSES, Testbed, testbed
from testbed.judge import Absence, judge
from testbed.member import VIP, Settings, VipSettings
from testbed.shell import CommandFailed, inside, run, wait_until
from testbed.topology import Host

from . import host_ports
from .site import PCI_ADDRESS, SETUP, VmHost

_COOKIES_ALWAYS = {"net.ipv4.tcp_syncookies": "2"}
_REQUESTS = 10


def _cookies(bed: Testbed, name: str) -> int:
    """A counter of all members' kernels about SYN cookies."""
    total = 0
    for member in bed.members:
        names, values = re.findall(r"^TcpExt: (.*)$", member.host.run(["cat", "/proc/net/netstat"]), re.MULTILINE)
        total += int(dict(zip(names.split(), values.split(), strict=True))[name])
    return total


def _two_actives(context: Context, sysctls: dict[str, str]) -> None:
    """Connections of ten requests to two actives that both answer every SYN, at once."""
    report, count = context.report, int(context.number("connections", 1000))
    settings = Settings(vips=(VipSettings(options={"actives": "2"}),))
    with testbed(context.home, settings=settings) as bed:
        vmac = bed.vmac()
        for member in bed.members:
            member.host.sysctl(sysctls)
        before = {name: _cookies(bed, name) for name in ("SyncookiesSent", "SyncookiesRecv")}
        load = Client(
            bed.client.namespace,
            CLIENT_ADDRESSES,
            context.home / "client.log",
            opens=count,
            every_us=4000,
            requests=_REQUESTS,
            gap_ms=5,
            timeout_ms=3000,
        )
        results = load.wait(timeout=120)
        sent, received = (_cookies(bed, name) - seen for name, seen in before.items())
        report.equal("members active at the end of the load", len(bed.actives()), 2)
        story = judge(report, bed, vmac)
    report.equal("connections broken", [(c.tuple, c.error) for c in results.failed()], [])
    report.equal("requests answered", sum(c.answers for c in results.connections), count * _REQUESTS)
    report.equal("resets sent by the client", len(story.client_resets), 0)
    raced = sum(1 for life in story.all_lives() if len(life.answered_by()) > 1)
    report.at_least("connections that two members answered", raced, 1)
    report.number("of so many connections", count)
    if sysctls:
        report.at_least("cookies sent", sent, count)
        report.at_least("cookies that came back", received, count)
    report.number("answers by member", results.served())
    report.number("longest wait (ms)", results.longest_ms())


def own_address(context: Context) -> None:
    """The members' own addresses, which the kernel has on the host port since it has lost the card."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, where = bed.vmac(), bed.client.namespace
        client = ["ip", "netns", "exec", where]
        for number, member in enumerate(bed.members):
            own = member.host.address
            lines = member.host.run(["ip", "-o", "-4", "address"])
            holders = [line.split()[1] for line in lines.splitlines() if f" {own}/" in line]
            report.equal(f"{member.name}: interfaces with its own address", holders, ["vip0"])
            pings = run([*client, "ping", "-n", "-c", "5", "-i", "0.2", "-W", "2", own])
            report.equal(f"{member.name}: pings to it answered", len(re.findall("bytes from ", pings)), 5)
            back = member.host.run(["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", bed.client.address])
            report.equal(f"{member.name}: its own pings answered", len(re.findall("bytes from ", back)), 3)
            log = context.home / f"{member.name}.log"
            source = [f"10.0.0.{50 + number}"]
            asked = Client(where, source, log, address=own, opens=50, every_us=5_000).wait(timeout=30)
            report.equal(f"{member.name}: requests to it that failed", asked.errors(), {})
            report.equal(f"{member.name}: who answered", asked.served(), {member.name: 50})
        answer = run([*client, "curl", "-sS", "--max-time", "5", f"http://{VIP}/who?curl"])
        report.equal("the virtual IP beside it", answer, f"{bed.active().name} curl\n")
        judge(report, bed, vmac)


def machine_dies(context: Context) -> None:
    """The active member's machine loses its power under load."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, victim = bed.vmac(), bed.active()
        load = Client(bed.client.namespace, CLIENT_ADDRESSES, context.home / "load.log", every_us=2000, timeout_ms=4000)
        time.sleep(1)
        killed = time.time_ns()
        assert isinstance(victim.host, VmHost)
        victim.host.machine.kill()
        time.sleep(3)
        results = load.stop()
        heirs = bed.actives()
        report.equal("members active after it", len(heirs), 1)
        kill = Kill(victim.name, killed, time.time_ns(), results, bed.captures.clock_offset)
        story = judge(report, bed, vmac, absences=[Absence(victim.name, killed, kill.back)])
    judge_attempts(report, [kill], story)
    accepted = sorted(c.connected for c in results.connections if c.connected and not c.error)
    gap = max(after - before for before, after in zip(accepted, accepted[1:], strict=False))
    report.number("longest gap between connections accepted (ms)", gap / 1e6)


def _refused(host: Host, arguments: list[str]) -> str:
    """What scripts/setup says instead of doing it."""
    try:
        return f"done: {host.run([str(SETUP), *arguments])}"
    except CommandFailed as error:
        return str(error)


def setup(context: Context) -> None:
    """scripts/setup refuses, does, does nothing twice, and undoes; the card works in the kernel again."""
    report = context.report
    with testbed(context.home, members=1, without_baton=True) as bed:
        host, where = bed.members[0].host, bed.client.namespace
        assert isinstance(host, VmHost)
        host.machine.prepared = ""
        bind = ["--huge-pages", "32", "--bind", "eth0", "--driver", host.machine.kind.driver]
        pages = host.run(["cat", "/proc/sys/vm/nr_hugepages"])
        host.run(["ip", "route", "add", "default", "via", bed.client.address])
        said = _refused(host, bind)
        report.expect("a card with the default route", said, "refused", "it has the default route" in said)
        host.run(["ip", "route", "delete", "default"])
        listen = "import socket; l = socket.create_server(('', 22)); c = l.accept(); c[0].recv(1)"
        server = host.start(["python3", "-c", listen], log=context.home / "listener.log")
        wait_until(lambda: ":22 " in host.run(["ss", "-Htln"]), "a listener at ssh's port", timeout=10)
        with inside(where):
            session = socket.create_connection((host.address, 22), timeout=5)
        with session:
            said = _refused(host, bind)
            seen = f"ssh session from {bed.client.address}" in said
            report.expect("a card with an ssh session", said, "refused", seen)
        server.stop()
        report.equal("interfaces after refusals", host.run(["ls", "/sys/class/net"]).split(), ["eth0", "lo", "mgmt"])
        said = host.run([str(SETUP), *bind], timeout=60)
        moved = f"to {host.machine.kind.driver}" in said and f"{host.address}/24 is gone" in said
        report.expect("a card that nobody needs", said, "taken", moved)
        report.equal("interfaces then", host.run(["ls", "/sys/class/net"]).split(), ["lo", "mgmt"])
        again = host.run([str(SETUP), *bind[:2], "--bind", PCI_ADDRESS, *bind[4:]])
        report.expect("once more", again, "nothing to do", "already" in again and "are there" in again)
        host.run([str(SETUP), "--undo"])
        report.equal("huge pages after --undo", host.run(["cat", "/proc/sys/vm/nr_hugepages"]), pages)
        pings = run(["ip", "netns", "exec", where, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", host.address])
        report.equal("pings answered by the kernel's card again", len(re.findall("bytes from ", pings)), 3)
        report.equal("--undo once more", host.run([str(SETUP), "--undo"]), "")


CHECKS = [
    Check("setup", "scripts/setup takes a card that nobody needs, and gives it back", setup, {}, needs_baton=False),
    Check("own-address", "members are reached at their own addresses, through baton", own_address, {}),
    Check(
        "split-cookies",
        "two members both active and SYN cookies always: no connection breaks",
        partial(split_brain, sysctls=_COOKIES_ALWAYS),
        {},
    ),
    Check("two-actives", "two actives answer each SYN: no connection breaks", partial(_two_actives, sysctls={}), {}),
    Check(
        "two-actives-cookies",
        "the same with SYN cookies always",
        partial(_two_actives, sysctls=_COOKIES_ALWAYS),
        {},
    ),
    *host_ports.CHECKS,
    Check("machine-dies", "the active's machine loses its power: nobody else's connection notices", machine_dies, {}),
]
