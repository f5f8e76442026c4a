"""What the clients of a dead member are told, and those of a live one that nobody hears are not."""

from __future__ import annotations

import time

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import judge
from ..member import HEARTBEAT_ETHERTYPE
from ..shell import wait_until
from . import Check, Context

_LONG = 30
_GAP_MS = 50
_AFTER_MS = 2000
"""`orphans.after` where the configuration does not say."""


def orphans(context: Context) -> None:
    """The active is killed and cut off under long connections that ask all the time."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, victim = bed.vmac(), bed.active()
        # A member that has just started knows nobody, and waits as long.
        time.sleep(_AFTER_MS / 1000)
        long = Client(
            bed.client.namespace,
            CLIENT_ADDRESSES[:1],
            context.home / "long.log",
            opens=_LONG,
            requests=0,
            gap_ms=_GAP_MS,
            timeout_ms=10_000,
            progress_ms=100,
        )
        wait_until(lambda: sum(long.poll().get("served", {}).values()) > 5 * _LONG, "all long connections", timeout=10)
        killed = time.monotonic_ns()
        victim.kill(wait=False)
        bed.network.cut(victim.name)
        time.sleep(5)
        results = long.stop()
        told = bed.active().status()["orphans"]
        judge(report, bed, vmac, orphans_allowed=True)
    errors = results.errors()
    report.equal("long connections reset", errors, {"receive: ECONNRESET": _LONG})
    waits = sorted((connection.ended - killed) / 1e6 for connection in results.failed())
    report.at_most("the last was reset after (ms)", waits[-1] if waits else 0, _AFTER_MS + 1000 + _GAP_MS, "ms")
    report.at_least("the first was reset after (ms)", waits[0] if waits else 0, _AFTER_MS - 20)
    report.number("what the new primary counted", told)


def orphans_unheard(context: Context) -> None:
    """The heartbeats of the member that has the connections are blocked; it goes on serving them."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, owner = bed.vmac(), bed.active()
        long = Client(
            bed.client.namespace,
            CLIENT_ADDRESSES[:1],
            context.home / "long.log",
            opens=_LONG,
            requests=0,
            gap_ms=_GAP_MS,
            timeout_ms=10_000,
            progress_ms=100,
        )
        idle = Client(
            bed.client.namespace,
            CLIENT_ADDRESSES[1:2],
            context.home / "idle.log",
            opens=_LONG,
            requests=0,
            gap_ms=7000,
            timeout_ms=10_000,
            progress_ms=100,
        )
        wait_until(lambda: sum(long.poll().get("served", {}).values()) > 5 * _LONG, "all long connections", timeout=10)
        bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, [owner.name])
        wait_until(lambda: len(bed.actives()) == 2, "two active members", timeout=5)
        time.sleep(context.number("seconds", 20))
        results = [client.stop() for client in (long, idle)]
        told = {member.name: member.status()["orphans"] for member in bed.members}
        judge(report, bed, vmac)
    report.equal("connections that broke", [each.errors() for each in results], [{}, {}])
    report.equal("members that served", [sorted(each.served()) for each in results], [[owner.name]] * 2)
    report.equal("RSTs to orphans", sum(each["reset"] for each in told.values()), 0)
    report.number("what the members counted", told)


CHECKS = [
    Check("orphans", "a dead member's clients are reset within orphans.after and a second", orphans, {}),
    Check(
        "orphans-unheard",
        "the clients of a live member that nobody hears are not",
        orphans_unheard,
        {"seconds": "8"},
    ),
]
