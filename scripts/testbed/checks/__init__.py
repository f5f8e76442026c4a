"""The checks, by name: each proves one line of what baton promises, on a testbed of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..report import Report


@dataclass
class Context:
    """What a check is given."""

    report: Report
    home: Path
    """An empty directory for logs and captures."""
    settings: dict[str, str] = field(default_factory=dict)
    """What `--set NAME=VALUE` said."""

    def number(self, name: str, default: float) -> float:
        """A setting as a number."""
        return float(self.settings.get(name, default))


@dataclass(frozen=True)
class Check:
    """A check and what it proves."""

    name: str
    proves: str
    body: Callable[[Context], None]
    quick: dict[str, str] | None
    """Settings for continuous integration; None: not part of it."""
    needs_baton: bool = True


def all_checks() -> dict[str, Check]:
    """Every check, in the order they run in."""
    # Imported here, as each of them imports what is above.
    from . import answers, attacks, bulk, configs, dead, flood, handover, http, idle, kill, orphans, package, pause
    from . import restart, reuse, selftest, soak, split, switch, takeover, vips

    first = (selftest, configs, answers, http, handover, kill, takeover, split, switch, vips)
    modules = (*first, bulk, restart, package, pause, orphans, reuse, attacks, dead, idle, flood, soak)
    return {check.name: check for module in modules for check in module.CHECKS}
