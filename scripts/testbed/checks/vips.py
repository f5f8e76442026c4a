"""Several VIPs spread over the members: a death or a dead service moves what it concerns, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

from ..clients.control import Client, Results
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import Absence, hidden_from, judge
from ..member import Member, Settings, VipSettings, wait_ready
from ..pace import pace
from ..report import Report
from ..shell import wait_until
from . import Check, Context

# The judge tells the VIPs' connections apart by the clients' addresses: two for each VIP.
_VIPS = {f"10.0.0.{100 + number}": CLIENT_ADDRESSES[2 * number : 2 * number + 2] for number in range(4)}
# A dead service is refused at once, however long a probe may wait.
_HEALTH = "{tcp: 80, every: 100ms, timeout: 1s}"
# Which VIPs move is the question here, not how fast: a member that is off its core for 30 ms is not to be one that died.
_HEARTBEAT = "20ms"


class _Load:
    """New connections to every VIP."""

    def __init__(self, context: Context, bed: Testbed, name: str) -> None:
        where = bed.client.namespace
        self._clients = {
            vip: Client(
                where, sources, context.home / f"{name}-{vip}.log", address=vip, every_us=8000, timeout_ms=4000
            )
            for vip, sources in _VIPS.items()
        }

    def stop(self) -> dict[str, Results]:
        return {vip: client.stop() for vip, client in self._clients.items()}


def _homes(bed: Testbed) -> dict[str, str]:
    """The one active of each VIP."""
    return {vip: bed.active(vip).name for vip in _VIPS}


def _terms(bed: Testbed, vips: Iterable[str]) -> dict[str, int]:
    return {vip: bed.active(vip).vip(vip)["term"] for vip in vips}


def _judge_others(report: Report, what: str, results: dict[str, Results], homes: dict[str, str]) -> None:
    """These VIPs have noticed nothing."""
    errors = {vip: results[vip].errors() for vip in homes}
    report.equal(f"{what}: failed at other VIPs", errors, dict.fromkeys(homes, {}))
    served = {vip: list(results[vip].served()) for vip in homes}
    report.equal(f"{what}: who served the other VIPs", served, {vip: [home] for vip, home in homes.items()})
    report.at_least(f"{what}: connections to each other VIP", min(len(results[vip].connections) for vip in homes), 100 / pace.load)


def _spread(context: Context, bed: Testbed) -> dict[str, str]:
    """Gives each member its VIPs, and shows that they are served there and nowhere else."""
    for number, vip in enumerate(_VIPS):
        home = bed.members[number % len(bed.members)]
        home.activate(vip)
        bed.wait_active(home, vip)
    homes = _homes(bed)
    load = _Load(context, bed, "spread")
    time.sleep(2)
    _judge_others(context.report, "nothing happens", load.stop(), homes)
    return homes


def _death(context: Context, bed: Testbed, homes: dict[str, str], victim: Member) -> Absence:
    """A member dies: its VIPs move, the others stay."""
    report = context.report
    others = {vip: home for vip, home in homes.items() if home != victim.name}
    terms = _terms(bed, others)
    load = _Load(context, bed, "death")
    time.sleep(1)
    killed = time.time_ns()
    victim.kill(wait=False)
    bed.network.cut(victim.name)
    time.sleep(2)
    after = _homes(bed)
    results = load.stop()
    moved = [vip for vip in homes if after[vip] != homes[vip]]
    report.equal("a death: VIPs that moved", moved, [vip for vip in homes if vip not in others])
    report.equal("a death: terms of the other VIPs", _terms(bed, others), terms)
    _judge_others(report, "a death", results, others)
    for vip in moved:
        accepted = sorted(c.connected for c in results[vip].connections if c.connected and not c.error)
        gap = max(after - before for before, after in pairwise(accepted)) / 1e6
        report.at_most(f"a death: longest gap between connections accepted at {vip}", gap, 1000, "ms")
    bed.network.mend(victim.name)
    victim.kill()
    back = time.time_ns()
    victim.start()
    wait_ready(bed.members)
    report.equal("a return: VIPs stay where they are", _homes(bed), after)
    return Absence(victim.name, killed, back)


def _dead_service(context: Context, bed: Testbed, homes: dict[str, str], failing: Member) -> tuple[int, int]:
    """A member's service ends: it gives its VIPs up and lives on. Returns when it ended, and when they had moved."""
    report = context.report
    others = {vip: home for vip, home in homes.items() if home != failing.name}
    lost = [vip for vip in homes if vip not in others]
    terms = _terms(bed, others)
    load = _Load(context, bed, "service")
    time.sleep(1)
    ended = time.time_ns()
    failing.service.stop()

    def given_up() -> bool:
        status = failing.status()["vips"]
        return not any(vip["role"] == "active" or vip["healthy"] for vip in status)

    wait_until(given_up, f"{failing.name} to give its VIPs up", timeout=5)
    moved, moved_monotonic = time.time_ns(), time.monotonic_ns()
    time.sleep(1.5)
    after = _homes(bed)
    results = load.stop()
    report.at_least("a dead service: VIPs given up", len(lost), 1)
    report.equal("a dead service: VIPs that moved", [vip for vip in homes if after[vip] != homes[vip]], lost)
    report.equal("a dead service: terms of the other VIPs", _terms(bed, others), terms)
    _judge_others(report, "a dead service", results, others)
    for vip in lost:
        late = [(c.tuple, c.error) for c in results[vip].failed() if c.opened > moved_monotonic]
        report.equal(f"a dead service: failed at {vip} once the role had moved", late, [])
    report.at_most("a dead service: role given up after", (moved - ended) / 1e6, 1000, "ms")
    failing.service.start()
    wait_until(lambda: all(vip["healthy"] for vip in failing.status()["vips"]), "it to be healthy again", timeout=5)
    return ended, moved


def vips_spread(context: Context) -> None:
    """Four VIPs on three members: spread, a death, a return, a dead service."""
    report = context.report
    settings = Settings(heartbeat=_HEARTBEAT, vips=tuple(VipSettings(vip, {"health": _HEALTH}) for vip in _VIPS))
    with testbed(context.home, settings=settings) as bed:
        vmacs = {vip: bed.vmac(vip) for vip in _VIPS}
        report.equal("virtual MACs", len(set(vmacs.values())), len(_VIPS))
        first, second, _ = bed.members
        homes = _spread(context, bed)
        absence = _death(context, bed, homes, first)
        ended, moved = _dead_service(context, bed, _homes(bed), second)
        cuts = hidden_from([absence], CLIENT_ADDRESSES)
        story = judge(report, bed, vmacs, resets_allowed=True, absences=[absence], cuts=cuts)
    # The kernel of the member whose service has ended resets what that had open, and refuses until the role has moved.
    strange = [
        f"{reset.host} to {reset.client}"
        for reset in story.member_resets
        if not (reset.host == second.name and ended <= reset.time <= moved) and reset.owner != first.name
    ]
    report.equal("resets but for the dead and what the ended service left", strange, [])


CHECKS = [Check("vips-spread", "four VIPs on three members: a death moves only its own", vips_spread, {"heartbeats": "5"})]
