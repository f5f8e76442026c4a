"""The benchmarks' command line."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import signal
import sys
from pathlib import Path

from testbed.__main__ import interrupted
from testbed.member import REPOSITORY

from . import machine, results
from .document import Fault
from .plan import Plan, load


def _check(files: list[Path]) -> int:
    status = 0
    for file in files:
        try:
            print(f"{file}: {load(file).title}")
        except Fault as fault:
            print(fault, file=sys.stderr)
            status = 2
    return status


def _samples(plan: Plan, home: Path) -> list[dict[str, object]]:
    # Imported here: a file can be checked without what measuring needs.
    if plan.measure == "throughput":
        from .throughput import measure
    elif plan.measure == "latency":
        from .latency import measure
    else:
        from .failover import measure
    return measure(plan, home)


def _run(plan: Plan, out: Path, only: list[str], append: bool) -> int:
    home = out / plan.name
    shutil.rmtree(home, ignore_errors=True)
    described = machine.describe()
    print(f"{plan.title}: {plan.rounds} rounds", flush=True)
    file = out / f"{plan.name}.json"
    samples = results.earlier(plan, file) if append else []
    chosen = [system for system in plan.systems if not only or system.name in only]
    more = _samples(dataclasses.replace(plan, systems=chosen), home)
    beyond = 1 + max((int(str(sample["round"])) for sample in samples), default=-1)
    samples += [{**sample, "round": int(str(sample["round"])) + beyond} for sample in more]
    results.write(plan, file, described, samples)
    print("\n" + results.TABLES[plan.measure](plan, samples) + "\n")
    from . import plot

    picture = plot.draw(plan, described, samples, out / f"{plan.name}.svg")
    print(f"{file}\n{picture}")
    short = results.shortfalls(plan, samples)
    for line in short:
        print(f"short: {line}", file=sys.stderr)
    return 1 if short else 0


def main() -> int:
    """Parses the command line and does as it says."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Runs a benchmark of configs/bench/.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="only say whether the files are right")
    parser.add_argument("--rounds", type=int, help="another number than the file's")
    parser.add_argument("--only", action="append", default=[], metavar="SYSTEM", help="only this one of the file's")
    parser.add_argument("--append", action="store_true", help="more rounds to those of an earlier run of this file")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target" / "bench", help="where results go")
    options = parser.parse_args()
    if options.check:
        return _check(options.files)
    if len(options.files) > 1:
        parser.error("one FILE at a time")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    try:
        plan = load(options.files[0])
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 2
    unknown = [name for name in options.only if name not in [system.name for system in plan.systems]]
    if unknown:
        parser.error(f"{options.files[0]} has no system {unknown[0]!r}")
    if options.rounds:
        plan = dataclasses.replace(plan, rounds=options.rounds)
    return _run(plan, options.out.resolve(), options.only, options.append)


if __name__ == "__main__":
    sys.exit(main())
