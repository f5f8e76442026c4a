"""What of the benchmarks can be tested without measuring: files that are wrong, figures, tables, pictures.

    PYTHONPATH=scripts python3 -m unittest benchmarks.selftest
"""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from . import results
from .document import Fault
from .plan import Plan, load

_RIGHT = """\
measure: throughput
systems:
  5tswap: {testpmd: 5tswap}
  baton: {baton: {held: 10}}
traffic: {mix: {established: 50%, syn: 50%}, frames: 100}
expect: {baton: 50%}
"""


def _plan(text: str, name: str = "bench.yaml") -> Plan:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / name
        file.write_text(text)
        return load(file)


class Files(unittest.TestCase):
    """What may be in a file, and what is said of what may not."""

    def test_a_right_file_is_read(self) -> None:
        plan = _plan(_RIGHT)
        self.assertEqual([system.kind for system in plan.systems], ["testpmd", "baton"])
        self.assertEqual((plan.baseline, plan.wire, plan.least), ("5tswap", "pcap", {"baton": 0.5}))
        self.assertEqual((plan.traffic.count("established"), plan.traffic.count("foreign")), (50, 0))

    def test_a_wrong_file_is_told_of_with_its_line(self) -> None:
        wrong = [
            (_RIGHT.replace("measure: throughput", "measure: speed"), 1, "there is no 'speed'", "throughput, latency"),
            (_RIGHT.replace("5tswap}", "6tswap}"), 3, "there is no '6tswap'", "5tswap"),
            (_RIGHT.replace("held: 10", "holds: 10"), 4, "no such key", "connections, held"),
            (_RIGHT.replace("held: 10", "held: 10 M"), 4, "not a whole number", "from 0 to"),
            (_RIGHT.replace("held: 10", "held: 2000000"), 4, "do not fit the table", "connections"),
            (_RIGHT.replace("syn: 50%", "syn: 40%"), 5, "the shares make 90", "100%"),
            (_RIGHT.replace("syn: 50%", "syn: half"), 5, "not a percentage", "such as 25%"),
            (_RIGHT.replace("{baton: 50%}", "{batan: 50%}"), 6, "no such key", "5tswap, baton"),
            (_RIGHT.replace("5tswap: {", "baton: {"), 4, "twice", "once"),
            (_RIGHT + "ports: {wire: token-ring}\n", 7, "there is no 'token-ring'", "pcap, null"),
            (_RIGHT + "seconds: 3\n", 7, "not a duration", "500ms or 2s"),
            (_RIGHT + "systems: [\n", 8, "", "YAML"),
            ("measure: throughput\n", 1, "systems is missing", "mapping of names"),
            ("", 1, "empty", "mapping"),
        ]
        for text, line, what, expected in wrong:
            with self.subTest(what), self.assertRaises(Fault) as told:
                _plan(text)
            message = str(told.exception)
            self.assertIn(f"bench.yaml:{line}: ", message)
            self.assertIn(what, message)
            self.assertIn(expected, message.rpartition("expected ")[2])

    def test_a_cluster_has_settings_of_its_own(self) -> None:
        text = "measure: failover\nsystems:\n  shares: {xt_cluster: {advert: 10ms}}\n"
        self.assertEqual(_plan(text).systems[0].settings, {"advert": 0.01})
        for wrong in ("advert: 5ms", "heartbeat: 10ms", "advert: 10ms, dead_ratio: 1"):
            with self.subTest(wrong), self.assertRaises(Fault) as told:
                _plan(text.replace("advert: 10ms", wrong))
            self.assertIn("bench.yaml:3: ", str(told.exception))

    def test_the_kernel_has_no_replayed_capture(self) -> None:
        with self.assertRaises(Fault):
            _plan(_RIGHT.replace("{testpmd: 5tswap}", "{kernel: bridge}"))


class Figures(unittest.TestCase):
    """Ratios, quantiles, tables, pictures."""

    def test_ratios_are_taken_within_a_round(self) -> None:
        # The machine was twice as fast in the second round, which is nothing of the systems'.
        values = {"5tswap": {0: 10.0, 1: 20.0, 2: 10.0}, "baton": {0: 6.0, 1: 12.0, 2: 5.0}}
        base, baton = results.summarise(values, "5tswap")
        self.assertEqual((base.ratio, base.figure), (1.0, 10.0))
        self.assertEqual((baton.ratio, baton.ratio_least, baton.ratio_most), (0.6, 0.5, 0.6))

    def test_a_quantile_is_one_of_the_values(self) -> None:
        values = [float(value) for value in range(1, 11)]
        self.assertEqual([results.quantile(values, percent) for percent in (0, 50, 90, 91, 100)], [1, 5, 9, 10, 10])

    def test_what_falls_short_is_said(self) -> None:
        sample = {"passed": 1.0, "share": 1.0}
        samples = [
            {**sample, "system": "5tswap", "round": 0, "rate": 10e6},
            {**sample, "system": "baton", "round": 0, "rate": 4e6},
        ]
        plan = _plan(_RIGHT)
        self.assertEqual(results.shortfalls(plan, samples), ["baton reached 40.0% of 5tswap; expected 50%"])
        self.assertIn("0.400", results.throughput_table(plan, samples))
        samples[1]["rate"] = 6e6
        self.assertEqual(results.shortfalls(plan, samples), [])

    def test_columns_are_aligned(self) -> None:
        lines = results.table(["a", "b"], [["x", "10"], ["long", "1"]]).splitlines()
        self.assertEqual(lines, ["a      b", "----  --", "x     10", "long   1"])

    def test_every_measure_has_a_picture(self) -> None:
        try:
            from . import plot
        except ImportError:
            self.skipTest("matplotlib is not installed (scripts/install-dependencies --bench installs it)")
        machine = {"cpu": "any", "cores": 2, "kernel": "6", "dpdk": "22"}
        rate = {"system": "baton", "round": 0, "rate": 1e6, "passed": 1.0, "share": 1.0}
        histogram = {"system": "baton", "round": 0, "recorded": [[1000, 90], [2000, 9], [9000, 1]]}
        gap = {"system": "baton", "round": 0, "gap": 33.0, "failed": 3, "broken": None}
        files = {
            "throughput": (_RIGHT, rate),
            "latency": ("measure: latency\nsystems: {baton: {baton: {}}}\n", histogram),
            "failover": ("measure: failover\nsystems: {baton: {baton: {}}}\n", gap),
        }
        for measure, (text, sample) in files.items():
            with self.subTest(measure), tempfile.TemporaryDirectory() as directory:
                file = plot.draw(_plan(text), machine, [sample], Path(directory) / "a.svg")
                self.assertIn("baton", file.read_text())


if __name__ == "__main__":
    unittest.main()
