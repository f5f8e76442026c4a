"""Fail closed: where baton is dead or hangs, nothing answers for the VIP, least of all a kernel by itself."""

from __future__ import annotations

import signal
import time

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import judge
from ..member import VIP, wait_ready
from ..packets import Frame
from ..shell import CommandFailed, run
from . import Check, Context

# A frame the member had already handed over may leave a moment after its daemon has died.
_GRACE = 50_000_000


def _ping(bed: Testbed) -> bool:
    arguments = ["ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "0.3", VIP]
    try:
        run(["ip", "netns", "exec", bed.client.namespace, *arguments])
    except CommandFailed:
        return False
    return True


def _knock(bed: Testbed, context: Context, name: str, vmac: str) -> None:
    """Pings and connects to the VIP: by ARP, at the vMAC and at every member's own MAC; nobody may answer."""
    neighbour = ["ip", "-n", bed.client.namespace, "neighbour"]
    run([*neighbour, "flush", "all"])
    answered = []
    for mac in ("", vmac, *(member.host.mac for member in bed.members)):
        if mac:
            run([*neighbour, "replace", VIP, "lladdr", mac, "nud", "permanent", "dev", "eth0"])
        if _ping(bed):
            answered.append(f"ping to {mac or 'the VIP'}")
        log = context.home / f"{name}.log"
        client = Client(bed.client.namespace, CLIENT_ADDRESSES[:2], log, opens=20, every_us=2000, timeout_ms=300)
        results = client.wait(timeout=15)
        # Refused is an answer as well: the only acceptable end is silence.
        answered += [
            f"{c.error or 'served'} at {mac or 'the VIP'}" for c in results.connections if not _silence(c.error)
        ]
    run([*neighbour, "delete", VIP, "dev", "eth0"])
    context.report.equal(f"answers of {name} members", answered, [])


def _silence(error: str) -> bool:
    return error == "timeout: no connection" or "EHOSTUNREACH" in error


def _speaks_for_vip(frame: Frame) -> bool:
    segment, arp = frame.tcp(), frame.arp()
    return (segment is not None and segment.source[0] == VIP) or (arp is not None and arp.sender_ip == VIP)


def daemon_dead(context: Context) -> None:
    """All members' daemons killed, then all of them stopped in their tracks: silence, and service again after."""
    report = context.report
    quiet: list[tuple[int, int, str]] = []
    with testbed(context.home) as bed:
        vmac = bed.vmac()
        report.equal("the VIP answers pings while baton lives", _ping(bed), True)
        for name, number, back in (("dead", signal.SIGKILL, None), ("hanging", signal.SIGSTOP, signal.SIGCONT)):
            for member in bed.members:
                if member.process is not None:
                    member.signal(number)
            begun = time.time_ns() + _GRACE
            time.sleep(0.1)
            _knock(bed, context, name, vmac)
            quiet.append((begun, time.time_ns(), name))
            for member in bed.members:
                if back is None:
                    member.kill()
                    member.start()
                elif member.process is not None:
                    member.signal(back)
            wait_ready(bed.members)
            client = Client(bed.client.namespace, CLIENT_ADDRESSES, context.home / "after.log", opens=100)
            report.equal(f"requests that failed after {name} members came back", client.wait(timeout=30).errors(), {})
        judge(report, bed, vmac)
        spoken = [
            f"{frame.host} while {name}"
            for frame in bed.captures.frames()
            for begun, ended, name in quiet
            if begun <= frame.time <= ended and frame.host != bed.client.name and _speaks_for_vip(frame)
        ]
    report.equal("frames that spoke for the VIP in the meantime", spoken, [])


CHECKS = [Check("daemon-dead", "all daemons killed, or hanging: nothing answers for the VIP", daemon_dead, {})]
