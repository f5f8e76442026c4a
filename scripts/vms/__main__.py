"""The rehearsal's command line."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from testbed import cluster
from testbed.__main__ import _interrupted
from testbed.checks import Check, Context, all_checks
from testbed.member import REPOSITORY, baton_binary, remove_tree
from testbed.pace import pace
from testbed.report import Report, Skipped, run_check
from testbed.topology import RUNS

from .checks import CHECKS
from .image import image
from .machine import DRIVERS, NICS, Kind, accelerator
from .site import Machines

_USUAL: dict[str, dict[str, str]] = {
    "setup": {},
    "own-address": {},
    "http-1000": {},
    "handover-50-long": {"moves": "2"},
    "kill-replay": {"kills": "1"},
    "kill-k2": {"kills": "2"},
    "split-brain": {"connections": "300"},
    "split-cookies": {"connections": "300"},
    "two-actives": {"connections": "300"},
    "two-actives-cookies": {"connections": "300"},
    "machine-dies": {},
}


def _checks() -> dict[str, Check]:
    return all_checks() | {check.name: check for check in CHECKS}


def _body(check: Check, out: Path, settings: dict[str, str], report: Report) -> None:
    home = out / check.name
    remove_tree(home)
    home.mkdir(parents=True)
    check.body(Context(report, home, settings))


def main() -> int:
    """Parses the command line and does as it says."""
    parser = argparse.ArgumentParser(prog="scripts/vm-rehearsal", description="baton in virtual machines, on PCI cards")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--nic", choices=NICS, default=NICS[0])
    parser.add_argument("--driver", choices=DRIVERS, default=DRIVERS[0])
    parser.add_argument("--accelerator", choices=["kvm", "tcg"])
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the checks")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target" / "vm" / "checks")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    out = (options.out / options.nic).resolve()
    out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    kind = Kind(options.nic, options.driver, options.accelerator or accelerator(image()))
    pace.kernels_apart = True
    if kind.accelerator == "tcg":
        pace.load, pace.heartbeats, pace.answers = 10, 10, 10
    reports = []
    with Machines(kind, image(), out / "machines", out) as machines:
        cluster.site = machines
        machines.boot(3)
        print(f"booted after {time.monotonic() - begun:.1f} s", flush=True)
        for name in options.names or _USUAL:
            settings = {**_USUAL.get(name, {}), **dict(entry.split("=", 1) for entry in options.set)}
            body = partial(_body, _checks()[name], out, settings)
            reports.append(run_check(name, body, out / f"{name}.json"))
            if reports[-1].passed and not options.keep:
                remove_tree(out / name)
    print(f"\nrehearsal on {options.nic} by {options.driver}, {kind.accelerator}, {time.monotonic() - begun:.0f} s:")
    for report in reports:
        print(f"  {report.outcome:8}{report.check}")
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
