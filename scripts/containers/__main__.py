"""The command line of docker/plain and docker/virtio."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial
from pathlib import Path

from testbed.report import Report, Skipped, run_check

from .show import play
from .stack import REPOSITORY, Stack, build_images, can_run
from .switch import DockerBridge, OpenVSwitch, Switch


def _body(options: argparse.Namespace, report: Report) -> None:
    missing = can_run()
    if missing:
        raise Skipped(missing)
    if not options.no_build:
        build_images()
    subnet = {"plain": "10.77.0", "virtio": "10.78.0"}[options.kind]
    logs = options.out / f"docker-{options.kind}"
    with Stack(options.kind, f"{subnet}.100", f"{subnet}.2", keep=options.keep, logs=logs) as stack:
        switch: Switch = DockerBridge(stack) if options.kind == "plain" else OpenVSwitch(stack)
        play(report, stack, switch)


def _interrupted(number: int, _: object) -> None:
    # Once is enough: the clean-up that follows is not to be interrupted by a second one.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    """Raises one of the two, plays the steps, takes it down; 0 if all held."""
    parser = argparse.ArgumentParser(prog="docker/KIND", description="baton in containers")
    parser.add_argument("kind", choices=["plain", "virtio"])
    parser.add_argument("--no-build", action="store_true", help="take the images as they are")
    parser.add_argument("--keep", action="store_true", help="leave it running in the end")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "target" / "testbed", help="results and logs")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    name = f"docker-{options.kind}"
    report = run_check(name, partial(_body, options), options.out / f"{name}.json")
    return 1 if report.outcome == "failed" else 0


if __name__ == "__main__":
    sys.exit(main())
