"""A check's result: what was expected, what was seen, as lines for people and as JSON for machines."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class Skipped(Exception):
    """A check cannot run here; the message says what is missing."""


@dataclass
class Expectation:
    """One thing that had to hold."""

    what: str
    seen: Any
    wanted: str
    holds: bool


@dataclass
class Report:
    """Filled in by a check while it runs."""

    check: str
    expectations: list[Expectation] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    error: str = ""
    skipped: str = ""

    def expect(self, what: str, seen: Any, wanted: str, holds: bool) -> None:
        """Records whether something held, and says so."""
        self.expectations.append(Expectation(what, seen, wanted, holds))
        mark = "ok  " if holds else "FAIL"
        print(f"  {mark} {what}: {_short(seen)}" + ("" if holds else f" (wanted {wanted})"), flush=True)

    def equal(self, what: str, seen: Any, wanted: Any) -> None:
        """Expects exactly this value."""
        self.expect(what, seen, _short(wanted), seen == wanted)

    def at_most(self, what: str, seen: float, limit: float, unit: str = "") -> None:
        """Expects no more than this."""
        self.expect(f"{what}{f' ({unit})' if unit else ''}", round(seen, 3), f"at most {limit:g}", seen <= limit)

    def at_least(self, what: str, seen: float, limit: float, unit: str = "") -> None:
        """Expects no less than this."""
        self.expect(f"{what}{f' ({unit})' if unit else ''}", round(seen, 3), f"at least {limit:g}", seen >= limit)

    def number(self, what: str, value: Any) -> None:
        """A measurement without a limit."""
        self.numbers[what] = value
        print(f"       {what}: {_short(value)}", flush=True)

    @property
    def passed(self) -> bool:
        """Whether something was expected and all of it held."""
        return bool(self.expectations) and not self.error and all(entry.holds for entry in self.expectations)

    @property
    def outcome(self) -> str:
        """passed, failed or skipped."""
        if self.skipped:
            return "skipped"
        return "passed" if self.passed else "failed"

    def write(self, path: Path) -> None:
        """As JSON."""
        content = {
            "check": self.check,
            "outcome": self.outcome,
            "seconds": round(time.monotonic() - self.started, 1),
            "expectations": [asdict(entry) for entry in self.expectations],
            "numbers": self.numbers,
            "error": self.error,
            "skipped": self.skipped,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1, default=str) + "\n")


def run_check(name: str, body: Callable[[Report], None], result: Path) -> Report:
    """Runs a check's body, so that whatever goes wrong is its result."""
    report = Report(name)
    print(f"{name}:", flush=True)
    try:
        body(report)
    except Skipped as reason:
        report.skipped = str(reason)
        print(f"  skipped: {reason}", flush=True)
    except Exception as error:  # A check that breaks has failed, and the next one still runs.
        report.error = f"{type(error).__name__}: {error}"
        traceback.print_exc()
        print(f"  FAIL {report.error}", file=sys.stderr, flush=True)
    report.write(result)
    print(f"{report.outcome}: {name} ({time.monotonic() - report.started:.1f} s)", flush=True)
    return report


def _short(value: Any) -> str:
    text = f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return text if len(text) < 300 else text[:300] + " …"
