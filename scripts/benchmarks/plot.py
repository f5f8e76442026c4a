"""The picture of a benchmark, as SVG."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
# Text stays text: small files that can be searched, in the reader's fonts.
matplotlib.rcParams.update({"svg.fonttype": "none", "font.size": 9})
matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})

from matplotlib import pyplot  # noqa: E402 (the backend first)

from .plan import Plan  # noqa: E402
from .results import by_round, summarise  # noqa: E402


def draw(plan: Plan, machine: dict[str, Any], samples: list[dict[str, Any]], file: Path) -> Path:
    """Draws it and returns the file."""
    rows = len(_names(plan, samples)) if plan.measure == "failover" else len(plan.systems)
    figure = pyplot.figure(figsize=(7.2, max(2.4, 1.2 + (0.28 if plan.measure == "failover" else 0.42) * rows)))
    if plan.measure == "failover":
        _failover(figure, plan, samples)
    else:
        {"throughput": _throughput, "latency": _latency}[plan.measure](figure.subplots(), plan, samples)
    figure.axes[0].set_title(plan.title, loc="left", fontsize=10)
    about = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, DPDK {machine['dpdk']}"
    figure.text(0.01, 0.01, about, fontsize=6, color="0.4")
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(file, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return file


def _names(plan: Plan, samples: list[dict[str, Any]]) -> list[str]:
    """Of the systems that there are samples of."""
    return [system.name for system in plan.systems if any(sample["system"] == system.name for sample in samples)]


def _throughput(axes: Any, plan: Plan, samples: list[dict[str, Any]]) -> None:
    """A bar for each system's median, a dot for each round, the ratio written beside."""
    rates = by_round(samples, "rate")
    for place, summary in enumerate(summarise(rates, plan.baseline)):
        colour = "0.7" if summary.system == plan.baseline else "tab:blue"
        axes.barh(place, summary.figure / 1e6, color=colour, height=0.6)
        dots = [rate / 1e6 for rate in rates[summary.system].values()]
        axes.plot(dots, [place] * len(dots), "k.", ms=3)
        ratio = f"{summary.ratio:.2f}" if summary.ratio is not None else ""
        axes.annotate(ratio, (summary.most / 1e6, place), xytext=(5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rates)), list(rates))
    axes.invert_yaxis()
    axes.set_xlabel(f"million frames a second on one core (beside: part of {plan.baseline}, within rounds)")
    axes.margins(x=0.12)


def _latency(axes: Any, plan: Plan, samples: list[dict[str, Any]]) -> None:
    """Latency over the percentile, as HdrHistogram's own plots have it: 90 %, 99 %, … at equal distances."""
    for name in _names(plan, samples):
        own = [sample for sample in samples if sample["system"] == name]
        for number, sample in enumerate(own):
            colour, width = f"C{_names(plan, samples).index(name)}", 1.2 if number == 0 else 0.5
            line = axes.plot(*_percentiles(sample["recorded"]), color=colour, lw=width)
            line[0].set_label(name if number == 0 else None)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 10, 100, 1000, 10000], ["0", "p50", "p90", "p99", "p99.9", "p99.99"])
    axes.set_ylabel("µs")
    axes.grid(True, which="major", lw=0.3)
    axes.legend(frameon=False, fontsize=8)
    axes.figure.set_size_inches(7.2, 4)


def _percentiles(recorded: list[list[int]]) -> tuple[list[float], list[float]]:
    """The curve of a histogram: 1 / (1 - part), and the µs that this part did not exceed."""
    total, below = sum(count for _, count in recorded), 0
    across, up = [], []
    for value, count in recorded:
        below += count
        if below < total:
            across.append(total / (total - below))
            up.append(value / 1000)
    return across, up


def _failover(figure: Any, plan: Plan, samples: list[dict[str, Any]]) -> None:
    """A row for each system: a dot for each event's outage, a stroke at their median; beside it the attempts lost."""
    names = _names(plan, samples)
    kinds = [next(system.kind for system in plan.systems if system.name == name) for name in names]
    outages, losses = figure.subplots(1, 2, sharey=True, width_ratios=[2.6, 1])
    for row, (name, kind) in enumerate(zip(names, kinds)):
        own = [sample for sample in samples if sample["system"] == name]
        colour = f"C{list(dict.fromkeys(kinds)).index(kind)}"
        gaps = sorted(float(sample["gap"]) for sample in own)
        # One beside the other where they are many: up and down by turns, so that equal ones are seen.
        heights = [row + (number % 5 - 2) * 0.09 for number in range(len(gaps))]
        outages.plot(gaps, heights, ".", color=colour, ms=4, alpha=0.6, mec="none")
        outages.plot([median(gaps)] * 2, [row - 0.36, row + 0.36], color=colour, lw=1.6)
        lost = sum(int(sample["failed"]) for sample in own) / len(own)
        broken = [int(sample["broken"]) for sample in own if sample.get("broken") is not None]
        losses.barh(row, lost, color=colour, height=0.6)
        shown = f"{lost:.1f}" if lost < 10 else f"{lost:.0f}"
        said = f"{shown}, {sum(broken) / len(broken):.0f} broken" if broken else shown
        losses.annotate(said, (lost, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    outages.set_yticks(range(len(names)), names)
    outages.invert_yaxis()
    outages.set_xscale("log")
    outages.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    outages.set_xlabel("ms without a connection accepted")
    outages.grid(True, axis="x", which="major", lw=0.3)
    losses.set_xscale("symlog", linthresh=1)
    # Room for what is written behind the longest.
    losses.set_xlim(0, 50_000)
    losses.set_xlabel("attempts lost, each time")
    losses.set_xticks([0, 1, 10, 100, 1000], ["0", "1", "10", "100", "1000"], fontsize=7)
    losses.tick_params(axis="y", left=False)
