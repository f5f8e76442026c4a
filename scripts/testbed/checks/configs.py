"""Bad configurations, from outside: one clear error with the line, and exit code 2."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ..member import baton_binary, write_key
from . import Check, Context

_GOOD = """\
cluster:
  name: web
  key_file: web.key
  heartbeat: 10ms
  missed: 3
node:
  name: s1
  metric: connections
vips:
  - address: 10.0.0.100/24
    gateway: 10.0.0.1
    mac: auto
    ports: [80, 443]
    actives: 1
    hedge: 5ms
    rebalance: {every: 1s, margin: 20%, hold: 3s}
    orphans: {after: 2s}
    health: {tcp: 80, every: 500ms, timeout: 200ms}
dataplane:
  wire: {interface: eth0}
  host: {tap: vip0}
  workers: [1]
  control_core: 0
  poll: adaptive
  connections: 65536
  huge_pages: auto
  eal: []
control: {socket: /run/baton/baton.sock}
metrics: {listen: "127.0.0.1:9464"}
log: {level: info, format: text}
"""

# (the text replaced, what takes its place)
_FAULTS = [
    ("cluster:", "clutser:"),
    ("  name: web\n", ""),
    ("name: web", "name: ''"),
    ("key_file: web.key", "key_file: missing.key"),
    ("heartbeat: 10ms", "heartbeat: 10"),
    ("heartbeat: 10ms", "heartbeat: 0ms"),
    ("heartbeat: 10ms", "heartbeat: 11s"),
    ("heartbeat: 10ms", "heartbeat: ten"),
    ("missed: 3", "missed: 0"),
    ("missed: 3", "missed: -1"),
    ("  name: s1\n", ""),
    ("name: s1", "name: [s1]"),
    ("metric: connections", "metric: fastest"),
    ("address: 10.0.0.100/24", "address: 10.0.0.300/24"),
    ("address: 10.0.0.100/24", "address: 10.0.0.100"),
    ("address: 10.0.0.100/24", "address: 10.0.0.100/33"),
    ("gateway: 10.0.0.1", "gateway: somewhere"),
    ("mac: auto", "mac: 00:11:22"),
    ("mac: auto", "mac: 00:00:00:00:00:00"),
    ("ports: [80, 443]", "ports: [80, 70000]"),
    ("ports: [80, 443]", "ports: [0]"),
    ("actives: 1", "actives: 0"),
    ("hedge: 5ms", "hedge: 5 parsecs"),
    ("margin: 20%", "margin: lots"),
    ("every: 1s", "evry: 1s"),
    ("orphans: {after: 2s}", "orphans: {after: soon}"),
    ("health: {tcp: 80,", "health: {tcp: 99999,"),
    ("wire: {interface: eth0}", "wire: {}"),
    ("wire: {interface: eth0}", "wire: {interface: eth0, pci: '0000:03:00.0'}"),
    ("wire: {interface: eth0}", "wire: {interface: a-name-that-is-too-long}"),
    ("host: {tap: vip0}", "host: {tun: vip0}"),
    ("workers: [1]", "workers: []"),
    ("workers: [1]", "workers: [1, 1]"),
    ("poll: adaptive", "poll: lazily"),
    ("connections: 65536", "connections: 0"),
    ("huge_pages: auto", "huge_pages: maybe"),
    ('listen: "127.0.0.1:9464"', 'listen: "127.0.0.1"'),
    ("level: info", "level: loud"),
    ("format: text", "format: xml"),
    ("log: {level: info, format: text}", "log: {level: info, format: text"),
    ("vips:", "vips: []\nunused:"),
]


def _check(path: Path) -> tuple[int, str]:
    done = subprocess.run(
        [str(baton_binary()), "check", str(path)], capture_output=True, text=True, timeout=10, check=False
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def bad_configs(context: Context) -> None:
    """`baton check` on one good configuration and on many that differ from it by one fault."""
    report = context.report
    write_key(context.home / "web.key")
    path = context.home / "baton.yaml"
    path.write_text(_GOOD)
    report.equal("exit status for a good configuration", _check(path)[0], 0)
    unclear = []
    for number, (good, bad) in enumerate(_FAULTS):
        path = context.home / f"bad-{number}.yaml"
        path.write_text(_GOOD.replace(good, bad, 1))
        status, said = _check(path)
        lines = said.splitlines()
        if status != 2 or len(lines) != 1 or not re.match(rf"{re.escape(str(path))}:\d+: \S", said):
            unclear.append(f"{bad.strip() or good.strip() + ' left out'}: exit {status}: {said[:200]}")
    report.at_least("kinds of bad configurations", len(_FAULTS), 30)
    report.equal("those without exit status 2 and one line `FILE:LINE: …`", unclear, [])
    run = subprocess.run(
        [str(baton_binary()), "run", "--config", str(path)], capture_output=True, text=True, timeout=10, check=False
    )
    report.equal("exit status of `baton run` with a bad configuration", run.returncode, 2)


CHECKS = [Check("bad-configs", "41 kinds of bad configurations: one clear line each, exit code 2", bad_configs, {})]
