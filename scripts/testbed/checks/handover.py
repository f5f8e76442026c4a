"""A planned handover: connections stay where they are, new ones go to the successor."""

from __future__ import annotations

import contextlib
import time
from statistics import median

from ..clients.control import Client, long_connections
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..control_socket import ControlSocket
from ..judge import judge
from . import Check, Context

_LONG = 50
_MANY = 100
_PER_SECOND = 20


def handover_50_long(context: Context) -> None:
    """50 long connections, the role moved again and again by `baton activate`, new connections all the while."""
    report = context.report
    moves = int(context.number("moves", 6))
    with testbed(context.home) as bed:
        vmac, first, where = bed.vmac(), bed.active(), bed.client.namespace
        log = context.home / "long.log"
        long = long_connections(where, CLIENT_ADDRESSES[:1], log, _LONG, gap_ms=20, timeout_ms=3000)
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
    # No more than a failure where clients have less patience than that takes.
    repeated = [life.client for life in story.all_lives() if life.syns > 1 and life.client not in twins]
    report.equal("connections whose SYN was sent again", repeated, [])
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


def _hand_over(bed: Testbed, seconds: float) -> list[float]:
    """The role goes round among the members, at a steady rate; returns how long each handover took, in ms."""
    took: list[float] = []
    first = bed.members.index(bed.active())
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(ControlSocket(member.socket)) for member in bed.members]
        begun = time.monotonic()
        for number in range(int(seconds * _PER_SECOND)):
            time.sleep(max(0.0, begun + number / _PER_SECOND - time.monotonic()))
            asked = time.monotonic()
            sockets[(first + 1 + number) % len(sockets)].activate()
            took.append((time.monotonic() - asked) * 1000)
    return took


def handovers_20hz(context: Context) -> None:
    """20 handovers a second under 500 new connections a second, beside 100 long ones."""
    report = context.report
    seconds = context.number("seconds", 30)
    with testbed(context.home) as bed:
        vmac, where, term = bed.vmac(), bed.client.namespace, bed.active().vip()["term"]
        long = long_connections(where, CLIENT_ADDRESSES[:1], context.home / "long.log", _MANY)
        # Long enough for a SYN to be sent again: that is to show as a repeated SYN, not as a failure.
        short = Client(where, CLIENT_ADDRESSES[1:], context.home / "short.log", every_us=2000, timeout_ms=4000)
        time.sleep(0.5)
        begun = time.monotonic_ns()
        took = _hand_over(bed, seconds)
        ended = time.monotonic_ns()
        time.sleep(0.5)
        new, kept = short.stop(), long.stop()
        terms = bed.active().vip()["term"] - term
        story = judge(report, bed, vmac)
    twins, elapsed = story.twins(), (ended - begun) / 1e9
    report.at_least("handovers a second", len(took) / elapsed, 0.95 * _PER_SECOND)
    report.at_least("terms gone by", terms, len(took))
    amid = [c for c in new.connections if begun <= c.opened <= ended]
    report.at_least("new connections a second meanwhile", len(amid) / elapsed, 450)
    failed = [(c.tuple, c.error) for c in new.failed() if c.tuple not in twins]
    report.equal("new connections that failed", failed, [])
    repeated = [life.client for life in story.all_lives() if life.syns > 1 and life.client not in twins]
    report.equal("connections whose SYN was sent again", repeated, [])
    connects = [(c.connected - c.opened) / 1e6 for c in new.connections if c.connected and c.tuple not in twins]
    report.at_most("longest handshake", max(connects), 900, "ms")
    report.equal("members that served new connections", sorted(new.served()), sorted(m.name for m in bed.members))
    report.at_most("set aside: two members chose one sequence number", len(twins), len(new.connections) // 100)
    report.equal("long connections that broke", kept.errors(), {})
    report.equal("long connections", len(kept.connections), _MANY)
    report.equal("members that served a long connection", len(kept.served()), 1)
    report.number("`activate` took, median and longest (ms)", [round(median(took), 1), round(max(took), 1)])
    doubled = sum(1 for life in story.all_lives() if len(life.answered_by()) > 1)
    report.number("handshakes that two members answered", doubled)
    report.number("longest wait, new and long (ms)", [new.longest_ms(), kept.longest_ms()])


CHECKS = [
    Check("handover-50-long", "50 long connections survive planned handovers", handover_50_long, {"moves": "3"}),
    Check("handovers-20hz", "20 handovers a second: no new connection notices", handovers_20hz, {"seconds": "5", "heartbeats": "5"}),
]
