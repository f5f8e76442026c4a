"""What the captures say: the story of every connection, and the rules that hold in every check.

A connection's owner is the member whose SYN-ACK the client acknowledged first. From then on every segment of it that
another member sends is a stray. A client's tuple may live several times (reused ports): each SYN with a new initial
sequence number begins another life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .cluster import Testbed
from .member import HEARTBEAT_ETHERTYPE, VIP
from .pace import pace
from .packets import ACK, FIN, RST, SYN, Frame, Tcp
from .report import Report

# A frame that left before its sender could know of the client's choice may still be on its way.
GRACE = 20_000_000
_SEQUENCE_SPACE = 1 << 32

ClientEnd = tuple[str, int]


@dataclass(frozen=True)
class SynAck:
    """A SYN-ACK on the wire."""

    member: str
    sequence: int
    time: int


@dataclass(frozen=True)
class Absence:
    """A member's time without a word: dead, stopped, or its heartbeats lost. Nanoseconds since 1970.

    It goes on until the member's first heartbeat after `until`: whoever is just being started is not back yet.
    """

    member: str
    since: int
    until: int

    def ends(self, story: Story) -> int:
        """When the others could know that it is back."""
        back = (beat for beat in story.heartbeats.get(self.member, []) if beat >= self.until)
        return next(back, self.until) + GRACE


@dataclass(frozen=True)
class Cut:
    """While nothing passed between a member and some clients: parted, or dead. Nanoseconds since 1970."""

    member: str
    clients: frozenset[str]
    since: int
    until: int

    def hid_choice(self, stray: Stray) -> bool:
        """Whether the member says this because the client's choice of another never reached it: it repeats its SYN-ACK, or
        goes on with the tuple's earlier connection, which its host has not seen end, or in its TIME_WAIT."""
        client = stray.segment.destination[0]
        repeated = stray.segment.flags & (SYN | ACK | RST) == SYN | ACK
        missed = self.since <= stray.chosen + GRACE and stray.chosen <= self.until
        return (repeated or stray.lingering) and missed and stray.host == self.member and client in self.clients


@dataclass
class Life:
    """One life of a client's tuple. Times are nanoseconds since 1970."""

    client: ClientEnd
    initial_sequence: int
    began: int
    syns: int = 0
    syn_acks: list[SynAck] = field(default_factory=list)
    """In the order of time, repeated ones included."""
    owner: str = ""
    owned_since: int = 0
    last: int | None = None
    """What acknowledges the client's FIN."""
    owner_closed: bool = False
    over: bool = False
    """Both ends have closed, and the client knows: its socket is gone."""

    def answered_by(self) -> set[str]:
        """The members that sent a SYN-ACK."""
        return {syn_ack.member for syn_ack in self.syn_acks}

    def into(self, acknowledgement: int) -> int:
        """How far after this life's start a number is that acknowledges what the client sent."""
        return (acknowledgement - self.initial_sequence) % _SEQUENCE_SPACE

    def twins(self) -> bool:
        """Whether two members of this one kernel chose the same sequence number: then the connection has two
        owners. It is set aside, but not where members have kernels of their own."""
        if pace.kernels_apart:
            return False
        by_sequence: dict[int, set[str]] = {}
        for syn_ack in self.syn_acks:
            by_sequence.setdefault(syn_ack.sequence, set()).add(syn_ack.member)
        return any(len(members) > 1 for members in by_sequence.values())


@dataclass
class Reset:
    """A RST on the wire."""

    time: int
    host: str
    client: ClientEnd
    sequence: int
    owner: str = ""
    """Who owned the connection then."""
    foreign: bool = False
    """A member sent it that did not own the connection, more than GRACE after the client had chosen."""


@dataclass
class Stray:
    """A segment from a member that does not own the connection, more than GRACE after the client had chosen."""

    time: int
    host: str
    segment: Tcp
    chosen: int
    """When the client chose its owner."""
    lingering: bool
    """It is of an earlier connection, which this member had."""


@dataclass
class Story:
    """What a set of captures shows."""

    lives: dict[ClientEnd, list[Life]] = field(default_factory=dict)
    member_resets: list[Reset] = field(default_factory=list)
    client_resets: list[Reset] = field(default_factory=list)
    afterthoughts: int = 0
    """Resets with which a client answered what was said once more of connections that were over."""
    strays: list[Stray] = field(default_factory=list)
    """No resets: those are among `member_resets`."""
    meddling: list[tuple[str, ClientEnd, int]] = field(default_factory=list)
    """RSTs and pure ACKs (host, client, flags) to a tuple's later life from a member that is not (yet) its owner."""
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(host, Ethernet source) of all frames."""
    gratuitous: Counter[str] = field(default_factory=Counter)
    """ARP messages that announce the VIP unasked, by host."""
    arp_answers: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    """(host, Ethernet source, VIP, MAC in the payload) of the ARP answers for a VIP."""
    heartbeats: dict[str, list[int]] = field(default_factory=dict)
    """Times of each host's heartbeats."""
    frames: int = 0
    last_spoke: dict[str, int] = field(default_factory=dict)
    """When each host sent its last frame so far."""
    stood_still: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The last stretch in which a host sent nothing at all for longer than an answer may take, heartbeats included."""

    def all_lives(self) -> list[Life]:
        """Every life of every tuple."""
        return [life for lives in self.lives.values() for life in lives]

    def life_of(self, client: ClientEnd, opened: int) -> Life | None:
        """The life that a client's socket began which it opened at this time (nanoseconds since 1970)."""
        # Two clocks are compared here that were read one after the other.
        return next((life for life in self.lives.get(client, []) if life.began >= opened - 1_000_000), None)

    def life_at(self, client: ClientEnd, time: int) -> Life | None:
        """The life of a client's tuple at a time: the last that had begun (nanoseconds since 1970)."""
        return next((life for life in reversed(self.lives.get(client, [])) if life.began <= time), None)

    def syns(self) -> int:
        """SYNs the clients sent, repeated ones included."""
        return sum(life.syns for life in self.all_lives())

    def twins(self) -> set[ClientEnd]:
        """Tuples to be set aside, see Life.twins."""
        return {life.client for life in self.all_lives() if life.twins()}


def read_story(frames: Iterable[Frame], vips: Iterable[str] = (VIP,)) -> Story:
    """Reads the captures once. Clients of several VIPs have to have different addresses."""
    vips = frozenset(vips)
    story = Story()
    for frame in frames:
        story.frames += 1
        story.sources[frame.host, frame.source] += 1
        spoke = story.last_spoke.get(frame.host, frame.time)
        if frame.time - spoke > GRACE * pace.answers:
            story.stood_still[frame.host] = (spoke, frame.time)
        story.last_spoke[frame.host] = frame.time
        if frame.ethertype == HEARTBEAT_ETHERTYPE:
            story.heartbeats.setdefault(frame.host, []).append(frame.time)
            continue
        segment = frame.tcp()
        if segment is not None:
            if segment.destination[0] in vips:
                _from_client(story, frame, segment)
            elif segment.source[0] in vips:
                _from_member(story, frame, segment)
            continue
        arp = frame.arp()
        if arp is not None and arp.sender_ip in vips:
            if arp.target_ip == arp.sender_ip:
                story.gratuitous[frame.host] += 1
            elif arp.operation == 2:
                story.arp_answers[frame.host, frame.source, arp.sender_ip, arp.sender_mac] += 1
    return story


def _from_client(story: Story, frame: Frame, segment: Tcp) -> None:
    lives = story.lives.setdefault(segment.source, [])
    # If the owner acknowledges the client's FIN twice, the second may come when the client's socket is gone. What an emulated
    # processor says late may be older than that.
    late = lives and lives[-1].over and (pace.answers > 1 or segment.sequence == lives[-1].last)
    if segment.flags & RST and late:
        story.afterthoughts += 1
        return
    if segment.flags & FIN and lives:
        lives[-1].last = (segment.sequence + segment.payload + 1) % _SEQUENCE_SPACE
    if segment.flags & RST:
        story.client_resets.append(Reset(frame.time, frame.host, segment.source, segment.sequence))
        return
    if segment.flags & SYN:
        if not lives or lives[-1].initial_sequence != segment.sequence:
            lives.append(Life(segment.source, segment.sequence, frame.time))
        lives[-1].syns += 1
        return
    if not lives or lives[-1].owner or not segment.flags & ACK:
        return
    life = lives[-1]
    if (segment.sequence - life.initial_sequence) % _SEQUENCE_SPACE == 0:
        return
    for syn_ack in life.syn_acks:
        if (syn_ack.sequence + 1) % _SEQUENCE_SPACE == segment.acknowledgement:
            life.owner, life.owned_since = syn_ack.member, frame.time
            return


def _deadline(story: Story, life: Life, frame: Frame, segment: Tcp) -> float:
    """Until when a segment of another member than the owner may still leave. An emulated processor gets more time for a
    first answer, counted from when it moved again if it stood still while the client chose."""
    first_answer = segment.flags & (SYN | RST) == SYN and frame.host not in life.answered_by()
    if not first_answer or pace.answers <= 1:
        return life.owned_since + GRACE
    still_from, still_until = story.stood_still.get(frame.host, (0, 0))
    still = still_from <= life.owned_since + GRACE and life.owned_since < still_until
    return (still_until if still else life.owned_since) + GRACE * pace.answers


def _from_member(story: Story, frame: Frame, segment: Tcp) -> None:
    lives = story.lives.get(segment.destination, [])
    life = lives[-1] if lives else Life(segment.destination, 0, frame.time)
    foreign = bool(life.owner) and life.owner != frame.host and frame.time > _deadline(story, life, frame, segment)
    if segment.flags & RST:
        reset = Reset(frame.time, frame.host, segment.destination, segment.sequence, life.owner, foreign)
        story.member_resets.append(reset)
    elif segment.flags & SYN and lives:
        first = (life.initial_sequence + 1) % _SEQUENCE_SPACE
        if segment.acknowledgement == first:
            life.syn_acks.append(SynAck(frame.host, segment.sequence, frame.time))
    if life.owner == frame.host:
        life.owner_closed |= bool(segment.flags & FIN)
        life.over = life.owner_closed and life.last == segment.acknowledgement
    if not lives or life.owner == frame.host:
        return
    pure = segment.payload == 0 and not segment.flags & (SYN | FIN)
    # A first life's answers before the client has chosen are SYN-ACKs, or a refusal; a later one has a past to meddle.
    if pure and len(lives) > 1:
        story.meddling.append((frame.host, life.client, segment.flags))
    if foreign and not segment.flags & RST and not life.twins():
        meant = min(lives, key=lambda life: life.into(segment.acknowledgement))
        lingering = meant is not life and meant.owner == frame.host
        story.strays.append(Stray(frame.time, frame.host, segment, life.owned_since, lingering))


def hidden_from(absences: Iterable[Absence], clients: Iterable[str]) -> list[Cut]:
    """Of members that were dead: what these clients chose meanwhile they cannot know. A SYN that reached a member's kernel
    just before the kill is answered again once the member is back, since the kernel lives on (docs/decisions.md)."""
    everyone = frozenset(clients)
    return [Cut(absence.member, everyone, absence.since, absence.until) for absence in absences]


def judge(
    report: Report,
    bed: Testbed,
    vmac: str | Mapping[str, str],
    *,
    resets_allowed: bool = False,
    absences: Iterable[Absence] = (),
    cuts: Iterable[Cut] = (),
) -> Story:
    """Ends the captures, reads them, and expects of them what must hold in every check.

    `vmac` is the VIP's virtual MAC, or each VIP's. Others may reset what an absent member owned. Who was cut from a client
    when it chose another may repeat its SYN-ACK, or go on with a connection before it, and the client's kernel may refuse
    that; all are set aside. What else may be reset with `resets_allowed` is for the check to say, but never is it a
    connection of another member.
    """
    vmacs = {VIP: vmac} if isinstance(vmac, str) else vmac
    learnt = bed.table_watch.stop()
    story = read_story(bed.captures.frames(), vmacs)
    known = {host.mac for host in bed.network.hosts.values()}
    report.number("frames captured", story.frames)
    report.equal("frames lost by the captures", bed.captures.lost, 0)
    report.expect("the bridge learnt from its hosts", len(learnt & known), "some", bool(learnt & known))
    report.equal("the bridge's forwarding table ever held the vMAC", not learnt.isdisjoint(vmacs.values()), False)
    _judge_sources(report, story, vmacs, {member.name: member.host.mac for member in bed.members})
    _set_aside_hidden(report, story, list(cuts))
    report.equal("segments from a member that does not own the connection", _name_strays(story), [])
    _judge_resets(report, story, list(absences), resets_allowed=resets_allowed)
    report.number("set aside: connections with two owners by one sequence number", len(story.twins()))
    if story.afterthoughts:
        report.number("resets of clients to what was said late on connections that were over", story.afterthoughts)
    return story


def _set_aside_hidden(report: Report, story: Story, cuts: list[Cut]) -> None:
    if not cuts:
        return
    hidden = [stray for stray in story.strays if any(cut.hid_choice(stray) for cut in cuts)]
    story.strays = [stray for stray in story.strays if stray not in hidden]
    # RFC 9293, 3.10.7.1: the number that the SYN-ACK acknowledges is the refusal's own.
    refused = {(stray.segment.destination, stray.segment.acknowledgement) for stray in hidden}
    story.client_resets = [reset for reset in story.client_resets if (reset.client, reset.sequence) not in refused]
    report.number("set aside: segments of who was cut from the client's choice", len(hidden))


def _judge_sources(report: Report, story: Story, vmacs: Mapping[str, str], members: dict[str, str]) -> None:
    forged = sum(count for (_, source), count in story.sources.items() if source in vmacs.values())
    report.equal("frames with the vMAC as Ethernet source", forged, 0)
    foreign = {
        f"{host} sent as {source}": count
        for (host, source), count in story.sources.items()
        if host in members and source != members[host]
    }
    report.equal("frames of members with another Ethernet source than their own", foreign, {})
    report.equal("gratuitous ARP for the VIP", dict(story.gratuitous), {})
    wrong = {
        f"{host}: {vip} is at {inside} from {source}": count
        for (host, source, vip, inside), count in story.arp_answers.items()
        if inside != vmacs[vip] or source != members.get(host)
    }
    report.equal("ARP answers for the VIP that do not say vMAC from the member's own MAC", wrong, {})


def _judge_resets(report: Report, story: Story, absences: list[Absence], *, resets_allowed: bool) -> None:
    twins = story.twins()
    single = [reset for reset in story.member_resets if reset.client not in twins]
    away = [(absence, absence.ends(story)) for absence in absences]
    living = [reset for reset in single if not any(_orphaned(reset, absence, end) for absence, end in away)]
    foreign = [_name_reset(reset) for reset in living if reset.foreign]
    report.equal("resets from a member that does not own the connection", foreign, [])
    if not resets_allowed:
        report.equal("resets sent by members", [_name_reset(reset) for reset in living], [])
    if absences:
        report.number("resets of what absent members owned", len(single) - len(living))


def _orphaned(reset: Reset, absence: Absence, end: int) -> bool:
    """Whether another member reset a connection of this one while it was away."""
    return reset.owner == absence.member != reset.host and absence.since <= reset.time <= end


def _name_reset(reset: Reset) -> str:
    return f"{reset.host} to {reset.client}, which {reset.owner or 'nobody'} owned"


def _name_strays(story: Story) -> list[str]:
    return [
        f"{stray.host} to {stray.segment.destination} flags {stray.segment.flags:#04x} "
        f"seq {stray.segment.sequence} ack {stray.segment.acknowledgement}"
        for stray in story.strays
    ]
