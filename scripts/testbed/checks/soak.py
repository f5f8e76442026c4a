"""Load for a long time on shared cores: no member may be taken for dead while it lives."""

from __future__ import annotations

import re
import subprocess
import time
from itertools import pairwise

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import judge
from ..member import VIP, Settings
from ..shell import Process
from . import Check, Context

# Minutes of load fill disks: what the judgement needs without the payload's segments.
_SIGNALS = "arp or ether proto 0x88b5 or tcp[tcpflags] & (tcp-syn|tcp-rst) != 0"


def _roles(bed: Testbed) -> list[tuple[str, int]]:
    return [(vip["role"], vip["term"]) for vip in (member.vip() for member in bed.members)]


def _changes(bed: Testbed) -> int:
    """Role changes that the members have counted."""
    pattern = r"^baton_role_changes_total\{[^}]*\} (\S+)"
    return sum(
        int(float(text)) for member in bed.members for text in re.findall(pattern, member.metrics(), re.MULTILINE)
    )


def _soak(context: Context, heartbeat: str, minutes: float, *, false_failovers_allowed: bool) -> None:
    report = context.report
    with testbed(context.home, settings=Settings(heartbeat=heartbeat), capture_filter=_SIGNALS) as bed:
        vmac, roles, changes, where = bed.vmac(), _roles(bed), _changes(bed), bed.client.namespace
        long = Client(
            where, CLIENT_ADDRESSES[:1], context.home / "long.log", opens=50, requests=0, gap_ms=20, timeout_ms=5000
        )
        short = Client(where, CLIENT_ADDRESSES[1:], context.home / "short.log", every_us=10_000, timeout_ms=5000)
        wrk = Process(
            ["wrk", "-t1", "-c8", f"-d{minutes * 60:.0f}s", "--timeout", "5s", f"http://{VIP}/who?load"],
            log=context.home / "wrk.log",
            namespace=where,
            stdout=subprocess.PIPE,
        )
        seen = set()
        while wrk.alive():
            seen.add(tuple(_roles(bed)))
            time.sleep(0.25)
        load = wrk.output.read().decode()
        after, changes = _roles(bed), _changes(bed) - changes
        new, kept = short.stop(), long.stop()
        story = judge(report, bed, vmac, resets_allowed=false_failovers_allowed)
    terms = max(term for _, term in after) - max(term for _, term in roles)
    report.number("load", " ".join(load.split())[:280])
    report.number("minutes", minutes)
    for host, times in sorted(story.heartbeats.items()):
        gaps = sorted(b - a for a, b in pairwise(times))
        worst = [round(gaps[int(len(gaps) * share)] / 1e6, 2) for share in (0.5, 0.99, 0.999)]
        report.number(
            f"{host}: gap between heartbeats p50, p99, p99.9, longest (ms)", [*worst, round(gaps[-1] / 1e6, 2)]
        )
    report.number("role changes per hour", round(changes * 60 / minutes, 1))
    report.number("longest wait, new and long connections (ms)", [new.longest_ms(), kept.longest_ms()])
    report.equal("long connections that broke", kept.errors(), {})
    if not false_failovers_allowed:
        report.equal("role changes", changes, 0)
        report.equal("terms gone by", terms, 0)
        report.equal("distributions of roles seen", len(seen), 1)
        report.equal("new connections that failed", new.errors(), {})


def soak(context: Context) -> None:
    """10 ms heartbeats: no false failover."""
    _soak(context, "10ms", context.number("minutes", 10), false_failovers_allowed=False)


def soak_1ms(context: Context) -> None:
    """1 ms heartbeats: the count per hour is reported; connections must not suffer from it."""
    _soak(context, "1ms", context.number("minutes", 10), false_failovers_allowed=True)


CHECKS = [
    # Not in continuous integration: a quarter of a minute proves little, and ten are too many.
    Check("soak", "ten minutes of load at 10 ms heartbeats: no false failover", soak, None),
    Check("soak-1ms", "false failovers per hour at 1 ms heartbeats, reported", soak_1ms, None),
]
