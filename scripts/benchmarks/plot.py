"""The picture of a benchmark, as SVG."""

from __future__ import annotations

from pathlib import Path
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
    figure, axes = pyplot.subplots(figsize=(7.2, max(2.4, 1.2 + 0.42 * len(plan.systems))))
    {"throughput": _throughput, "latency": _latency, "failover": _failover}[plan.measure](axes, plan, samples)
    axes.set_title(plan.title, loc="left", fontsize=10)
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


def _failover(axes: Any, plan: Plan, samples: list[dict[str, Any]]) -> None:
    """The distribution of the outages: what part of them was no longer than this."""
    for name in _names(plan, samples):
        gaps = sorted(float(sample["gap"]) for sample in samples if sample["system"] == name)
        steps = [(number + 1) / len(gaps) for number in range(len(gaps))]
        axes.step([gaps[0], *gaps], [0, *steps], where="post", label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ms without a connection accepted (an attempt every 2 ms)")
    axes.set_ylabel("part of the events")
    axes.grid(True, which="major", lw=0.3)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.figure.set_size_inches(7.2, 4)
