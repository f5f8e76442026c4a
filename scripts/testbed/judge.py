"""What the captures say: the story of every connection, and the rules that hold in every check.

A connection's owner is the member whose SYN-ACK the client acknowledged first. From then on every segment of it that
another member sends is a stray. A client's tuple may live several times (reused ports): each SYN with a new initial
sequence number begins another life.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .cluster import Testbed
from .member import HEARTBEAT_ETHERTYPE, VIP
from .packets import ACK, FIN, RST, SYN, Frame, Tcp
from .report import Report

# A frame that left before its sender could know of the client's choice may still be on its way.
GRACE = 20_000_000
_SEQUENCE_SPACE = 1 << 32

ClientEnd = tuple[str, int]


@dataclass
class Life:
    """One life of a client's tuple. Times are nanoseconds since 1970."""

    client: ClientEnd
    initial_sequence: int
    began: int
    syns: int = 0
    syn_acks: list[tuple[str, int]] = field(default_factory=list)
    """(member, its initial sequence number), one per SYN-ACK on the wire."""
    owner: str = ""
    owned_since: int = 0

    def answered_by(self) -> set[str]:
        """The members that sent a SYN-ACK."""
        return {member for member, _ in self.syn_acks}

    def twins(self) -> bool:
        """Whether two members of this one kernel chose the same sequence number: then the connection has two
        owners, which members with kernels of their own would not have."""
        by_sequence: dict[int, set[str]] = {}
        for member, sequence in self.syn_acks:
            by_sequence.setdefault(sequence, set()).add(member)
        return any(len(members) > 1 for members in by_sequence.values())


@dataclass
class Reset:
    """A RST on the wire."""

    time: int
    host: str
    client: ClientEnd
    sequence: int


@dataclass
class Story:
    """What a set of captures shows."""

    lives: dict[ClientEnd, list[Life]] = field(default_factory=dict)
    member_resets: list[Reset] = field(default_factory=list)
    client_resets: list[Reset] = field(default_factory=list)
    strays: list[tuple[int, str, Tcp]] = field(default_factory=list)
    """Segments that a member other than the owner sent, more than GRACE after the client had chosen."""
    meddling: list[tuple[str, ClientEnd, int]] = field(default_factory=list)
    """RSTs and pure ACKs (host, client, flags) to a tuple's later life from a member that is not (yet) its owner."""
    sources: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(host, Ethernet source) of all frames."""
    gratuitous: Counter[str] = field(default_factory=Counter)
    """ARP messages that announce the VIP unasked, by host."""
    arp_answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(host, Ethernet source, MAC in the payload) of the ARP answers for the VIP."""
    heartbeats: dict[str, list[int]] = field(default_factory=dict)
    """Times of each host's heartbeats."""
    frames: int = 0

    def all_lives(self) -> list[Life]:
        """Every life of every tuple."""
        return [life for lives in self.lives.values() for life in lives]

    def syns(self) -> int:
        """SYNs the clients sent, repeated ones included."""
        return sum(life.syns for life in self.all_lives())

    def twins(self) -> set[ClientEnd]:
        """Tuples to be set aside, see Life.twins."""
        return {life.client for life in self.all_lives() if life.twins()}


def read_story(frames: Iterable[Frame]) -> Story:
    """Reads the captures once."""
    story = Story()
    for frame in frames:
        story.frames += 1
        story.sources[frame.host, frame.source] += 1
        if frame.ethertype == HEARTBEAT_ETHERTYPE:
            story.heartbeats.setdefault(frame.host, []).append(frame.time)
            continue
        segment = frame.tcp()
        if segment is not None:
            if segment.destination[0] == VIP:
                _from_client(story, frame, segment)
            elif segment.source[0] == VIP:
                _from_member(story, frame, segment)
            continue
        arp = frame.arp()
        if arp is not None and arp.sender_ip == VIP:
            if arp.target_ip == VIP:
                story.gratuitous[frame.host] += 1
            elif arp.operation == 2:
                story.arp_answers[frame.host, frame.source, arp.sender_mac] += 1
    return story


def _from_client(story: Story, frame: Frame, segment: Tcp) -> None:
    lives = story.lives.setdefault(segment.source, [])
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
    for member, sequence in life.syn_acks:
        if (sequence + 1) % _SEQUENCE_SPACE == segment.acknowledgement:
            life.owner, life.owned_since = member, frame.time
            return


def _from_member(story: Story, frame: Frame, segment: Tcp) -> None:
    lives = story.lives.get(segment.destination, [])
    if segment.flags & RST:
        story.member_resets.append(Reset(frame.time, frame.host, segment.destination, segment.sequence))
    elif segment.flags & SYN and lives:
        first = (lives[-1].initial_sequence + 1) % _SEQUENCE_SPACE
        if segment.acknowledgement == first:
            lives[-1].syn_acks.append((frame.host, segment.sequence))
    if not lives or lives[-1].owner == frame.host:
        return
    life = lives[-1]
    pure = segment.payload == 0 and not segment.flags & (SYN | FIN)
    # A first life's answers before the client has chosen are SYN-ACKs, or a refusal; a later one has a past to meddle.
    if pure and len(lives) > 1:
        story.meddling.append((frame.host, life.client, segment.flags))
    if life.owner and frame.time > life.owned_since + GRACE and not life.twins():
        story.strays.append((frame.time, frame.host, segment))


def judge(
    report: Report, bed: Testbed, vmac: str, *, resets_allowed: bool = False, orphans_allowed: bool = False
) -> Story:
    """Ends the captures, reads them, and expects of them what must hold in every check.

    `orphans_allowed`: members may reset clients of others that have died.
    """
    learnt = bed.table_watch.stop()
    story = read_story(bed.captures.frames())
    if orphans_allowed:
        resets_allowed = True
        story.strays = [stray for stray in story.strays if not stray[2].flags & RST]
    known = {host.mac for host in bed.network.hosts.values()}
    report.number("frames captured", story.frames)
    report.equal("frames lost by the captures", bed.captures.lost, 0)
    report.expect("the bridge learnt from its hosts", len(learnt & known), "some", bool(learnt & known))
    report.equal("the bridge's forwarding table ever held the vMAC", vmac in learnt, False)
    report.equal("frames with the vMAC as Ethernet source", _count(story.sources, vmac), 0)
    members = {member.name: member.host.mac for member in bed.members}
    foreign = {
        f"{host} sent as {source}": count
        for (host, source), count in story.sources.items()
        if host in members and source != members[host]
    }
    report.equal("frames of members with another Ethernet source than their own", foreign, {})
    report.equal("gratuitous ARP for the VIP", dict(story.gratuitous), {})
    wrong = {
        f"{host}: {inside} from {source}": count
        for (host, source, inside), count in story.arp_answers.items()
        if inside != vmac or source != members.get(host)
    }
    report.equal("ARP answers for the VIP that do not say vMAC from the member's own MAC", wrong, {})
    report.equal("segments from a member that does not own the connection", _name_strays(story), [])
    if not resets_allowed:
        twins = story.twins()
        resets = [f"{reset.host} to {reset.client}" for reset in story.member_resets if reset.client not in twins]
        report.equal("resets sent by members", resets, [])
        report.number("set aside: connections with two owners by one sequence number", len(twins))
    return story


def _count(sources: Counter[tuple[str, str]], mac: str) -> int:
    return sum(count for (_, source), count in sources.items() if source == mac)


def _name_strays(story: Story) -> list[str]:
    return [
        f"{host} to {segment.destination[0]}:{segment.destination[1]} flags {segment.flags:#04x} "
        f"seq {segment.sequence} ack {segment.acknowledgement}"
        for _, host, segment in story.strays
    ]
