"""The testbed's command line: `list`, `check NAME…`, `demo`, `clean`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from .checks import Check, Context, all_checks
from .member import REPOSITORY, baton_binary, remove_tree
from .pace import pace
from .report import Report, Skipped, run_check
from .topology import sweep

# Continuous integration runs on machines that stand still for longer than three heartbeats of 10 ms now and then. Where a
# check is not about time, that is not to be a death.
_QUICK_HEARTBEATS = "10"

TOOLS = ["ip", "bridge", "ss", "nft", "ethtool", "tcpdump", "nginx", "curl", "wrk", "ping", "sysctl"]


def _body(check: Check, out: Path, settings: dict[str, str], report: Report) -> None:
    if os.geteuid() != 0:
        raise Skipped("needs root, for network namespaces")
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise Skipped(f"not installed: {', '.join(missing)} (scripts/install-dependencies installs them)")
    if check.needs_baton:
        baton_binary()
    home = out / check.name
    remove_tree(home)
    home.mkdir(parents=True)
    check.body(Context(report, home, settings))


def _check(options: argparse.Namespace) -> int:
    checks = all_checks()
    names = options.names or [name for name, check in checks.items() if options.all or check.quick is not None]
    unknown = [name for name in names if name not in checks]
    if unknown:
        print(f"no such check: {', '.join(unknown)}; there are: {', '.join(checks)}", file=sys.stderr)
        return 2
    reports = []
    for name in names:
        settings = dict(entry.split("=", 1) for entry in options.set)
        if options.quick:
            settings = {"heartbeats": _QUICK_HEARTBEATS, **(checks[name].quick or {}), **settings}
        pace.heartbeats = float(settings.get("heartbeats", "1"))
        body = partial(_body, checks[name], options.out, settings)
        reports.append(run_check(name, body, options.out / f"{name}.json"))
        if reports[-1].passed and not options.keep:
            remove_tree(options.out / name)
    if len(reports) > 1:
        print("\nend-to-end checks:")
        for report in reports:
            print(f"  {report.outcome:8}{report.check}" + (f": {report.skipped}" if report.skipped else ""))
    return 1 if any(report.outcome == "failed" for report in reports) else 0


def _list() -> int:
    for check in all_checks().values():
        print(f"{check.name:22}{check.proves}")
    return 0


def interrupted(number: int, _: object) -> None:
    """What a signal does: everything is taken down."""
    # Once is enough: the clean-up that follows is not to be interrupted by a second one.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Parses the command line and does as it says."""
    parser = argparse.ArgumentParser(prog="testbed", description="baton's testbed in network namespaces")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the checks and what each proves")
    check = commands.add_parser("check", help="runs checks (those of continuous integration if none is named)")
    check.add_argument("names", nargs="*")
    check.add_argument("--all", action="store_true", help="every check")
    check.add_argument("--quick", action="store_true", help="in the size that continuous integration uses")
    check.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the check")
    check.add_argument("--out", type=Path, default=REPOSITORY / "target" / "testbed", help="results, logs, captures")
    check.add_argument("--keep", action="store_true", help="keep logs and captures of checks that passed")
    demo = commands.add_parser("demo", help="the show")
    demo.add_argument("--out", type=Path, default=REPOSITORY / "target" / "testbed")
    commands.add_parser("clean", help="removes what crashed runs left behind")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    if options.command == "list":
        return _list()
    if options.command == "check":
        return _check(options)
    if options.command == "demo":
        from .demo import demo as show

        return show(options.out / "demo")
    for swept in sweep():
        print(f"removed what run {swept} had left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
