"""The active member stopped in its tracks, and woken again: what it thinks by then is history, and does no harm."""

from __future__ import annotations

import signal
import time

from ..clients.control import Client, long_connections
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import Absence, judge
from ..pace import pace
from ..shell import wait_until
from . import Check, Context

_LONG = 30


def pause(context: Context) -> None:
    """SIGSTOP of the active for five seconds under load, then SIGCONT."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, where, sleeper = bed.vmac(), bed.client.namespace, bed.active()
        others = [member for member in bed.members if member is not sleeper]
        log = context.home / "long.log"
        long = long_connections(where, CLIENT_ADDRESSES[:1], log, _LONG, gap_ms=50, timeout_ms=15_000)
        new = Client(
            where, CLIENT_ADDRESSES[1:], context.home / "new.log", every_us=3000, requests=5, gap_ms=50, timeout_ms=5000
        )
        time.sleep(1)
        stopped = time.time_ns()
        sleeper.signal(signal.SIGSTOP)
        time.sleep(context.number("seconds", 5))
        awake = [member for member in others if member.vip()["role"] == "active"]
        report.equal("members active while it was stopped", len(awake), 1)
        woken = time.time_ns()
        sleeper.signal(signal.SIGCONT)
        in_line = wait_until(lambda: bed.actives() == awake, "the woken member to fall in line", timeout=5)
        time.sleep(2)
        report.equal("active in the end", [member.name for member in bed.actives()], [member.name for member in awake])
        fresh, kept = new.stop(), long.stop()
        story = judge(report, bed, vmac, absences=[Absence(sleeper.name, stopped, woken)])
    twins, offset = story.twins(), bed.captures.clock_offset
    mine, theirs, accepted = [], [], []
    for connection in fresh.connections:
        life = story.life_of(connection.tuple, connection.opened - offset)
        # It answers nothing while it sleeps: what became its own before it woke, it had answered before it was stopped.
        owned = life is not None and life.owner == sleeper.name and life.owned_since < woken
        if connection.tuple not in twins:
            (mine if owned else theirs).append(connection)
            accepted += [] if owned or life is None else [life]
    # By life: a port whose connection to the sleeper was reset is soon used again.
    seen = story.member_resets + story.client_resets
    resets = [(r.host, r.client) for r in seen if any(story.life_at(r.client, r.time) is life for life in accepted)]
    report.equal("resets of connections that others accepted, by anybody", resets, [])
    report.equal("those that broke", [(c.tuple, c.error) for c in theirs if c.error], [])
    meanwhile = [c for c in theirs if c.member != sleeper.name and c.opened - offset > stopped]
    report.at_least("connections that others accepted meanwhile", len(meanwhile), 500 / pace.load)
    report.at_most("in line again after", in_line * 1000, 1000, "ms")
    # They hang for as long as it sleeps, and may be told so.
    report.number("connections of the stopped member, of them broken", [len(mine), sum(1 for c in mine if c.error)])
    report.number("its long connections that broke", kept.errors())


CHECKS = [
    Check(
        "pause",
        "SIGSTOP of the active for 5 s: what others accepted meanwhile is not disturbed",
        pause,
        {"seconds": "3"},
    ),
]
