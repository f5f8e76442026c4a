"""What new connections notice of a death: with two actives nothing at all, with one no more than its detection.

Judged are attempts begun after the kill and handshakes unfinished at it. What the victim had accepted dies with it, and
is counted apart.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from ..clients.control import Client, Connection, Results
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import GRACE, Absence, Life, Story, hidden_from, judge
from ..member import Member, Settings, VipSettings, wait_ready
from ..pace import pace
from ..report import Report
from . import Check, Context

_EVERY_US = 2000
_REPLAY_MS = 20.0


@dataclass(frozen=True)
class Kill:
    """A kill and the load around it. Times are nanoseconds since 1970."""

    victim: str
    at: int
    back: int
    """When the others heard it again."""
    results: Results
    clock_offset: int

    def attempts(self, story: Story) -> Iterator[tuple[Connection, Life | None]]:
        """Every connection of the load, with its life in the captures."""
        for connection in self.results.connections:
            yield connection, story.life_of(connection.tuple, connection.opened - self.clock_offset)


def _kill(bed: Testbed, context: Context, number: int, victim: Member) -> Kill:
    """Kills this member and cuts it off under 500 connections a second, and brings it back."""
    log = context.home / f"load-{number}.log"
    # Long enough for a SYN to be sent again: that is to show as a repeated SYN, not as a failure.
    load = Client(bed.client.namespace, CLIENT_ADDRESSES, log, every_us=_EVERY_US, timeout_ms=4000)
    time.sleep(1)
    killed = time.time_ns()
    victim.kill(wait=False)
    bed.network.cut(victim.name)
    time.sleep(1.5)
    results = load.stop()
    bed.network.mend(victim.name)
    victim.kill()
    victim.start()
    wait_ready(bed.members)
    return Kill(victim.name, killed, time.time_ns(), results, bed.captures.clock_offset)


def judge_attempts(report: Report, kills: list[Kill], story: Story) -> None:
    """Nothing but what a victim owned may have failed, nor waited for a SYN to be sent again."""
    twins = story.twins()
    failed, repeated, owned, later = [], [], [], 0
    for number, kill in enumerate(kills, 1):
        for connection, life in kill.attempts(story):
            later += connection.opened - kill.clock_offset > kill.at
            if connection.tuple in twins:
                continue
            if life is not None and life.owner == kill.victim:
                owned += [(number, connection.tuple, life.owned_since)] if connection.error else []
                continue
            failed += [(number, connection.tuple, connection.error)] if connection.error else []
            repeated += [(number, connection.tuple)] if life is None or life.syns > 1 else []
    report.at_least("attempts begun after a kill", later, 600 * len(kills) / pace.load)
    report.equal("connections that failed, but for what a victim had accepted", failed, [])
    report.equal("connections that waited for a SYN to be sent again", repeated, [])
    # What is set aside as the victim's must have been made before it died.
    late = [entry for entry in owned if entry[2] > kills[entry[0] - 1].at + GRACE]
    report.equal("handshakes that a victim finished after its death", late, [])
    report.number("lost with the victim that had accepted them", len(owned))


def _absences(kills: list[Kill]) -> list[Absence]:
    return [Absence(kill.victim, kill.at, kill.back) for kill in kills]


def kill_k2(context: Context) -> None:
    """Two actives with a hedge; rank 0 and rank 1 are killed in turn."""
    report = context.report
    settings = Settings(vips=(VipSettings(options={"actives": "2", "hedge": "5ms"}),))
    with testbed(context.home, settings=settings) as bed:
        vmac = bed.vmac()
        kills = []
        for number in range(int(context.number("kills", 6))):
            kills.append(_kill(bed, context, number, bed.ranked(2)[number % 2]))
            # The one that has come back may be needed at the next kill.
            bed.ranked(2)
        absences = _absences(kills)
        story = judge(report, bed, vmac, absences=absences, cuts=hidden_from(absences, CLIENT_ADDRESSES))
    judge_attempts(report, kills, story)
    waits = [
        (life.owned_since - life.began) / 1e6
        for kill in kills
        for _, life in kill.attempts(story)
        if life is not None and life.owned_since and life.began > kill.at - 10**9
    ]
    report.number("handshakes around the kills, median and longest (ms)", [median(waits), max(waits)])
    doubled = sum(1 for life in story.all_lives() if len(life.answered_by()) > 1)
    report.number("handshakes that both actives answered (%)", 100 * doubled / len(story.all_lives()))


def _detection(kill: Kill, story: Story) -> tuple[float, float]:
    """From the victim's last heartbeat to the successor's first SYN-ACK; and the longest handshake around the kill."""
    last = max(beat for beat in story.heartbeats[kill.victim] if beat < kill.at + GRACE)
    lives = [life for _, life in kill.attempts(story) if life is not None and life.owner != kill.victim]
    answers = [
        syn_ack.time
        for life in lives
        for syn_ack in life.syn_acks
        # Before the victim's end another one may have been active for a moment too.
        if syn_ack.member != kill.victim and syn_ack.time > last
    ]
    waits = [life.owned_since - life.began for life in lives if life.owned_since]
    return (min(answers) - last) / 1e6, max(waits) / 1e6


def kill_replay(context: Context) -> None:
    """One active, 10 ms heartbeats: who knocks while nobody is active is let in as soon as somebody is."""
    report = context.report
    with testbed(context.home) as bed:
        vmac = bed.vmac()
        kills = [_kill(bed, context, number, bed.active()) for number in range(int(context.number("kills", 6)))]
        absences = _absences(kills)
        story = judge(report, bed, vmac, absences=absences, cuts=hidden_from(absences, CLIENT_ADDRESSES))
    judge_attempts(report, kills, story)
    seen = [_detection(kill, story) for kill in kills]
    report.number("detection and longest handshake of each kill (ms)", [[round(d, 1), round(w, 1)] for d, w in seen])
    if not context.number("timed", 1):
        return
    report.at_most("median detection", median(detection for detection, _ in seen), 60 * pace.heartbeats, "ms")
    for number, (detection, longest) in enumerate(seen, 1):
        report.at_most(f"kill {number}: longest handshake", longest, detection + _REPLAY_MS * pace.load, "ms")


CHECKS = [
    Check("kill-k2", "one of two actives killed: no new connection notices", kill_k2, {"kills": "2"}),
    # A machine's own pauses are as long as the time that handshakes have. That nobody waits for a SYN to be sent again
    # is judged in any case.
    Check(
        "kill-replay",
        "the one active killed: nobody waits longer than its detection",
        kill_replay,
        {"kills": "2", "timed": "0"},
    ),
]
