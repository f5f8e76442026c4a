"""A Compose project of docker/: its containers, its members and its measuring client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed.clients.control import Connection, Results
from testbed.shell import CommandFailed, TimedOut, run, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = ("s1", "s2", "s3")
_IMAGES = ("switch", "service", "client", "baton")


def compose_command() -> list[str]:
    """`docker compose`, or `docker-compose` where that is not."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise FileNotFoundError("neither `docker compose` nor docker-compose is installed")


def build_images(names: tuple[str, ...] = _IMAGES) -> None:
    """Builds the images, as the Compose files name them. What has not changed takes a second."""
    subprocess.run([str(REPOSITORY / "docker" / "base-image")], check=True)
    for name in names:
        print(f"building baton-docker/{name} …", flush=True)
        command = ["docker", "build", "--quiet", "--target", name, "--tag", f"baton-docker/{name}"]
        subprocess.run(
            [*command, "--file", str(REPOSITORY / "docker" / "Dockerfile"), str(REPOSITORY)],
            check=True,
            stdout=subprocess.DEVNULL,
        )


@dataclass
class Stack:
    """One project. Use as a context manager: leaving it takes all of it down."""

    kind: str
    """plain or virtio: its file in docker/."""
    vip: str
    client_address: str
    keep: bool = False
    logs: Path | None = None
    _clients: list[subprocess.Popen[str]] = field(default_factory=list)
    _containers: dict[str, str] = field(default_factory=dict)
    """Their ids: they stay what they are while stopped and when started again."""

    @property
    def project(self) -> str:
        """Compose's name for it."""
        return f"baton-{self.kind}"

    def compose(self, *arguments: str, timeout: float = 120.0) -> str:
        """A Compose command."""
        file = str(REPOSITORY / "docker" / f"{self.kind}.yaml")
        return run([*compose_command(), "-p", self.project, "-f", file, *arguments], timeout=timeout)

    def __enter__(self) -> Stack:
        # What a run left that was killed: its project goes by its name.
        self.compose("down", "--volumes", "--timeout", "2")
        try:
            self.compose("up", "--detach", "--no-build")
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._clients:
            process.kill()
        if self.logs is not None:
            self.logs.mkdir(parents=True, exist_ok=True)
            (self.logs / "containers.log").write_text(self.compose("logs", "--no-color"))
        if not self.keep:
            self.compose("down", "--volumes", "--timeout", "10")

    def container(self, service: str) -> str:
        """A service's container, by its id."""
        if service not in self._containers:
            found = self.compose("ps", "--all", "--quiet", service).split()
            if len(found) != 1:
                raise CommandFailed(f"{service} has {len(found)} containers")
            self._containers[service] = found[0]
        return self._containers[service]

    def inside(self, service: str, *command: str, timeout: float = 30.0) -> str:
        """Runs a command in a service's container."""
        return run(["docker", "exec", self.container(service), *command], timeout=timeout)

    def docker(self, verb: str, service: str, *, timeout: float = 60.0) -> None:
        """`docker VERB` of a service's container."""
        run(["docker", verb, self.container(service)], timeout=timeout)

    # Members

    def status(self, member: str) -> dict[str, Any]:
        """`baton status --json` of a member."""
        parsed: dict[str, Any] = json.loads(self.inside(member, "baton", "status", "--json"))
        return parsed

    def roles(self) -> dict[str, str]:
        """Each member's role, and what a member says whose baton does not run."""
        roles = {}
        for member in MEMBERS:
            try:
                roles[member] = str(self.status(member)["vips"][0]["role"])
            except CommandFailed:
                roles[member] = "away"
        return roles

    def actives(self) -> list[str]:
        """Those that are active, the one of rank 0 first."""
        ranked = []
        for member in MEMBERS:
            try:
                vip = self.status(member)["vips"][0]
            except CommandFailed:
                continue
            if vip["role"] == "active":
                ranked.append((vip["rank"] or 0, member))
        return [member for _, member in sorted(ranked)]

    def vmac(self) -> str:
        """The virtual MAC."""
        return str(self.status(MEMBERS[0])["vips"][0]["mac"]).lower()

    def wait_ready(self, *, timeout: float = 60.0) -> float:
        """Waits until all members are ready, know each other alive, and two are active."""
        missing = ""

        def settled() -> bool:
            nonlocal missing
            for member in MEMBERS:
                try:
                    status = self.status(member)
                except CommandFailed as error:
                    if "is not running" in str(error) and "Error response from daemon" in str(error):
                        raise CommandFailed(f"{member} has ended; it said: {self.last_words(member)}") from None
                    missing = str(error)
                    return False
                # A suspect lives: on shared cores a heartbeat is late now and then.
                alive = sum(1 for peer in status["peers"] if peer["state"] in ("alive", "suspect"))
                if status["ready"] is not True or alive != len(MEMBERS) - 1:
                    missing = f"{member}: ready {status['ready']}, {alive} peers alive"
                    return False
            missing = f"active: {self.actives()}"
            return len(self.actives()) == 2

        try:
            return wait_until(settled, "all members ready", timeout=timeout, every=0.1)
        except TimedOut as error:
            raise TimedOut(f"{error}; {missing}") from None

    def last_words(self, member: str) -> str:
        """The end of its log."""
        done = subprocess.run(
            ["docker", "logs", "--tail", "8", self.container(member)], capture_output=True, text=True, check=False
        )
        return (done.stdout + done.stderr).strip()

    # The client

    def curl(self) -> str:
        """One request of curl's."""
        return self.inside("client", "curl", "-sS", "--max-time", "3", f"http://{self.vip}/who?curl").strip()

    def load(self, *, opens: int, every_us: int, requests: int = 1, gap_ms: int = 20) -> Load:
        """Starts the measuring client: so many connections, one each `every_us`, of so many requests."""
        options = {"opens": opens, "every-us": every_us, "requests": requests, "gap-ms": gap_ms, "timeout-ms": 4000}
        command = ["docker", "exec", self.container("client"), "python3", "-m", "testbed.clients.engine"]
        command += ["--address", self.vip, "--sources", self.client_address]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._clients.append(process)
        if process.stdout is None or '"ready"' not in process.stdout.readline():
            raise TimedOut("the client did not start")
        return Load(process)


@dataclass
class Load:
    """A running client."""

    process: subprocess.Popen[str]

    def results(self, *, timeout: float = 60.0) -> Results:
        """Waits for its end: every connection with its fate."""
        output, error = self.process.communicate(timeout=timeout)
        if self.process.returncode != 0:
            raise CommandFailed(f"the client ended with {self.process.returncode}: {error.strip()}")
        return Results([Connection(**record) for record in json.loads(output.splitlines()[-1])["connections"]])


def can_run() -> str:
    """What is missing here, empty if nothing."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    try:
        run(["docker", "info"])
        compose_command()
    except (CommandFailed, FileNotFoundError) as error:
        return str(error)
    return "" if os.path.exists("/dev/net/tun") or sys.platform != "linux" else "there is no /dev/net/tun"

