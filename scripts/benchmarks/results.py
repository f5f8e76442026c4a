"""Results: the JSON that is kept, and the table that people read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .plan import Plan, System

PERCENTILES = (50, 90, 99, 99.9, 99.99)


@dataclass(frozen=True)
class Summary:
    """A system's figures over all rounds."""

    system: str
    figure: float
    least: float
    most: float
    ratio: float | None
    """The median of the ratios to the baseline, each taken within a round."""
    ratio_least: float | None
    ratio_most: float | None


def summarise(values: dict[str, dict[int, float]], baseline: str) -> list[Summary]:
    """From each system's figure in each round."""
    summaries = []
    for system, rounds in values.items():
        base = values.get(baseline, {})
        ratios = [figure / base[number] for number, figure in rounds.items() if base.get(number)]
        figures = list(rounds.values())
        summaries.append(
            Summary(
                system,
                median(figures),
                min(figures),
                max(figures),
                median(ratios) if ratios else None,
                min(ratios, default=None),
                max(ratios, default=None),
            )
        )
    return summaries


def by_round(samples: list[dict[str, Any]], figure: str) -> dict[str, dict[int, float]]:
    """A figure of the samples by system and round."""
    values: dict[str, dict[int, float]] = {}
    for sample in samples:
        values.setdefault(str(sample["system"]), {})[int(sample["round"])] = float(sample[figure])
    return values


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as they need: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]

    def line(cells: list[str]) -> str:
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        return "  ".join([cells[0].ljust(widths[0]), *rest]).rstrip()

    return "\n".join([line(headings), line(["-" * width for width in widths]), *map(line, rows)])


def quantile(ordered: list[float], percent: float) -> float:
    """The smallest value that so many per cent of an ordered list do not exceed."""
    place = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(place)) - 1)]


def _measured(plan: Plan, samples: list[dict[str, Any]]) -> list[System]:
    """Those of the file's systems that there are samples of."""
    return [system for system in plan.systems if any(sample["system"] == system.name for sample in samples)]


def _ratio(summary: Summary) -> list[str]:
    if summary.ratio is None or summary.ratio_least is None or summary.ratio_most is None:
        return ["", ""]
    return [f"{summary.ratio:.3f}", f"{summary.ratio_least:.3f} to {summary.ratio_most:.3f}"]


def throughput_table(plan: Plan, samples: list[dict[str, Any]]) -> str:
    """Millions of frames a second."""
    passed, share = by_round(samples, "passed"), by_round(samples, "share")
    rows = []
    for summary in summarise(by_round(samples, "rate"), plan.baseline):
        name = summary.system
        rows.append(
            [
                name,
                f"{summary.figure / 1e6:.3f}",
                f"{summary.least / 1e6:.3f} to {summary.most / 1e6:.3f}",
                *_ratio(summary),
                f"{median(passed[name].values()):.1%}",
                f"{min(share[name].values()):.1%}",
            ]
        )
    headings = ["system", "million/s", "range", f"of {plan.baseline}", "range", "sent on", "least share"]
    return table(headings, rows)


def latency_table(plan: Plan, samples: list[dict[str, Any]]) -> str:
    """Microseconds, medians of the rounds."""
    rows = []
    for system in _measured(plan, samples):
        own = [sample for sample in samples if sample["system"] == system.name]
        cells = [f"{median(sample['percentiles'][str(p)] for sample in own) / 1000:.1f}" for p in PERCENTILES]
        lost = sum(int(sample["lost"]) for sample in own)
        rows.append([system.name, *cells, f"{max(float(s['longest']) for s in own) / 1000:.0f}", str(lost)])
    return table(["system, µs", *(f"p{p:g}" for p in PERCENTILES), "longest", "lost"], rows)


def failover_table(plan: Plan, samples: list[dict[str, Any]]) -> str:
    """Milliseconds without a connection accepted."""
    rows = []
    for system in _measured(plan, samples):
        own = [sample for sample in samples if sample["system"] == system.name]
        gaps = sorted(float(sample["gap"]) for sample in own)
        failed = [int(sample["failed"]) for sample in own]
        broken = [int(sample["broken"]) for sample in own if sample.get("broken") is not None]
        cells = [f"{value:.1f}" for value in (gaps[0], median(gaps), quantile(gaps, 90), gaps[-1])]
        usual = median(float(sample["usual"]) for sample in own)
        lost = [f"{sum(failed) / len(failed):.1f}", str(sum(broken)) if broken else "-"]
        rows.append([system.name, str(len(gaps)), *cells, f"{usual:.1f}", *lost])
    return table(["system, ms", "times", "least", "median", "p90", "most", "usual", "failed each", "broken"], rows)


TABLES = {"throughput": throughput_table, "latency": latency_table, "failover": failover_table}


def shortfalls(plan: Plan, samples: list[dict[str, Any]]) -> list[str]:
    """What fell short of what the file expects."""
    if plan.measure != "throughput" or not plan.least:
        return []
    found = []
    for summary in summarise(by_round(samples, "rate"), plan.baseline):
        least = plan.least.get(summary.system)
        if least is not None and (summary.ratio or 0) < least:
            found.append(f"{summary.system} reached {summary.ratio or 0:.1%} of {plan.baseline}; expected {least:.0%}")
    return found


def earlier(plan: Plan, file: Path) -> list[dict[str, Any]]:
    """The samples of an earlier run of the same benchmark, if there is one."""
    if not file.exists():
        return []
    content = json.loads(file.read_text(encoding="utf-8"))
    wanted = json.loads(json.dumps(_description(plan), default=str))
    different = [key for key, value in wanted.items() if key != "rounds" and content.get(key) != value]
    if different:
        raise SystemExit(f"{file} is of another benchmark: {', '.join(different)} differ; run without --append")
    samples: list[dict[str, Any]] = content["samples"]
    return samples


def write(plan: Plan, file: Path, machine: dict[str, object], samples: list[dict[str, Any]]) -> None:
    """All of it as JSON, raw samples included."""
    content = {**_description(plan), "machine": machine, "samples": samples}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def _description(plan: Plan) -> dict[str, object]:
    return {
        "benchmark": plan.name,
        "title": plan.title,
        "measure": plan.measure,
        "baseline": plan.baseline,
        "systems": {system.name: {system.kind: system.settings} for system in plan.systems},
        "traffic": {"frames": plan.traffic.frames, "mix": plan.traffic.mix, "sizes": plan.traffic.sizes,
                    "capture": plan.traffic.capture},
        "ports": {"wire": plan.wire, "host": plan.host},
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "huge_pages": plan.huge_pages,
        "rate": plan.rate,
        "event": plan.event,
        "events": plan.events,
    }
