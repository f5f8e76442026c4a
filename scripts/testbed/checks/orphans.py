"""Clients of a member that is gone are told so; clients of one that only seems to be gone are left in peace."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..clients.control import long_connections
from ..clients.direct import ask, connect, request
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import Absence, Story, judge
from ..member import HEARTBEAT_ETHERTYPE, REPOSITORY, VIP, Member, Settings, VipSettings, wait_ready
from ..pace import pace
from ..shell import Process, run, wait_until
from . import Check, Context

_AFTER = 2.0
_EACH = 20
_SINK_PORT = 8080
# How long a patient may take to end what it began, in seconds.
_FINISH = 30


@dataclass
class _Orphan:
    """A connection whose owner dies. Times are monotonic seconds."""

    kind: str
    handle: socket.socket
    spoke: float = 0.0
    """When it sent its next data; 0 if it was told before."""
    told: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class _Kind:
    """What clients do next, and when: seconds after the death."""

    name: str
    after: float
    act: Callable[[socket.socket], object]


_KINDS = [
    _Kind("asks at once", 0.1, lambda handle: handle.send(request("next"))),
    _Kind("closes at once", 0.1, lambda handle: handle.shutdown(socket.SHUT_WR)),
    _Kind("asks a second later", 1.0, lambda handle: handle.send(request("next"))),
    _Kind("asks when long dead", _AFTER + 2, lambda handle: handle.send(request("next"))),
]
_WAITS = "only waits"


def _watch(orphans: list[_Orphan], death: float, until: float) -> None:
    """Lets each client do its next thing at its time, and takes down when it is told that its server is gone."""
    by_descriptor = {orphan.handle.fileno(): orphan for orphan in orphans}
    poll = select.poll()
    for orphan in orphans:
        orphan.handle.setblocking(False)
        poll.register(orphan.handle, select.POLLIN)
    due = sorted(((death + kind.after, kind) for kind in _KINDS), key=lambda entry: entry[0])
    while time.monotonic() < until:
        while due and due[0][0] <= time.monotonic():
            kind = due.pop(0)[1]
            for orphan in orphans:
                # One that has been told already says nothing more; one that is told just now shows below.
                if orphan.kind == kind.name and not orphan.told:
                    orphan.spoke = time.monotonic()
                    with contextlib.suppress(OSError):
                        kind.act(orphan.handle)
        for descriptor, _ in poll.poll(10):
            orphan = by_descriptor[descriptor]
            orphan.told = time.monotonic()
            try:
                orphan.error = "ended" if not orphan.handle.recv(4096) else "answered"
            except OSError as error:
                orphan.error = errno.errorcode.get(error.errno or 0, str(error))
            poll.unregister(descriptor)


def _orphan(context: Context, bed: Testbed, number: int, *, killed: bool) -> Absence:
    """A member goes, by SIGKILL and its cable or by SIGTERM, and its clients find out."""
    report, victim = context.report, bed.active()
    how = "killed" if killed else "stopped"
    source = CLIENT_ADDRESSES[2 + number]
    orphans = []
    for kind in [kind.name for kind in _KINDS] + [_WAITS]:
        for _ in range(_EACH):
            orphan = _Orphan(kind, connect(bed.client.namespace, source))
            ask(orphan.handle, "first")
            orphans.append(orphan)
    gone, death = time.time_ns(), time.monotonic()
    if killed:
        victim.kill(wait=False)
        bed.network.cut(victim.name)
    else:
        victim.stop()
    _watch(orphans, death, death + _KINDS[-1].after + _AFTER + 1.5)
    for kind in _KINDS:
        mine = [orphan for orphan in orphans if orphan.kind == kind.name]
        what = f"{how}, client {kind.name}"
        ends = sorted({orphan.error or "never told" for orphan in mine})
        report.equal(f"{what}: how it ended", ends, ["ECONNRESET"])
        waits = [orphan.told - orphan.spoke for orphan in mine if orphan.told and orphan.spoke]
        if waits:
            report.at_most(f"{what}: longest from its data to its reset", max(waits), _AFTER + 1, "s")
            report.number(f"{what}: shortest (s)", min(waits))
    told = [orphan for orphan in orphans if orphan.kind == _WAITS and orphan.error == "ECONNRESET"]
    report.number(f"{how}, client {_WAITS}: told, of {_EACH}", len(told))
    for orphan in orphans:
        orphan.handle.close()
    if killed:
        bed.network.mend(victim.name)
        victim.kill()
    back = time.time_ns()
    victim.start()
    wait_ready(bed.members)
    return Absence(victim.name, gone, back)


def orphans_dead(context: Context) -> None:
    """A member is killed and cut off; another one is stopped and does not come back."""
    report = context.report
    settings = Settings(vips=(VipSettings(options={"orphans": f"{{after: {_AFTER:g}s}}"}),))
    with testbed(context.home, settings=settings) as bed:
        vmac, where = bed.vmac(), bed.client.namespace
        # Others' connections, which nothing may happen to: of a member that keeps out of all this.
        spared = bed.members[2]
        spared.activate()
        bed.wait_active(spared)
        log = context.home / "spared.log"
        others = long_connections(where, CLIENT_ADDRESSES[:1], log, _EACH, gap_ms=50, timeout_ms=5000)
        absences = []
        for number, killed in enumerate((True, False)):
            bed.members[number].activate()
            bed.wait_active(bed.members[number])
            absences.append(_orphan(context, bed, number, killed=killed))
        kept = others.stop()
        story = judge(report, bed, vmac, absences=absences)
    report.equal("connections of another member that broke", kept.errors(), {})
    report.equal("members that served them", list(kept.served()), [spared.name])
    report.number("resets sent, by member", _resets(story))


def _resets(story: Story) -> dict[str, int]:
    hosts = [reset.host for reset in story.member_resets]
    return {host: hosts.count(host) for host in sorted(set(hosts))}


@dataclass
class _Patient:
    """A client that makes little or no progress though its server lives."""

    kind: str
    handle: socket.socket
    finish: Callable[[socket.socket], str]
    """Ends what it began; returns what is wrong, if anything."""


def _answers(handle: socket.socket) -> str:
    ask(handle, "last")
    return ""


def _stuff(handle: socket.socket, first: bytes) -> int:
    """Sends until nothing more goes; returns how many bytes."""
    handle.sendall(first)
    sent = len(first)
    handle.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += handle.send(bytes(65536))
    handle.settimeout(_FINISH)
    return sent


def _counted(sent: int) -> Callable[[socket.socket], str]:
    """The service got every byte."""

    def finish(handle: socket.socket) -> str:
        handle.shutdown(socket.SHUT_WR)
        arrived = int(handle.makefile().readline())
        return "" if arrived == sent else f"{arrived} of {sent} bytes arrived"

    return finish


def _downloaded(content: bytes) -> Callable[[socket.socket], str]:
    """The rest of the file comes, and it is right."""

    def finish(handle: socket.socket) -> str:
        received = bytearray()
        while data := handle.recv(1 << 20):
            received += data
        body = bytes(received).partition(b"\r\n\r\n")[2]
        return "" if body == content else f"{len(body)} of {len(content)} bytes, or wrong ones"

    return finish


def _admit(where: str, source: str, content: bytes) -> list[_Patient]:
    """Some of each kind, all to the active member."""
    patients = []
    for _ in range(5):
        idle, kept = connect(where, source), connect(where, source)
        for handle in (idle, kept):
            ask(handle, "first")
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        patients += [_Patient("idle", idle, _answers), _Patient("keep-alives only", kept, _answers)]
        full = connect(where, source, SO_RCVBUF=8192)
        full.settimeout(_FINISH)
        part = f"Range: bytes=0-{len(content) - 1}\r\n"
        full.sendall(f"GET /file HTTP/1.1\r\nHost: vip\r\n{part}Connection: close\r\n\r\n".encode())
        patients.append(_Patient("zero window", full, _downloaded(content)))
        for kind in ("slow", "waiting"):
            handle = connect(where, source, to=_SINK_PORT, SO_SNDBUF=32768)
            patients.append(_Patient(f"{kind} application", handle, _counted(_stuff(handle, kind[:1].encode()))))
    return patients


def _discharge(patients: list[_Patient]) -> dict[str, list[str]]:
    """Everybody ends what they began; returns what went wrong, by kind."""
    wrong: dict[str, list[str]] = {patient.kind: [] for patient in patients}
    for patient in patients:
        with patient.handle:
            try:
                outcome = patient.finish(patient.handle)
            except OSError as error:
                outcome = f"{type(error).__name__}: {error}"
        wrong[patient.kind] += [outcome] if outcome else []
    return wrong


@contextlib.contextmanager
def _lossy(namespace: str, address: str) -> Iterator[None]:
    """Meanwhile every other segment from the VIP to this address is lost on its way into the client."""
    nft = ["ip", "netns", "exec", namespace, "nft"]
    hook = "type filter hook prerouting priority -300"
    rule = f"ip saddr {VIP} ip daddr {address} numgen random mod 2 == 0 drop"
    run([*nft, "-f", "-"], stdin=f"table ip lossy {{ chain in {{ {hook}; {rule}; }}; }}\n")
    try:
        yield
    finally:
        run([*nft, "delete", "table", "ip", "lossy"])


def _download(bed: Testbed, source: str, copy: Path) -> Process:
    # Slow enough that none has ended before segments begin to be lost.
    curl = ["curl", "-sS", "--fail", "--max-time", "60", "--limit-rate", "2M", "--interface", source, "-o", str(copy)]
    return Process([*curl, f"http://{VIP}/file"], log=copy.with_suffix(".log"), namespace=bed.client.namespace)


def _begun(copy: Path) -> bool:
    return copy.exists() and copy.stat().st_size > 0


def _start_sink(member: Member, wait: float) -> Process:
    sink = member.host.start(
        [sys.executable, "-m", "testbed.clients.sink", "--port", str(_SINK_PORT), "--wait", str(wait)],
        log=member.home / "sink.log",
        environment={"PYTHONPATH": str(REPOSITORY / "scripts")},
    )
    wait_until(lambda: "ready" in sink.log_text(), "the slow service", timeout=5)
    return sink


def orphans_alive(context: Context) -> None:
    """The heartbeats of a live member are lost, and its clients make no progress for reasons of their own."""
    report = context.report
    ports = f"[80, {_SINK_PORT}]"
    settings = Settings(vips=(VipSettings(options={"ports": ports, "orphans": f"{{after: {_AFTER:g}s}}"}),))
    content = os.urandom(16_000_000)
    source = context.home / "content"
    source.write_bytes(content)
    seconds = _AFTER + context.number("seconds", 6)
    lossy = CLIENT_ADDRESSES[2]
    copies = [context.home / f"copy-{number}" for number in range(3)]
    with testbed(context.home, settings=settings) as bed:
        vmac, where, owner = bed.vmac(), bed.client.namespace, bed.active()
        owner.service.offer(source)
        sink = _start_sink(owner, seconds)
        busy = long_connections(where, CLIENT_ADDRESSES[:1], context.home / "busy.log", _EACH)
        patients = _admit(where, CLIENT_ADDRESSES[1], content[:2_000_000])
        downloads = [_download(bed, lossy, copy) for copy in copies]
        wait_until(lambda: all(map(_begun, copies)), "all downloads to run", timeout=5)
        with _lossy(where, lossy):
            bed.network.block_ethertype(HEARTBEAT_ETHERTYPE, [owner.name])
            wait_until(lambda: len(bed.actives()) == 2, "two active members", timeout=5)
            time.sleep(seconds)
            dead = [member.name for member in bed.members if member is not owner and owner.name in _dead_to(member)]
            report.equal("downloads that still run", sum(1 for each in downloads if each.alive()), len(downloads))
        report.equal("members that take it for dead", len(dead), 2)
        wrong = _discharge(patients)
        ends = [download.popen.wait(timeout=70) for download in downloads]
        kept = busy.stop()
        report.at_least("heartbeats the switch dropped", bed.network.unblock(), 100 / pace.heartbeats)
        wait_until(lambda: len(bed.actives()) == 1, "one active member again", timeout=5)
        sink.stop()
        judge(report, bed, vmac)
    for kind, outcomes in wrong.items():
        report.equal(f"{kind}: what went wrong", outcomes, [])
    report.equal("lossy downloads: how curl ended", ends, [0] * len(downloads))
    right = sum(1 for copy in copies if copy.exists() and copy.read_bytes() == content)
    report.equal("lossy downloads: those that arrived intact", right, len(copies))
    report.equal("busy connections that broke", kept.errors(), {})


def _dead_to(member: Member) -> list[str]:
    """The peers that a member takes for dead."""
    return [peer["name"] for peer in member.status()["peers"] if peer["state"] == "dead"]


CHECKS = [
    Check("orphans-dead", "a dead member's clients are reset soon after their next data", orphans_dead, {}),
    Check("orphans-alive", "no client of a live member is, when its heartbeats are lost", orphans_alive, {"seconds": "3"}),
]
