"""Large transfers through the VIP, with offloads off as on a physical wire."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from pathlib import Path

from ..cluster import Testbed, testbed
from ..judge import judge
from ..member import VIP, Member
from ..shell import Process, run, wait_until
from . import Check, Context

_MEGABYTE = 1_000_000
_LIMIT = 300


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write_random(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(_MEGABYTE))


def _curl(bed: Testbed, log: Path, *arguments: str) -> Process:
    command = ["curl", "-sS", "--fail", "--max-time", str(_LIMIT), *arguments]
    return Process(command, log=log, namespace=bed.client.namespace, stdout=subprocess.PIPE)


def _finish(transfer: Process) -> None:
    status = transfer.popen.wait(timeout=_LIMIT + 10)
    if status != 0:
        raise RuntimeError(f"curl ended with {status}: {transfer.log_text().strip()}")


def _offloads_on(bed: Testbed) -> list[str]:
    """Offloads that are on where none may be."""
    names = "tx-checksumming|tcp-segmentation-offload|generic-segmentation-offload|generic-receive-offload"
    on = []
    for host in bed.network.hosts.values():
        text = run(["ip", "netns", "exec", host.namespace, "ethtool", "-k", "eth0"])
        on += [f"{host.name} {name}" for name in re.findall(rf"^({names}): on", text, re.MULTILINE)]
    return on


def bulk_200mb(context: Context) -> None:
    """200 MB down, 200 MB up, and 200 MB down while the role moves; each arrives byte by byte."""
    report = context.report
    megabytes = int(context.number("megabytes", 200))
    source = context.home / "source"
    _write_random(source, megabytes)
    want = _digest(source)
    owners = []
    with testbed(context.home) as bed:
        vmac = bed.vmac()
        report.equal("offloads that are on", _offloads_on(bed), [])
        for member in bed.members:
            member.service.offer(source)
        owners.append(bed.active().name)
        _download(context, bed, "down", want)
        active = bed.active()
        owners.append(active.name)
        _upload(context, bed, source, want)
        owners.append(bed.active().name)
        _download(context, bed, "moving", want, move_to=bed.passives()[0])
        story = judge(report, bed, vmac)
    report.equal("owners of the connections", [life.owner for life in story.all_lives()], owners)


def _download(context: Context, bed: Testbed, name: str, want: str, *, move_to: Member | None = None) -> None:
    copy = context.home / name
    begun = time.monotonic()
    transfer = _curl(bed, context.home / f"{name}.log", "-o", str(copy), f"http://{VIP}/file")
    if move_to is not None:
        wait_until(lambda: copy.exists() and copy.stat().st_size > _MEGABYTE, "the transfer to run", timeout=10)
        move_to.activate()
        context.report.equal("the role moved while the transfer ran", transfer.alive(), True)
    _finish(transfer)
    seconds = time.monotonic() - begun
    context.report.equal(f"what arrived ({name}) has the right digest", _digest(copy), want)
    context.report.number(f"{name} (MB/s)", copy.stat().st_size / _MEGABYTE / seconds)
    copy.unlink()


def _upload(context: Context, bed: Testbed, source: Path, want: str) -> None:
    begun = time.monotonic()
    _finish(_curl(bed, context.home / "up.log", "-T", str(source), f"http://{VIP}/upload/up"))
    seconds = time.monotonic() - begun
    (arrived,) = [path for member in bed.members if (path := member.service.uploads / "up").exists()]
    context.report.equal("what arrived (up) has the right digest", _digest(arrived), want)
    context.report.number("up (MB/s)", arrived.stat().st_size / _MEGABYTE / seconds)
    arrived.unlink()


CHECKS = [Check("bulk-200mb", "200 MB in each direction arrive intact", bulk_200mb, {"megabytes": "80"})]
