"""The host port's kinds beside each other, and beside the kernel that has its card to itself."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from testbed import cluster
from testbed.checks import Check, Context
from testbed.cluster import Testbed, testbed
from testbed.member import VIP, Settings, VipSettings
from testbed.report import Report
from testbed.shell import inside, run, wait_until
from testbed.topology import SUBNET_PREFIX, Host

from .machine import HOST_PORTS
from .site import Machines

_PORT = 81
_MEGABYTE = 1 << 20
_BULK = Path(__file__).parent / "guest" / "bulk.py"
_ALONE = "kernel"
Transfer = Callable[[], tuple[float, int, int]]


def _connect(bed: Testbed) -> socket.socket:
    with inside(bed.client.namespace):
        return socket.create_connection((VIP, _PORT), timeout=60)


def _down(bed: Testbed, megabytes: int) -> tuple[float, int, int]:
    """MB/s, and how many bytes were sent and came."""
    into, count = bytearray(_MEGABYTE), 0
    with _connect(bed) as connection:
        begun = time.monotonic()
        connection.sendall(b"d")
        while some := connection.recv_into(into):
            count += some
        return megabytes / (time.monotonic() - begun), megabytes * _MEGABYTE, count


def _up(bed: Testbed, megabytes: int) -> tuple[float, int, int]:
    """The same; the server says how many came."""
    chunk = bytes(_MEGABYTE)
    with _connect(bed) as connection:
        begun = time.monotonic()
        connection.sendall(b"u")
        for _ in range(megabytes):
            connection.sendall(chunk)
        connection.shutdown(socket.SHUT_WR)
        count = int(connection.makefile().readline())
        return megabytes / (time.monotonic() - begun), megabytes * _MEGABYTE, count


def _counted(host: Host, direction: str) -> tuple[int, int]:
    """The host port's bytes and packets in the kernel: `tx` are those from the kernel."""
    paths = [f"/sys/class/net/vip0/statistics/{direction}_{what}" for what in ("bytes", "packets")]
    count, packets = host.run(["cat", *paths]).split()
    return int(count), int(packets)


def _watched(report: Report, way: str, host: Host, direction: str, transfer: Transfer) -> float:
    """MB/s of a transfer, all of which arrives, in segments that only a port with offloads exchanges with the kernel."""
    if way == _ALONE:
        speed, sent, came = transfer()
    else:
        before = _counted(host, direction)
        speed, sent, came = transfer()
        count, packets = (now - then for now, then in zip(_counted(host, direction), before, strict=True))
        # A frame of the MTU has 1,514.
        report.at_least(f"{way}: bytes in a packet, {direction} of the kernel", count / max(packets, 1), 3000)
    report.equal(f"{way}: bytes that came", came, sent)
    return speed


def _requests(bed: Testbed, seconds: int) -> tuple[float, str]:
    """Requests a second by 16 connections that are kept, and what wrk has to complain of."""
    wrk = ["wrk", "-t1", "-c16", f"-d{seconds}s", f"http://{VIP}/who?wrk"]
    said = run(["ip", "netns", "exec", bed.client.namespace, *wrk], timeout=seconds + 30)
    complaints = re.findall(r"^\s*(?:Socket errors|Non-2xx).*$", said, re.MULTILINE)
    rate = re.search(r"^Requests/sec:\s*([\d.]+)", said, re.MULTILINE)
    return float(rate[1]) if rate else 0.0, "; ".join(complaints)


def host_ports(context: Context) -> None:
    """Bulk and HTTP through each kind of host port, in turn; figures are medians of the rounds."""
    report, site = context.report, cluster.site
    assert isinstance(site, Machines)
    rounds, megabytes = int(context.number("rounds", 3)), int(context.number("megabytes", 64))
    usual, seen = site.host_port, {way: ([], [], []) for way in (_ALONE, *HOST_PORTS)}
    settings = Settings(vips=(VipSettings(options={"ports": f"[80, {_PORT}]"}),))
    try:
        for number in range(rounds):
            for way, figures in seen.items():
                site.host_port = usual if way == _ALONE else way
                home, alone = context.home / f"{way}-{number}", way == _ALONE
                with testbed(home, members=1, settings=settings, without_baton=alone, capture_filter="arp") as bed:
                    host = bed.members[0].host
                    host.start(["python3", str(_BULK), str(_PORT), str(megabytes)], log=home / "bulk.log")
                    wait_until(lambda: f":{_PORT} " in host.run(["ss", "-Htln"]), "the bulk server", timeout=20)
                    down = _watched(report, way, host, "tx", partial(_down, bed, megabytes))
                    up = _watched(report, way, host, "rx", partial(_up, bed, megabytes))
                    rate, complaints = _requests(bed, int(context.number("seconds", 5)))
                    if alone:
                        # Or scripts/setup takes it for one of the card's, and gives it back with the card.
                        host.run(["ip", "address", "delete", f"{VIP}/{SUBNET_PREFIX}", "dev", "eth0"])
                report.equal(f"{way}: what wrk complains of", complaints, "")
                for list_, figure in zip(figures, (down, up, rate), strict=True):
                    list_.append(figure)
    finally:
        site.host_port = usual
    for what, place in (("down (MB/s)", 0), ("up (MB/s)", 1), ("requests a second", 2)):
        for way, figures in seen.items():
            report.number(f"{way}: {what}", median(figures[place]))
            report.number(f"{way}: {what}, range", f"{min(figures[place]):.1f} to {max(figures[place]):.1f}")
        ratios = [one / other for one, other in zip(seen["vhost-net"][place], seen["tap"][place], strict=True)]
        report.number(f"vhost-net of tap: {what}", median(ratios))


CHECKS = [Check("host-ports", "the kinds of host port carry bulk and HTTP; how fast, beside each other", host_ports, {})]
