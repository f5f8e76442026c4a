"""How long new connections wait when the active member dies."""

from __future__ import annotations

import time
from itertools import pairwise
from statistics import median

from ..clients.control import Client, Results
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import judge
from ..member import Settings, wait_ready
from . import Check, Context

_ATTEMPT_EVERY_US = 2000


def outage(results: Results, killed: int) -> tuple[float, float]:
    """(the gap without an accepted connection after the kill, the longest any connection then waited), in ms.

    The gap is the longest stretch between one connection accepted and the next, of those that reach beyond the kill:
    it begins with the last success before and ends with the first success after. A connection counts as accepted when
    its handshake completed, and only if its request was then answered.
    """
    accepted = sorted(c.connected for c in results.connections if c.connected and not c.error)
    gaps = [after - before for before, after in pairwise(accepted) if after > killed]
    around = [c for c in results.connections if killed - 10**9 <= c.opened <= killed + 10**9]
    return max(gaps, default=0) / 1e6, max((c.longest for c in around), default=0) / 1e6


def _kill_once(bed: Testbed, context: Context, number: int) -> tuple[float, float, Results]:
    """Kills the active member under a probe, and brings it back."""
    victim = bed.active()
    log = context.home / f"probe-{number}.log"
    # Shorter than the second after which the kernel sends a SYN again: no attempt lives on a retransmission.
    probe = Client(bed.client.namespace, CLIENT_ADDRESSES, log, every_us=_ATTEMPT_EVERY_US, requests=1, timeout_ms=900)
    time.sleep(0.7)
    killed = time.monotonic_ns()
    victim.kill()
    bed.network.cut(victim.name)
    time.sleep(1.2)
    results = probe.stop()
    if not any(c.connected > killed and not c.error for c in results.connections):
        raise RuntimeError("no connection was accepted within 1.2 s after the kill")
    bed.network.mend(victim.name)
    victim.start()
    wait_ready(bed.members)
    return *outage(results, killed), results


def _kill_active(context: Context, heartbeat: str, limit: float) -> None:
    report = context.report
    kills = int(context.number("kills", 10))
    gaps, waits, failed = [], [], 0
    with testbed(context.home, settings=Settings(heartbeat=heartbeat)) as bed:
        vmac = bed.vmac()
        for number in range(kills):
            gap, wait, results = _kill_once(bed, context, number)
            gaps.append(round(gap, 2))
            waits.append(round(wait, 2))
            # Connections that the dead member had accepted and not yet answered are lost with it.
            failed += len(results.failed())
            report.number(f"kill {number + 1}: gap, longest wait (ms), failed", [gaps[-1], waits[-1], results.errors()])
        judge(report, bed, vmac, resets_allowed=True)
    report.at_most(f"median gap of {kills} kills at {heartbeat} heartbeats", median(gaps), limit, "ms")
    report.number("longest wait of a connection, median and worst (ms)", [median(waits), max(waits)])
    report.number("failed connections in all", failed)
    report.number("worst gap (ms)", max(gaps))


def kill_active_10ms(context: Context) -> None:
    """SIGKILL and the link cut, 10 ms heartbeats."""
    _kill_active(context, "10ms", 60)


def kill_active_1ms(context: Context) -> None:
    """SIGKILL and the link cut, 1 ms heartbeats."""
    _kill_active(context, "1ms", 15)


CHECKS = [
    Check(
        "kill-active-10ms",
        "the active killed, its link cut: accepted again within 60 ms",
        kill_active_10ms,
        {"kills": "3"},
    ),
    Check("kill-active-1ms", "the same at 1 ms heartbeats: within 15 ms", kill_active_1ms, {"kills": "3"}),
]
