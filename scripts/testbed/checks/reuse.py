"""A client uses a port again while what it had there before still lingers, on another member or on the same."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..clients.direct import ask, connect
from ..cluster import CLIENT_ADDRESSES, Testbed, testbed
from ..judge import Story, judge
from ..member import Member
from ..shell import run, wait_until
from . import Check, Context

_TCP_REPAIR = 19
_LINGER_ZERO = struct.pack("ii", 1, 0)
_FIRST_PORT = 20_000
# On another member nothing may delay the newcomer. On the same one the kernel itself asks the client (challenge ACK)
# before it lets an old connection go, and the client comes back a second later (RFC 5961, section 4).
_ELSEWHERE_MS, _SAME_MS = 250.0, 3500.0


@dataclass(frozen=True)
class _Leftover:
    """A way to leave something behind, and the socket states it may leave on the member."""

    name: str
    states: tuple[str, ...]


_LEFTOVERS = [
    _Leftover("entry only: reset by the client", ("none",)),
    _Leftover("established: the client vanished", ("ESTAB",)),
    _Leftover("time-wait: the server closed first", ("TIME-WAIT",)),
    _Leftover("sending: the client vanished amid an answer", ("ESTAB",)),
    _Leftover("fin-wait: the client vanished before the server's FIN", ("FIN-WAIT-1",)),
    _Leftover("last-ack: the client closed its half and vanished", ("LAST-ACK",)),
]


def _connect(bed: Testbed, source: str, port: int) -> tuple[socket.socket, float]:
    """A connection from a given port; and how long its handshake took, in ms."""
    begun = time.monotonic()
    handle = connect(bed.client.namespace, source, port)
    return handle, (time.monotonic() - begun) * 1000


def _vanish(handle: socket.socket) -> None:
    """The client's socket goes without a word, as if its machine had lost power."""
    handle.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
    handle.close()


@contextlib.contextmanager
def _deaf(bed: Testbed, port: int) -> Iterator[None]:
    """Meanwhile the client's kernel does not hear what comes for this port, as a machine without power would not."""
    nft = ["ip", "netns", "exec", bed.client.namespace, "nft"]
    rule = f"chain in {{ type filter hook prerouting priority -300; tcp dport {port} drop; }};"
    run([*nft, "-f", "-"], stdin=f"table ip deaf {{ {rule} }}\n")
    try:
        yield
    finally:
        run([*nft, "delete", "table", "ip", "deaf"])


def _socket_state(member: Member, source: str, port: int) -> str:
    """The state of the member's socket for this client, as `ss` names it."""
    text = member.host.run(["ss", "-Htan", f"dst = {source}:{port}"])
    return text.split()[0] if text.strip() else "none"


def _leave(bed: Testbed, old: socket.socket, leftover: _Leftover, port: int) -> contextlib.ExitStack:
    """Brings the old connection into its state. What is returned ends the client's deafness."""
    deaf = contextlib.ExitStack()
    kind = leftover.name.partition(":")[0]
    if kind == "entry only":
        old.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        old.close()
    elif kind == "established":
        deaf.enter_context(_deaf(bed, port))
        _vanish(old)
    elif kind == "time-wait":
        ask(old, "last", close=True)
        if old.recv(1) != b"":
            raise ConnectionError("more than was asked for")
        old.close()
    elif kind == "sending":
        # A small window keeps the server sending.
        old.sendall(b"GET /file HTTP/1.1\r\nHost: vip\r\n\r\n")
        old.recv(1000)
        deaf.enter_context(_deaf(bed, port))
        _vanish(old)
    elif kind == "fin-wait":
        deaf.enter_context(_deaf(bed, port))
        old.sendall(b"GET /who?x HTTP/1.1\r\nHost: vip\r\nConnection: close\r\n\r\n")
        _vanish(old)
    else:
        deaf.enter_context(_deaf(bed, port))
        old.shutdown(socket.SHUT_WR)
        _vanish(old)
    return deaf


def _reuse(context: Context, bed: Testbed, leftover: _Leftover, source: str, port: int, *, elsewhere: bool) -> None:
    report = context.report
    where = "elsewhere" if elsewhere else "the same member"
    holder = bed.active()
    old, _ = _connect(bed, source, port)
    first = ask(old, "first")
    deaf = _leave(bed, old, leftover, port)
    try:
        wait_until(
            lambda: _socket_state(holder, source, port) in leftover.states,
            f"the socket on {holder.name} to be {' or '.join(leftover.states)}",
            timeout=3,
        )
        newcomer = bed.passives()[0] if elsewhere else holder
        if elsewhere:
            newcomer.activate()
            bed.wait_active(newcomer)
        state = _socket_state(holder, source, port)
    finally:
        deaf.close()
    try:
        handle, took = _connect(bed, source, port)
        with handle:
            served = {ask(handle, f"again-{number}") for number in range(10)}
    except OSError as error:
        report.expect(f"{leftover.name}; {where}", f"{type(error).__name__}: {error}", "served", False)
        return
    limit = _ELSEWHERE_MS if elsewhere else _SAME_MS
    seen = f"{first} kept {state}, then {sorted(served)} after {took:.1f} ms"
    wanted = f"{newcomer.name} within {limit:g} ms"
    report.expect(f"{leftover.name}; {where}", seen, wanted, served == {newcomer.name} and took <= limit)


def _answers_of_others(story: Story, source: str) -> list[str]:
    """RSTs and pure ACKs that a member sent to a newcomer which another member came to own."""
    return [
        f"{host} to port {client[1]} flags {flags:#04x}"
        for host, client, flags in story.meddling
        if client[0] == source
    ]


def port_reuse(context: Context) -> None:
    """Every kind of leftover, on another member and on the same one."""
    report = context.report
    elsewhere, same = CLIENT_ADDRESSES[0], CLIENT_ADDRESSES[1]
    large = context.home / "large"
    large.write_bytes(bytes(20_000_000))
    with testbed(context.home) as bed:
        vmac = bed.vmac()
        for member in bed.members:
            member.service.offer(large)
        for number, leftover in enumerate(_LEFTOVERS):
            port = _FIRST_PORT + number
            _reuse(context, bed, leftover, elsewhere, port, elsewhere=True)
            _reuse(context, bed, leftover, same, port, elsewhere=False)
        story = judge(report, bed, vmac, resets_allowed=True)
    resets = [f"{reset.host} to {reset.client}" for reset in story.member_resets if reset.client[0] == elsewhere]
    report.equal("resets to newcomers on another member", resets, [])
    report.equal(
        "RSTs and challenge ACKs of members that do not own the newcomer", _answers_of_others(story, elsewhere), []
    )


CHECKS = [Check("port-reuse", "a reused port is served whatever lingers where", port_reuse, {})]
