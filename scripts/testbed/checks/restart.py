"""A member that starts anew, by SIGHUP or after SIGKILL, keeps its connections: the kernel has them, the table is a cache."""

from __future__ import annotations

import signal
import time

from ..clients.control import Client, long_connections
from ..cluster import CLIENT_ADDRESSES, testbed
from ..control_socket import ControlSocket
from ..judge import judge
from ..member import Member, wait_ready
from ..shell import CommandFailed, wait_until
from . import Check, Context

_LONG = 50
_MANY = 1000
_EACH = 100


def _incarnation(member: Member) -> int:
    """That of the run that is ready; 0 if none is."""
    try:
        with ControlSocket(member.socket) as control:
            status = control.status()
    except (OSError, ValueError, CommandFailed):
        # It is on its way down or up.
        return 0
    return int(status["incarnation"]) if status["ready"] else 0


def _started(member: Member, before: int) -> float:
    """Waits until a later run than `before` is ready; returns the seconds it took."""

    def ready() -> bool:
        if member.process is not None and not member.process.alive():
            raise RuntimeError(f"baton on {member.name} ended: {member.last_words()}")
        return _incarnation(member) > before

    return wait_until(ready, f"{member.name} to be ready anew", timeout=20, every=0.002)


def _killed_and_started(member: Member) -> float:
    """SIGKILL, and a start a second later; returns the seconds from start to ready."""
    before = _incarnation(member)
    member.kill()
    time.sleep(1)
    begun = time.monotonic()
    member.start()
    _started(member, before)
    return time.monotonic() - begun


def _reloaded(member: Member) -> float:
    """SIGHUP; returns the seconds until it is ready anew."""
    before = _incarnation(member)
    member.signal(signal.SIGHUP)
    return _started(member, before)


def _stopped_and_started(member: Member) -> float:
    """SIGTERM, and a start as soon as it has ended; returns the seconds from start to ready."""
    before = _incarnation(member)
    status = member.stop()
    if status != 0:
        raise RuntimeError(f"baton on {member.name} ended with {status}: {member.last_words()}")
    begun = time.monotonic()
    member.start()
    _started(member, before)
    return time.monotonic() - begun


def restart(context: Context) -> None:
    """50 long connections to one member, which reloads, and later is killed and started again a second later."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, where, first = bed.vmac(), bed.client.namespace, bed.active()
        log = context.home / "long.log"
        long = long_connections(where, CLIENT_ADDRESSES[:1], log, _LONG, gap_ms=20, timeout_ms=10_000)
        report.number("SIGHUP to ready (s)", round(_reloaded(first), 2))
        report.equal("connections in the table after SIGHUP", first.vip()["connections"]["established"], _LONG)
        time.sleep(2)
        report.number("start to ready after SIGKILL (s)", round(_killed_and_started(first), 2))
        report.equal("connections in the table after SIGKILL", first.vip()["connections"]["established"], _LONG)
        time.sleep(2)
        kept = long.stop()
        judge(report, bed, vmac)
    report.equal("long connections that broke", kept.errors(), {})
    report.equal("members that served the long connections", sorted(kept.served()), [first.name])
    report.number("longest wait (ms)", kept.longest_ms())


def restart_1000(context: Context) -> None:
    """1,000 connections in use to one member, which is killed and started again a second later."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, where, first = bed.vmac(), bed.client.namespace, bed.active()
        log = context.home / "long.log"
        long = long_connections(where, CLIENT_ADDRESSES[:2], log, _MANY, gap_ms=1000, timeout_ms=10_000)
        time.sleep(1)
        took = [_killed_and_started(first)]
        report.equal("connections in the table", first.vip()["connections"]["established"], _MANY)
        # Once more, after every connection has been in use again.
        time.sleep(3)
        took.append(_killed_and_started(first))
        report.equal("connections in the table the second time", first.vip()["connections"]["established"], _MANY)
        time.sleep(3)
        kept = long.stop()
        judge(report, bed, vmac)
    report.equal("connections lost", kept.errors(), {})
    report.equal("connections", len(kept.connections), _MANY)
    report.equal("members that served them", sorted(kept.served()), [first.name])
    report.at_least("answers of the least served", min(c.answers for c in kept.connections), 4)
    if context.number("timed", 1):
        report.at_most("start to ready", max(took), 1, "s")
    report.number("start to ready, each (s)", [round(each, 2) for each in took])
    report.number("longest wait (ms)", kept.longest_ms())


# Name, how, and whether it is planned: then the role is handed over before.
_WAYS = [
    ("SIGHUP", _reloaded, True),
    ("SIGTERM and a start", _stopped_and_started, True),
    ("SIGKILL and a start a second later", _killed_and_started, False),
]


def rolling_restart(context: Context) -> None:
    """All members one after the other: by SIGHUP, by SIGTERM and a start, by SIGKILL and a start."""
    report = context.report
    planned_times: list[tuple[int, int]] = []
    with testbed(context.home) as bed:
        vmac, where, longs = bed.vmac(), bed.client.namespace, []
        for number, member in enumerate(bed.members):
            member.activate()
            bed.wait_active(member)
            log = context.home / f"long-{number}.log"
            source = CLIENT_ADDRESSES[number : number + 1]
            longs.append(long_connections(where, source, log, _EACH, gap_ms=500, timeout_ms=10_000))
        new = Client(where, CLIENT_ADDRESSES[3:], context.home / "new.log", every_us=10_000, timeout_ms=8000)
        for name, restarted, planned in _WAYS:
            took = []
            for member in bed.members:
                # The one with the role: it has most to lose.
                member.activate()
                bed.wait_active(member)
                begun = time.time_ns()
                took.append(round(restarted(member), 2))
                wait_ready(bed.members)
                planned_times += [(begun, time.time_ns())] if planned else []
                time.sleep(0.5)
            report.number(f"{name}: ready after (s)", took)
        fresh, kept = new.stop(), [long.stop() for long in longs]
        story = judge(report, bed, vmac)
    twins = story.twins()
    report.equal("long connections lost", [results.errors() for results in kept], [{}, {}, {}])
    owners = [sorted(results.served()) for results in kept]
    report.equal("who served the long connections", owners, [[member.name] for member in bed.members])
    failed = [(c.tuple, c.error) for c in fresh.failed() if c.tuple not in twins]
    report.equal("new connections that failed", failed, [])
    waited = []
    for life in story.all_lives():
        amid = any(begun <= life.began <= ended for begun, ended in planned_times)
        waited += [life.client] if amid and life.syns > 1 and life.client not in twins else []
    report.equal("connections whose SYN was sent again at a planned restart", waited, [])
    report.number("new connections", len(fresh.connections))
    longest = [max(results.longest_ms() for results in kept), fresh.longest_ms()]
    report.number("longest wait of a long and of a new one (ms)", longest)


CHECKS = [
    Check("restart", "50 long connections survive a reload, and SIGKILL with a start a second later", restart, None),
    Check("restart-1000", "1,000 connections in use survive SIGKILL; ready within a second", restart_1000, {"timed": "0"}),
    Check("rolling-restart", "all members restarted in turn, by each signal: nothing is lost", rolling_restart, {}),
]
