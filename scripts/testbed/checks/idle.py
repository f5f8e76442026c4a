"""What an idle member costs, and what sleeping costs in latency."""

from __future__ import annotations

import time
from statistics import median, quantiles

from ..clients.control import Client, Results
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import judge
from . import Check, Context


def _sparse(bed: Testbed, context: Context, name: str) -> Results:
    """Requests far apart: each one meets pollers that sleep."""
    log, opens = context.home / f"{name}.log", int(context.number("requests", 100))
    return Client(bed.client.namespace, CLIENT_ADDRESSES, log, opens=opens, every_us=50_000).wait(timeout=30)


def _latency(results: Results) -> list[float]:
    """Median and 99th percentile of connecting and of connecting to the answer, in ms."""
    connecting = [(c.connected - c.opened) / 1e6 for c in results.connections if c.connected]
    answered = [c.longest / 1e6 for c in results.connections if not c.error]
    both = (connecting, answered)
    return [round(value, 3) for times in both for value in (median(times), quantiles(times, n=100)[98])]


def idle_cost(context: Context) -> None:
    """Processor time of idle members with adaptive polling, beside the latency that sleeping adds."""
    report = context.report
    seconds = context.number("seconds", 10)
    with testbed(context.home / "plain", without_baton=True) as bed:
        plain = _sparse(bed, context, "plain")
    with testbed(context.home / "baton") as bed:
        vmac = bed.vmac()
        before = {member.name: member.cpu_seconds() for member in bed.members}
        time.sleep(seconds)
        share = {member.name: (member.cpu_seconds() - before[member.name]) / seconds for member in bed.members}
        through = _sparse(bed, context, "baton")
        judge(report, bed, vmac)
    for name, used in share.items():
        report.at_most(f"{name}, idle: share of a core", used * 100, 10, "%")
    report.equal("requests that failed", through.errors(), {})
    report.number("kernel alone: connect p50, p99, answer p50, p99 (ms)", _latency(plain))
    report.number("through baton: connect p50, p99, answer p50, p99 (ms)", _latency(through))


CHECKS = [Check("idle-cost", "an idle adaptive member leaves its core almost idle", idle_cost, {"seconds": "3", "requests": "40", "heartbeats": "1"})]
