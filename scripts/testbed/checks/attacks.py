"""Heartbeats that must not be believed: another key, replayed ones, and a second node of the same name."""

from __future__ import annotations

import socket
import time
from typing import Any

from ..cluster import Testbed, testbed
from ..judge import judge
from ..member import HEARTBEAT_ETHERTYPE, Settings, wait_ready, write_key
from ..pace import pace
from ..shell import inside
from . import Check, Context

_ETH_P_ALL = 3
_REJECTED = ("wrong_key", "replayed", "old_incarnation", "duplicate_name", "malformed", "other_version")
_WATCH = 3.0


class _Recorder:
    """Everything of the heartbeats' type that the members send, as the switch's ports see it."""

    def __init__(self, bed: Testbed) -> None:
        self._sockets = []
        for member in bed.members:
            with inside(bed.network.switch):
                handle = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            # Of all types: a bridge takes a frame from its port before sockets of one type are asked.
            handle.bind((member.host.port, _ETH_P_ALL))
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            handle.setblocking(False)
            self._sockets.append(handle)

    def take(self) -> list[bytes]:
        """What has been recorded since the last time, in order per member."""
        frames = []
        for handle in self._sockets:
            while True:
                try:
                    frame, address = handle.recvfrom(2000)
                except BlockingIOError:
                    break
                # Only what comes in from the member, not what the bridge floods out to it.
                if address[2] != socket.PACKET_OUTGOING and address[1] == HEARTBEAT_ETHERTYPE:
                    frames.append(frame)
        return frames


def _inject(bed: Testbed, frames: list[bytes]) -> None:
    """Sends frames from the outsider, byte by byte as they were, at a pace that no queue overflows by."""
    with inside(bed.network.hosts["x1"].namespace):
        handle = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with handle:
        handle.bind(("eth0", 0))
        for frame in frames:
            handle.send(frame)
            time.sleep(0.0005)


def _rejections(bed: Testbed) -> dict[str, int]:
    """Rejected heartbeats of all members, by reason."""
    counts = [member.status()["heartbeats"] for member in bed.members]
    return {reason: sum(int(count[reason]) for count in counts) for reason in _REJECTED}


def _view(bed: Testbed) -> dict[str, Any]:
    """What no forged heartbeat may change: roles, terms, and who is known and alive.

    A suspect is alive: on shared cores a heartbeat is late now and then, and nothing hangs on it.
    """
    view = {}
    for member in bed.members:
        status = member.status()
        vip = status["vips"][0]
        peers = sorted((peer["name"], peer["state"].replace("suspect", "alive")) for peer in status["peers"])
        view[member.name] = (vip["role"], vip["term"], vip["actives"], peers, status["draining"])
    return view


class _Steady:
    """Watches that an attack changes nothing, and which counters it raises."""

    def __init__(self, context: Context, bed: Testbed, attack: str) -> None:
        self._report, self._bed, self._attack = context.report, bed, attack
        self._view, self._before = _view(bed), _rejections(bed)
        self._changes: list[str] = []

    def watch(self, seconds: float) -> None:
        """Looks again and again."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = _view(self._bed)
            if now != self._view and len(self._changes) < 3:
                self._changes.append(f"{self._view} became {now}")
            time.sleep(0.05)

    def judge(self, reasons: tuple[str, ...], at_least: float) -> None:
        """Nothing has changed, and `status` shows at least so many rejections for one of these reasons."""
        self._report.equal(f"{self._attack}: changes of roles, terms or peers", self._changes, [])
        after = _rejections(self._bed)
        rise = {
            reason: after[reason] - self._before[reason] for reason in _REJECTED if after[reason] > self._before[reason]
        }
        counted = sum(rise.get(reason, 0) for reason in reasons)
        wanted = f"at least {at_least:g} as {' or '.join(reasons)}"
        self._report.expect(f"{self._attack}: rejections shown by status", rise, wanted, counted >= at_least)


def heartbeat_attacks(context: Context) -> None:
    """Every attack changes nothing and shows in `status`."""
    settings, many = Settings(cluster="attacked"), 100 / pace.heartbeats
    with testbed(context.home, settings=settings) as bed:
        vmac = bed.vmac()
        bed.network.add_host("x1", 1)
        recorder = _Recorder(bed)
        old = _record_a_run(bed, recorder)
        context.report.at_least("heartbeats recorded of the first run", len(old), many)
        for member in bed.members:
            member.start()
        wait_ready(bed.members)
        bed.active()
        recorder.take()

        attack = _Steady(context, bed, "recorded before a restart of all members")
        _inject(bed, old)
        attack.watch(_WATCH)
        # Each frame reaches three members; those of a member itself it may count in its own way, or not at all.
        attack.judge(("replayed", "old_incarnation", "duplicate_name"), len(old))

        attack = _Steady(context, bed, "replayed within the same run")
        time.sleep(0.5)
        fresh = recorder.take()
        context.report.at_least("heartbeats recorded of the second run", len(fresh), many)
        time.sleep(0.2)
        _inject(bed, fresh)
        attack.watch(_WATCH)
        attack.judge(("replayed", "old_incarnation", "duplicate_name"), len(fresh))

        attack = _Steady(context, bed, "altered by one bit")
        _inject(bed, [_altered(frame) for frame in fresh])
        attack.watch(_WATCH)
        attack.judge(("wrong_key", "malformed"), len(fresh))

        _wrong_key(context, bed, settings)
        _same_name(context, bed, settings)
        judge(context.report, bed, vmac)


def _record_a_run(bed: Testbed, recorder: _Recorder) -> list[bytes]:
    """Heartbeats of a whole run with high terms, goodbyes included; afterwards all members are down."""
    for member in [*bed.members, bed.members[0]]:
        member.activate()
        bed.wait_active(member)
        time.sleep(0.2)
    for member in bed.members:
        member.stop()
    return recorder.take()


def _altered(frame: bytes) -> bytes:
    """One bit of the authenticated content flipped (beyond the Ethernet header and the fixed start of the format)."""
    position = len(frame) - 20
    return frame[:position] + bytes([frame[position] ^ 0x01]) + frame[position + 1 :]


def _wrong_key(context: Context, bed: Testbed, settings: Settings) -> None:
    stranger = bed.add_member("s4", 14, write_key(bed.network.directory / "other.key"), settings)
    attack = _Steady(context, bed, "a member with another key")
    stranger.start()
    attack.watch(_WATCH)
    stranger.kill()
    attack.judge(("wrong_key",), 100 / pace.heartbeats)


def _same_name(context: Context, bed: Testbed, settings: Settings) -> None:
    name = bed.active().name
    double = bed.add_member("s5", 15, bed.key, settings)
    double.write_config(bed.key, node=name)
    attack = _Steady(context, bed, f"a second node named {name}")
    double.start()
    attack.watch(_WATCH)
    double.kill()
    attack.judge(("duplicate_name",), 100 / pace.heartbeats)


CHECKS = [
    Check("heartbeat-attacks", "wrong keys, replays and doubles change nothing and show", heartbeat_attacks, {}),
]
