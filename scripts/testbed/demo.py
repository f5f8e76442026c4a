"""The show: three members, real HTTP traffic, a planned handover, a killed member, and what a user would ask of it.

On a terminal a table is redrawn in place; elsewhere a line is printed every second. It went well if nothing failed
but requests that the killed member had already accepted.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from .checks.kill import outage
from .clients.control import Client, Connection, Results
from .cluster import CLIENT_ADDRESSES, Testbed, testbed
from .member import VIP, Member, remove_tree
from .shell import CommandFailed

_BOLD, _DIM, _GREEN, _RED, _YELLOW, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"
# A table wider than the window is cut off, not wrapped: wrapped lines would shift what is redrawn.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_EVERY_US = 4000
_LONG_CONNECTIONS = 20


@dataclass
class _Show:
    """What is on the screen."""

    bed: Testbed
    short: Client
    long: Client
    terminal: bool = field(default_factory=sys.stdout.isatty)
    events: list[str] = field(default_factory=list)
    drawn: int = 0
    began: float = field(default_factory=time.monotonic)
    last: dict[str, int] = field(default_factory=dict)
    last_at: float = field(default_factory=time.monotonic)
    last_line: float = 0.0

    def say(self, event: str) -> None:
        """Adds an event."""
        line = f"{time.monotonic() - self.began:5.1f} s  {event}"
        self.events.append(line)
        if not self.terminal:
            print(line, flush=True)

    def play(self, seconds: float) -> None:
        """Lets time pass, drawing."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.draw()
            time.sleep(0.2)

    def draw(self) -> None:
        """The table, or now and then a line."""
        short, long = self.short.poll(), self.long.poll()
        served: dict[str, int] = short.get("served", {})
        if not self.terminal and time.monotonic() - self.last_line < 1:
            return
        self.last_line = now = time.monotonic()
        rates = {name: (count - self.last.get(name, 0)) / (now - self.last_at) for name, count in served.items()}
        self.last, self.last_at = dict(served), now
        rows = [self._row(member, served, rates, long.get("served", {})) for member in self.bed.members]
        foot = (
            f"requests sent {short.get('opened', 0)}   failed {short.get('failed', 0)}   "
            f"longest wait just now {short.get('longest_ms', 0.0):.1f} ms   "
            f"long connections open {long.get('open', 0)}, broken {long.get('failed', 0)}"
        )
        if not self.terminal:
            print("        " + "; ".join(" ".join(row.plain()) for row in rows) + "; " + foot, flush=True)
            return
        header = (
            f"  {'member':8}{'role':10}{'term':>5}{'connections':>13}{'served':>9}{'a second':>12}{'on long ones':>14}"
        )
        lines = [
            f"{_BOLD}baton: three members behind {VIP} on one Linux bridge{_PLAIN}",
            "",
            _DIM + header + _PLAIN,
            *(row.coloured() for row in rows),
            "",
            "  " + foot,
            "",
            *("  " + event for event in self.events[-6:]),
        ]
        if self.drawn:
            sys.stdout.write(f"\x1b[{self.drawn}A")
        sys.stdout.write(_NO_WRAP + "".join(f"\x1b[2K{line}\n" for line in lines) + _WRAP)
        sys.stdout.flush()
        self.drawn = len(lines)

    def _row(self, member: Member, served: dict[str, int], rates: dict[str, float], on_long: dict[str, int]) -> _Row:
        row = _Row(member.name, "killed", "", "", served.get(member.name, 0), rates.get(member.name, 0.0))
        row.on_long = on_long.get(member.name, 0)
        if member.process is not None and member.process.alive():
            try:
                vip = member.vip()
            except (CommandFailed, json.JSONDecodeError):
                row.role = "unknown"
                return row
            row.role, row.term = vip["role"], str(vip["term"])
            row.connections = str(vip["connections"]["established"])
        return row


@dataclass
class _Row:
    member: str
    role: str
    term: str
    connections: str
    served: int
    rate: float
    on_long: int = 0

    def plain(self) -> list[str]:
        return [self.member, self.role, f"served {self.served}"]

    def coloured(self) -> str:
        colour = {"active": _GREEN, "passive": _DIM, "killed": _RED}.get(self.role, _YELLOW)
        return (
            f"  {self.member:8}{colour}{self.role:10}{_PLAIN}{self.term:>5}{self.connections:>13}"
            f"{self.served:>9}{self.rate:>12.0f}{self.on_long:>14}"
        )


def demo(home: Path) -> int:
    """Plays the show; the exit status says whether it went well."""
    remove_tree(home)
    home.mkdir(parents=True)
    print("raising a switch, three members and a client in network namespaces …", flush=True)
    with testbed(home) as bed:
        where = bed.client.namespace
        long = Client(
            where,
            CLIENT_ADDRESSES[:1],
            home / "long.log",
            opens=_LONG_CONNECTIONS,
            requests=0,
            gap_ms=50,
            timeout_ms=3000,
            progress_ms=200,
        )
        # Like any client, it waits for its kernel to send a SYN again, which takes a second.
        short = Client(
            where, CLIENT_ADDRESSES[1:], home / "short.log", every_us=_EVERY_US, timeout_ms=3000, progress_ms=200
        )
        show = _Show(bed, short, long)
        first = bed.active()
        show.say(f"{first.name} is active; {_LONG_CONNECTIONS} long connections and 250 new ones a second")
        show.play(6)
        second = bed.passives()[0]
        handed_over = time.monotonic_ns()
        second.activate()
        show.say(
            f"planned handover: `baton activate` on {second.name}; it serves what is new, {first.name} what it has"
        )
        show.play(6)
        killed = time.monotonic_ns()
        second.kill(wait=False)
        bed.network.cut(second.name)
        dead = time.monotonic_ns()
        show.say(f"{second.name} killed with SIGKILL, its cable cut")
        show.play(1)
        third = bed.active()
        show.say(f"{third.name} is active")
        show.play(6)
        results = short.stop()
        kept = long.stop()
    return _summary(results, kept, handed_over, (killed, dead), second.name)


def _between(results: Results, start: int, end: int) -> dict[str, int]:
    return Results([c for c in results.connections if start <= c.opened < end]).served()


def _ms(value: float) -> str:
    return f"{value:.1f} ms"


def _summary(results: Results, kept: Results, handed_over: int, death: tuple[int, int], victim: str) -> int:
    killed, dead = death
    met = outage(results, killed)

    def lost_with_victim(connection: Connection) -> bool:
        # Its handshake was completed before the victim was dead and cut off, long before its death can be noticed: nobody
        # else may answer it.
        return 0 < connection.connected <= dead

    lost = [c for c in results.failed() if lost_with_victim(c)]
    failed = [c for c in results.failed() if not lost_with_victim(c)]
    forever = 1 << 63
    around = [c.longest for c in results.connections if abs(c.opened - handed_over) < 500_000_000]
    rows = {
        "requests sent": len(results.connections),
        "failed": len(failed),
        f"accepted by {victim} and lost with it": len(lost),
        "longest wait, planned handover": _ms(max(around, default=0) / 1e6),
        "longest wait, kill": _ms(max((c.longest for c in results.connections if not c.error), default=0) / 1e6),
        "new connections accepted again after the kill within": _ms(met.gap),
        "served before the handover": _between(results, 0, handed_over),
        "served between handover and kill": _between(results, handed_over, killed),
        "served after the kill": _between(results, killed, forever),
        "long connections, broken": f"{len(kept.connections)}, {len(kept.failed())}",
        "requests on the long connections": sum(kept.served().values()),
    }
    print("\nwhat happened:")
    for what, value in rows.items():
        text = ", ".join(f"{name}: {count}" for name, count in value.items()) if isinstance(value, dict) else value
        print(f"  {what:54}{text}")
    well = not failed and not kept.failed() and victim not in _between(results, killed + 10**9, forever)
    for error, count in {**results.errors(), **kept.errors()}.items():
        print(f"  {'error':54}{error} ({count})")
    print("\nit went well" if well else "\nit did NOT go well")
    return 0 if well else 1
