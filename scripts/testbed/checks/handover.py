"""A planned handover: connections stay where they are, new ones go to the successor."""

from __future__ import annotations

import time

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import judge
from ..shell import wait_until
from . import Check, Context

_LONG = 50


def handover_50_long(context: Context) -> None:
    """50 long connections, the role moved again and again by `baton activate`, new connections all the while."""
    report = context.report
    moves = int(context.number("moves", 6))
    with testbed(context.home) as bed:
        vmac, first, where = bed.vmac(), bed.active(), bed.client.namespace
        long = Client(
            where,
            CLIENT_ADDRESSES[:1],
            context.home / "long.log",
            opens=_LONG,
            requests=0,
            gap_ms=20,
            timeout_ms=3000,
            progress_ms=100,
        )
        wait_until(lambda: sum(long.poll().get("served", {}).values()) > _LONG, "all long connections", timeout=10)
        short = Client(where, CLIENT_ADDRESSES[1:], context.home / "short.log", every_us=2000)
        handovers: list[tuple[int, int, str]] = []
        for move in range(moves):
            time.sleep(1.5)
            successor = bed.members[(bed.members.index(first) + 1 + move) % len(bed.members)]
            begun = time.monotonic_ns()
            successor.activate()
            handovers.append((begun, time.monotonic_ns(), successor.name))
            bed.wait_active(successor)
        time.sleep(1.5)
        new, kept = short.stop(), long.stop()
        story = judge(report, bed, vmac)
    twins = story.twins()
    report.equal("long connections that broke", kept.errors(), {})
    report.equal("members that served the long connections", sorted(kept.served()), [first.name])
    report.equal("long connections", len(kept.connections), _LONG)
    broken = [c for c in new.failed() if c.tuple not in twins]
    report.equal("new connections that failed", [(c.tuple, c.error) for c in broken], [])
    misplaced = 0
    for connection in new.connections:
        # While `activate` runs both may accept; from its return on the successor alone.
        before = [name for _, ended, name in handovers if ended <= connection.opened]
        amid = any(begun < connection.ended and connection.opened < ended for begun, ended, _ in handovers)
        misplaced += 1 if before and not amid and connection.member != before[-1] else 0
    report.equal("new connections not served by the member activated last", misplaced, 0)
    report.number("new connections", len(new.connections))
    report.number("new connections served by", new.served())
    report.number("`baton activate` took (ms)", [round((ended - begun) / 1e6, 1) for begun, ended, _ in handovers])
    report.number("longest wait, new and long (ms)", [new.longest_ms(), kept.longest_ms()])


CHECKS = [
    Check("handover-50-long", "50 long connections survive planned handovers", handover_50_long, {"moves": "3"}),
]
