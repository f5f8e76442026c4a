"""The rehearsal's command line."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

from testbed import cluster
from testbed.__main__ import TOOLS, interrupted
from testbed.checks import Check, Context, all_checks
from testbed.member import REPOSITORY, baton_binary, remove_tree
from testbed.pace import pace
from testbed.report import Report, Skipped, run_check

from .checks import CHECKS
from .image import image
from .machine import DRIVERS, HOST_PORTS, NICS, Kind, accelerator
from .site import Machines

# What runs where nothing is named, with the settings that make it short.
_USUAL: dict[str, dict[str, str]] = {
    "setup": {},
    "own-address": {},
    "http-1000": {},
    "handover-50-long": {"moves": "2"},
    "kill-replay": {"kills": "1"},
    "kill-k2": {"kills": "2"},
    "split-brain": {"connections": "200"},
    "split-cookies": {"connections": "200"},
    "two-actives": {"connections": "200"},
    "two-actives-cookies": {"connections": "200"},
    "machine-dies": {},
}


def _body(check: Check, out: Path, settings: dict[str, str], report: Report) -> None:
    home = out / check.name
    remove_tree(home)
    home.mkdir(parents=True)
    check.body(Context(report, home, settings))


def _kind(options: argparse.Namespace) -> Kind:
    """What to rehearse on; raises Skipped if this machine cannot."""
    if os.geteuid() != 0:
        raise Skipped("needs root, for network namespaces and TAPs")
    missing = [tool for tool in (*TOOLS, "qemu-system-x86_64", "modprobe") if shutil.which(tool) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)} (scripts/install-dependencies --vms installs them)")
    baton_binary()
    return Kind(options.nic, options.driver, options.accelerator or accelerator(image()))


def _rehearse(options: argparse.Namespace, kind: Kind, checks: dict[str, Check]) -> list[Report]:
    out = (options.out / f"{kind.nic}-{kind.driver}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    begun, reports = time.monotonic(), []
    with Machines(kind, image(), out / "machines", out) as machines:
        cluster.site = machines
        machines.host_port = options.host_port
        machines.boot(3)
        took = time.monotonic() - begun
        print(f"three machines with {kind.nic} by {kind.accelerator}, up after {took:.1f} s", flush=True)
        for name in options.names or _USUAL:
            settings = {**_USUAL.get(name, {}), **dict(entry.split("=", 1) for entry in options.set)}
            body = partial(_body, checks[name], out, settings)
            reports.append(run_check(name, body, out / f"{name}.json"))
            if reports[-1].passed and not options.keep:
                remove_tree(out / name)
    return reports


def main() -> int:
    """Parses the command line and does as it says."""
    about = "members in virtual machines, on PCI cards"
    own = ", ".join(check.name for check in CHECKS)
    parser = argparse.ArgumentParser(prog="scripts/vm-rehearsal", description=about)
    parser.add_argument("names", nargs="*", metavar="CHECK", help=f"one of the testbed's, or {own}")
    parser.add_argument("--nic", choices=NICS, default=NICS[0])
    parser.add_argument("--driver", choices=DRIVERS, default=DRIVERS[0], help="who gives the card to baton")
    parser.add_argument("--host-port", choices=HOST_PORTS, default=HOST_PORTS[0], help="what leads to the guest's kernel")
    parser.add_argument("--accelerator", choices=["kvm", "tcg"], help="instead of what the machine can")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the checks")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target" / "vm", help="results, logs, captures")
    parser.add_argument("--keep", action="store_true", help="keep logs and captures of checks that passed")
    options = parser.parse_args()
    checks = all_checks() | {check.name: check for check in CHECKS}
    unknown = [name for name in options.names if name not in checks]
    if unknown:
        print(f"no such check: {', '.join(unknown)}; there are: {', '.join(checks)}", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    begun = time.monotonic()
    try:
        kind = _kind(options)
    except (Skipped, FileNotFoundError) as reason:
        print(f"the rehearsal cannot be: {reason}", file=sys.stderr)
        return 1
    pace.kernels_apart = True
    if kind.accelerator == "tcg":
        pace.load, pace.patience, pace.heartbeats, pace.answers = 10, 4, 20, 10
    reports = _rehearse(options, kind, checks)
    with_port = f"{kind.nic} by {kind.driver}, host port {options.host_port}, {kind.accelerator}"
    print(f"\nrehearsal with {with_port}, {time.monotonic() - begun:.0f} s:")
    for report in reports:
        print(f"  {report.outcome:8}{report.check}")
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
