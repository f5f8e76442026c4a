"""A member that starts anew, by SIGHUP or after SIGKILL, keeps its connections: the kernel has them, the table is a cache."""

from __future__ import annotations

import os
import signal
import time

from ..clients.control import Client
from ..cluster import CLIENT_ADDRESSES, testbed
from ..judge import judge
from ..shell import CommandFailed, wait_until
from . import Check, Context

_LONG = 50


def restart(context: Context) -> None:
    """50 long connections to one member, which reloads, and later is killed and started again a second later."""
    report = context.report
    with testbed(context.home) as bed:
        vmac, where = bed.vmac(), bed.client.namespace
        long = Client(
            where,
            CLIENT_ADDRESSES[:1],
            context.home / "long.log",
            opens=_LONG,
            requests=0,
            gap_ms=20,
            timeout_ms=10_000,
            progress_ms=100,
        )
        wait_until(lambda: sum(long.poll().get("served", {}).values()) > _LONG, "all long connections", timeout=10)
        (owner,) = long.poll()["served"]
        first = next(member for member in bed.members if member.name == owner)
        before = first.status()
        assert first.process is not None
        os.kill(first.process.pid, signal.SIGHUP)

        def reloaded() -> bool:
            try:
                now = first.status()
            except CommandFailed:
                return False
            return now["ready"] and now["incarnation"] > before["incarnation"]

        wait_until(reloaded, "the member to have reloaded", timeout=20)
        report.equal("connections in the table after SIGHUP", first.vip()["connections"]["established"], _LONG)
        time.sleep(2)
        first.kill()
        time.sleep(1)
        begun = time.monotonic()
        first.start()
        wait_until(first.ready, "the member to be ready again", timeout=20, every=0.01)
        report.number("start to ready after SIGKILL (s)", round(time.monotonic() - begun, 2))
        report.equal("connections in the table after SIGKILL", first.vip()["connections"]["established"], _LONG)
        time.sleep(2)
        kept = long.stop()
        judge(report, bed, vmac)
    report.equal("long connections that broke", kept.errors(), {})
    report.equal("members that served the long connections", sorted(kept.served()), [first.name])
    report.number("longest wait (ms)", kept.longest_ms())


CHECKS = [
    Check("restart", "50 long connections survive a reload, and SIGKILL with a start a second later", restart, {})
]
