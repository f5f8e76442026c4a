"""Members that do not hear each other and so are active at once: no connection may suffer."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ..clients.control import Client, Connection, long_connections
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import Absence, Cut, Life, Story, judge
from ..member import HEARTBEAT_ETHERTYPE, Member
from ..shell import wait_until
from ..topology import Host
from . import Check, Context

_CONNECTIONS = 1000
_REQUESTS = 10
_SIDES = (("s1", "s2"), ("s3", "s4"))
_PER_OWNER = 20


def split_brain(context: Context, sysctls: dict[str, str] | None = None) -> None:
    """1,000 connections of ten requests to two active members. Members' kernels may be told something before."""
    report = context.report
    connections = int(context.number("connections", _CONNECTIONS))
    with testbed(context.home) as bed:
        vmac, first = bed.vmac(), bed.active()
        for member in bed.members:
            member.host.sysctl(sysctls or {})
        bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, [first.name])
        wait_until(lambda: len(bed.actives()) == 2, "two active members", timeout=5)
        client = Client(
            bed.client.namespace,
            CLIENT_ADDRESSES,
            context.home / "client.log",
            opens=connections,
            every_us=4000,
            requests=_REQUESTS,
            gap_ms=5,
            timeout_ms=3000,
        )
        results = client.wait(timeout=60)
        report.equal("members active at the end of the load", len(bed.actives()), 2)
        report.at_least("heartbeats the switch dropped", bed.network.unblock(), 1)
        healed = wait_until(lambda: len(bed.actives()) == 1, "one active member again", timeout=5)
        story = judge(report, bed, vmac)
    twins = story.twins()
    report.equal("connections broken", [(c.tuple, c.error) for c in results.failed() if c.tuple not in twins], [])
    whole = [c for c in results.connections if not c.error]
    report.equal("requests of whole connections", sum(c.answers for c in whole), len(whole) * _REQUESTS)
    resets = [reset for reset in story.client_resets if reset.client not in twins]
    report.equal("resets sent by the client", len(resets), 0)
    report.at_most("set aside: two members chose one sequence number", len(twins), connections // 100)
    raced = sum(1 for life in story.all_lives() if len(life.answered_by()) > 1)
    report.at_least("connections that two members answered", raced, 1)
    report.equal("members that won connections", len(results.served()), 2)
    report.number("answers by member", results.served())
    report.number("longest wait (ms)", results.longest_ms())
    report.number("segments sent again by the client", results.retransmits())
    report.number("one active again after (ms)", healed * 1000)


@dataclass
class _Place:
    """A client and where it stands: with one side of the partition, or between them and hearing both."""

    host: Host
    addresses: list[str]
    side: int | None
    clients: list[Client] = field(default_factory=list)

    def cut_from(self, member: str) -> bool:
        """Whether the partition comes between this client and a member."""
        return self.side is not None and member not in _SIDES[self.side]


def _places(bed: Testbed) -> list[_Place]:
    places = [_Place(bed.client, CLIENT_ADDRESSES[:2], 0)]
    for name, number, side in (("c3", 20, 1), ("c4", 30, None)):
        host = bed.add_client(name, number)
        places.append(_Place(host, [host.address, f"10.0.0.{number + 1}"], side))
    return places


def _load(context: Context, bed: Testbed, places: list[_Place], owners: list[Member]) -> None:
    """Long connections of every client to these members, and new ones from then on."""
    for owner in owners:
        owner.activate()
        bed.wait_active(owner)
        for place in places:
            log = context.home / f"{place.host.name}-to-{owner.name}.log"
            where = place.host.namespace
            place.clients.append(
                long_connections(where, place.addresses[:1], log, _PER_OWNER, gap_ms=200, timeout_ms=20_000)
            )
    for place in places:
        log = context.home / f"{place.host.name}-new.log"
        place.clients.append(
            Client(place.host.namespace, place.addresses[1:], log, every_us=8000, requests=3, timeout_ms=5000)
        )


def split_2_2(context: Context) -> None:
    """Four members parted two and two, with a client on each side and one between, then whole again."""
    report = context.report
    seconds = context.number("seconds", 6)
    with testbed(context.home, members=4) as bed:
        vmac, places = bed.vmac(), _places(bed)
        _load(context, bed, places, [bed.members[0], bed.members[2]])
        time.sleep(1)
        parted = time.time_ns()
        bed.network.part([*_SIDES[0], "c1"], [*_SIDES[1], "c3"])
        wait_until(lambda: len(bed.actives()) == 2, "an active member on each side", timeout=5)
        time.sleep(seconds)
        actives = sorted(member.name for member in bed.actives())
        report.at_least("frames the switch dropped", bed.network.unblock(), 1)
        healed = time.time_ns()
        converged = wait_until(lambda: len(bed.actives()) == 1, "one active member again", timeout=5)
        time.sleep(2)
        outcomes = [(place, c) for place in places for client in place.clients for c in client.stop().connections]
        # To the members of the other side, and to what they call orphans, a member is as good as dead meanwhile.
        away = [Absence(member.name, parted, healed) for member in bed.members]
        cuts = [
            Cut(member.name, frozenset(place.addresses), parted, healed)
            for place in places
            for member in bed.members
            if place.cut_from(member.name)
        ]
        story = judge(report, bed, vmac, absences=away, cuts=cuts)
    sides = [name in _SIDES[0] for name in actives]
    report.expect("members active while parted", actives, "one on each side", sorted(sides) == [False, True])
    report.number("one active again after (ms)", converged * 1000)
    whole, cut, safe = _by_path(bed, story, outcomes, parted, healed)
    twins = story.twins()
    failed = [(c.tuple, c.error) for c in whole if c.error and c.tuple not in twins]
    report.equal("connections broken whose path was never cut", failed, [])
    # By life: a port whose connection was cut and then reset may be used again.
    seen = [reset for reset in story.member_resets + story.client_resets if reset.client not in twins]
    resets = [(r.host, r.client) for r in seen if any(story.life_at(r.client, r.time) is life for life in safe)]
    report.equal("resets on them, by anybody", resets, [])
    offset = bed.captures.clock_offset
    between = {c.member for place, c in outcomes if place.side is None and parted < c.opened - offset < healed}
    report.expect("who served the client in between", sorted(between), "both sides", len(between) > 1)
    report.at_least("connections whose path was never cut", len(whole), 1000)
    report.at_least("connections whose path was cut", len(cut), 2 * _PER_OWNER)
    report.number("of those whose path was cut, broken", len([c for c in cut if c.error]))
    report.at_most("set aside: two members chose one sequence number", len(twins), len(outcomes) // 100)
    report.number("longest wait where the path was never cut (ms)", max(c.longest for c in whole) / 1e6)


def _by_path(
    bed: Testbed, story: Story, outcomes: list[tuple[_Place, Connection]], parted: int, healed: int
) -> tuple[list[Connection], list[Connection], list[Life]]:
    """Connections whose path to their owner was never cut, and the others; and the lives of the former."""
    whole, cut, lives = [], [], []
    for place, connection in outcomes:
        opened, ended = (at - bed.captures.clock_offset for at in (connection.opened, connection.ended))
        life = story.life_of(connection.tuple, opened)
        amid = opened < healed and ended > parted
        lost = amid and life is not None and life.owner != "" and place.cut_from(life.owner)
        (cut if lost else whole).append(connection)
        lives += [life] if life is not None and not lost else []
    return whole, cut, lives


CHECKS = [
    Check("split-brain", "two members both active: no connection breaks, no reset", split_brain, {}),
    Check(
        "split-2-2",
        "four members parted two and two: no connection breaks whose path is whole",
        split_2_2,
        {"seconds": "3"},
    ),
]
