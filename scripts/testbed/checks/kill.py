"""How long new connections wait when the active member dies."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median

from ..clients.control import Client, Results
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import Absence, hidden_from, judge
from ..member import Settings, wait_ready
from . import Check, Context

_ATTEMPT_EVERY_US = 2000


@dataclass(frozen=True)
class Outage:
    """What new connections met around a kill, in ms."""

    gap: float
    """The longest stretch between one connection accepted and the next, of those that reach beyond the kill: it begins
    with the last success before and ends with the first success after."""
    usual: float
    """The same before the kill: what the probe and a busy machine contribute by themselves."""
    longest: float
    """The longest that any connection around the kill waited for its answer."""


def outage(results: Results, killed: int) -> Outage:
    """Measures the outage after a kill at a monotonic time.

    A connection counts as accepted when its handshake completed, and only if its request was then answered.
    """
    accepted = sorted(c.connected for c in results.connections if c.connected and not c.error)
    gaps = [after - before for before, after in pairwise(accepted) if after > killed]
    usual = [after - before for before, after in pairwise(accepted) if after <= killed]
    around = [c.longest for c in results.connections if killed - 10**9 <= c.opened <= killed + 10**9]
    return Outage(*(round(max(each, default=0) / 1e6, 2) for each in (gaps, usual, around)))


def _kill_once(bed: Testbed, context: Context, number: int) -> tuple[Outage, Results, Absence]:
    """Kills the active member under a probe, and brings it back."""
    victim = bed.active()
    log = context.home / f"probe-{number}.log"
    # Shorter than the second after which the kernel sends a SYN again: no attempt lives on a retransmission.
    probe = Client(bed.client.namespace, CLIENT_ADDRESSES, log, every_us=_ATTEMPT_EVERY_US, requests=1, timeout_ms=900)
    time.sleep(0.7)
    killed, began = time.monotonic_ns(), time.time_ns()
    victim.kill(wait=False)
    bed.network.cut(victim.name)
    time.sleep(1.2)
    results = probe.stop()
    if not any(c.connected > killed and not c.error for c in results.connections):
        raise RuntimeError("no connection was accepted within 1.2 s after the kill")
    bed.network.mend(victim.name)
    victim.kill()
    victim.start()
    wait_ready(bed.members)
    return outage(results, killed), results, Absence(victim.name, began, time.time_ns())


def _kill_active(context: Context, heartbeat: str, limit: float) -> None:
    report = context.report
    kills = int(context.number("kills", 10))
    outages, absences, lost = [], [], 0
    with testbed(context.home, settings=Settings(heartbeat=heartbeat)) as bed:
        vmac = bed.vmac()
        for number in range(kills):
            seen, results, absence = _kill_once(bed, context, number)
            outages.append(seen)
            absences.append(absence)
            # Connections that the dead member had accepted and not yet answered are lost with it.
            lost += len(results.failed())
            report.number(f"kill {number + 1}", {**asdict(seen), "failed": results.errors()})
        judge(report, bed, vmac, absences=absences, cuts=hidden_from(absences, CLIENT_ADDRESSES))
    gaps, waits = [each.gap for each in outages], [each.longest for each in outages]
    report.at_most(f"median gap of {kills} kills at {heartbeat} heartbeats", median(gaps), limit, "ms")
    report.number("median and worst gap (ms)", [median(gaps), max(gaps)])
    report.number("median and worst longest wait of a connection (ms)", [median(waits), max(waits)])
    report.number("longest gap without a kill, median (ms)", median(each.usual for each in outages))
    report.number("failed connections in all", lost)


def kill_active_10ms(context: Context) -> None:
    """SIGKILL and the link cut, 10 ms heartbeats."""
    _kill_active(context, "10ms", 60)


def kill_active_1ms(context: Context) -> None:
    """SIGKILL and the link cut, 1 ms heartbeats."""
    _kill_active(context, "1ms", 15)


# Not in continuous integration: a shared machine's own pauses are as long as what they measure.
CHECKS = [
    Check("kill-active-10ms", "the active killed, its link cut: accepted again within 60 ms", kill_active_10ms, None),
    Check("kill-active-1ms", "the same at 1 ms heartbeats: within 15 ms", kill_active_1ms, None),
]
