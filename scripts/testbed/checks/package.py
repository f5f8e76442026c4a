"""The Debian package on a clean system: the unit starts a member, and no way of starting it anew loses a connection."""

from __future__ import annotations

import shutil
import signal
import time

from ..clients.control import long_connections
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import judge
from ..report import Report, Skipped
from ..shell import wait_until
from ..unit import UnitMember, newest_package
from . import Check, Context

_LONG = 200


def _waits_for_ready(unit: UnitMember, do: str) -> None:
    """`systemctl restart` or `reload`: returns when the unit says that it is ready again."""
    unit.inside("systemctl", do, "baton")


def _upgrade(unit: UnitMember) -> None:
    """The same package once more, with systemd running: its scripts restart the unit."""
    unit.inside("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--install", "/root/baton.deb")


def _restarted_after(unit: UnitMember, number: signal.Signals, patience: float) -> float:
    """Sends the process a signal and waits until systemd has started another; returns the seconds it took."""
    before = int(unit.property("NRestarts"))
    unit.inside("systemctl", "kill", f"--signal={number.name}", "baton")

    def restarted() -> bool:
        return int(unit.property("NRestarts")) > before and unit.state() == "active"

    return wait_until(restarted, "systemd to have started it again", timeout=patience, every=0.05)


def _crash(unit: UnitMember) -> None:
    """SIGKILL; systemd starts it again."""
    _restarted_after(unit, signal.SIGKILL, patience=20)


_WAYS = {
    "systemctl restart": lambda unit: _waits_for_ready(unit, "restart"),
    "systemctl reload": lambda unit: _waits_for_ready(unit, "reload"),
    "an upgrade": _upgrade,
    "SIGKILL": _crash,
}


def package(context: Context) -> None:
    """Installs it, boots, and starts it anew in every way under 200 connections in use."""
    report = context.report
    missing = [tool for tool in ("debootstrap", "systemd-nspawn") if shutil.which(tool) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)} (scripts/install-dependencies --package installs them)")
    report.number("package", newest_package().name)
    with testbed(context.home, start=False) as bed:
        unit = UnitMember(bed.members[0], bed.key, context.home)
        try:
            _watch(context, bed, unit)
        finally:
            if unit.process is not None and unit.process.alive():
                (context.home / "journal.log").write_text(unit.journal())
            unit.halt()
    shutil.rmtree(unit.root)


def _watch(context: Context, bed: Testbed, unit: UnitMember) -> None:
    report, member, others = context.report, unit.member, bed.members[1:]
    unit.boot()
    wait_until(member.ready, "the packaged member to be ready", timeout=20)
    report.equal("warnings of systemd about the unit", unit.inside("systemd-analyze", "verify", "--man=no", "baton.service"), "")
    exposure = unit.inside("systemd-analyze", "security", "--no-pager", "baton").strip().splitlines()[-1]
    report.number("systemd-analyze security", exposure.split(":")[-1].strip())
    for other in others:
        other.start()
    wait_until(lambda: all(other.ready() for other in others), "the others to be ready", timeout=20)
    member.activate()
    vmac, where = bed.vmac(), bed.client.namespace
    log = context.home / "long.log"
    long = long_connections(where, CLIENT_ADDRESSES[:1], log, _LONG, gap_ms=100, timeout_ms=10_000)
    for way, restart in _WAYS.items():
        before, begun = member.status()["incarnation"], time.monotonic()
        restart(unit)
        took = time.monotonic() - begun
        wait_until(member.ready, "the packaged member to be ready again", timeout=20)
        report.number(f"{way}: started after (s)", round(took, 2))
        report.equal(f"{way}: a new run", member.status()["incarnation"] > before, True)
        report.equal(f"{way}: connections in the table", member.vip()["connections"]["established"], _LONG)
        time.sleep(1)
    kept = long.stop()
    judge(report, bed, vmac)
    report.equal("connections lost", kept.errors(), {})
    report.equal("connections", len(kept.connections), _LONG)
    report.equal("members that served them", sorted(kept.served()), [member.name])
    report.number("longest wait (ms)", kept.longest_ms())
    _hangs(report, unit)


def _hangs(report: Report, unit: UnitMember) -> None:
    """A member that hangs says nothing to systemd, which ends it and starts another."""
    report.number("hung: started again after (s)", round(_restarted_after(unit, signal.SIGSTOP, patience=30), 1))
    wait_until(unit.member.ready, "it to be ready again", timeout=20)


CHECKS = [
    Check("package", "the Debian package: restart, reload, upgrade and a crash lose no connection", package, None),
]
