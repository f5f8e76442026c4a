"""What is done to a cluster in containers, under HTTP traffic, and what has to hold."""

from __future__ import annotations

import time

from testbed.clients.control import Results
from testbed.report import Report
from testbed.shell import wait_until

from .stack import MEMBERS, Load, Stack
from .switch import Switch

_EVERY_US = 4000
_LONG = 20


def play(report: Report, stack: Stack, switch: Switch) -> None:
    """All steps. Two members are active, so that what begins after a member has gone is answered by the other."""
    vmac = stack.vmac()
    _say(f"three members are ready: {_roles(stack)}; vMAC {vmac}; curl: {stack.curl()!r}")
    switch.watch(vmac)
    for step in (_traffic, _handover, _kill, _restart, _pause):
        step(report, stack)
    _cut(report, stack, switch)
    _say("the switch:")
    switch.judge(report, vmac)


def _say(line: str) -> None:
    print(f"  == {line}", flush=True)


def _roles(stack: Stack) -> str:
    return ", ".join(f"{member} {role}" for member, role in stack.roles().items())


def _short(stack: Stack, seconds: float) -> Load:
    return stack.load(opens=int(seconds * 1e6 / _EVERY_US), every_us=_EVERY_US)


def _long(stack: Stack, seconds: float) -> Load:
    return stack.load(opens=_LONG, every_us=10_000, requests=int(seconds * 20), gap_ms=50)


def _settle(report: Report, what: str, stack: Stack) -> None:
    seconds = stack.wait_ready()
    report.number(f"{what}: all in line again after (s)", seconds)


def _failed_after(report: Report, what: str, results: Results, since: int) -> None:
    """None that was begun after `since` may fail; what was under way may, as its server has gone."""
    after = [c for c in results.connections if c.opened >= since]
    before = [c for c in results.failed() if c.opened < since]
    report.at_least(f"{what}: requests begun after it", len(after), 100)
    report.equal(f"{what}: failed among those", [c.error for c in after if c.error], [])
    report.number(f"{what}: longest wait among those (ms)", max(c.longest for c in after) / 1e6)
    report.number(f"{what}: under way with the member that went, and lost", len(before))
    report.number(f"{what}: served", Results(after).served())


def _traffic(report: Report, stack: Stack) -> None:
    _say("HTTP traffic: 500 requests, each on its own connection")
    results = _short(stack, 2).results()
    report.equal("traffic: requests answered", sum(1 for c in results.connections if not c.error), 500)
    report.number("traffic: served", results.served())
    report.number("traffic: longest wait (ms)", results.longest_ms())


def _handover(report: Report, stack: Stack) -> None:
    passive = next(member for member in MEMBERS if member not in stack.actives())
    _say(f"planned handover: baton activate --vip {stack.vip} on {passive}, under 250 new connections a second")
    long, short = _long(stack, 5), _short(stack, 5)
    time.sleep(2)
    stack.inside(passive, "baton", "activate", "--vip", stack.vip)
    _say(_roles(stack))
    report.expect("handover: it is active", stack.actives(), f"with {passive}", passive in stack.actives())
    results, kept = short.results(), long.results()
    report.equal("handover: failed requests", results.errors(), {})
    report.number("handover: longest wait (ms)", results.longest_ms())
    report.number("handover: served", results.served())
    report.equal("handover: long connections broken", kept.errors(), {})
    report.number("handover: requests on long connections", sum(kept.served().values()))


def _kill(report: Report, stack: Stack) -> None:
    victim = stack.actives()[0]
    _say(f"docker kill {victim}, the first of the two that are active")
    short = _short(stack, 6)
    time.sleep(2)
    stack.docker("kill", victim)
    killed = time.monotonic_ns()
    results = short.results()
    _say(_roles(stack))
    _failed_after(report, "kill", results, killed)
    served_after = Results([c for c in results.connections if c.opened >= killed]).served()
    report.equal("kill: the dead member's kernel answers", victim in served_after, False)
    report.equal("kill: two others are active", len(stack.actives()), 2)


def _restart(report: Report, stack: Stack) -> None:
    victim = next(member for member, role in stack.roles().items() if role == "away")
    _say(f"docker start {victim}, under 250 new connections a second")
    short = _short(stack, 4)
    stack.docker("start", victim)
    _settle(report, "restart", stack)
    report.equal("restart: failed requests", short.results().errors(), {})
    _say(_roles(stack))


def _pause(report: Report, stack: Stack) -> None:
    victim = stack.actives()[0]
    _say(f"docker pause {victim} for a second")
    long, short = _long(stack, 6), _short(stack, 6)
    time.sleep(2)
    stack.docker("pause", victim)
    paused = time.monotonic_ns()
    time.sleep(1)
    stack.docker("unpause", victim)
    _settle(report, "pause", stack)
    _failed_after(report, "pause", short.results(), paused)
    report.equal("pause: long connections broken", long.results().errors(), {})
    _say(_roles(stack))


def _cut(report: Report, stack: Stack, switch: Switch) -> None:
    victim = stack.actives()[0]
    short = _short(stack, 6)
    time.sleep(2)
    _say(switch.cut(victim))
    since = time.monotonic_ns()

    def noticed() -> bool:
        others = [member for member in MEMBERS if member != victim]
        return all(stack.status(member)["vips"][0]["role"] == "active" for member in others)

    wait_until(noticed, "the two others active", timeout=10)
    _failed_after(report, "cut off", short.results(), since)
    _say(_roles(stack) + f"; {victim} sees nobody, and nobody sees it")
    _say(switch.mend(victim))
    _settle(report, "cut off", stack)
    results = _short(stack, 2).results()
    report.equal("together again: failed requests", results.errors(), {})
    _say(_roles(stack))
