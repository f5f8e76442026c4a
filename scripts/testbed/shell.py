"""Processes: running commands, starting daemons, and making sure none outlives us.

Every child is told to die with us (PR_SET_PDEATHSIG), so that even a killed testbed leaves no process behind; what
remains then, the namespaces, is swept at the next start (see topology.py). Children run in sessions of their own, so
that a ^C in the terminal reaches us alone and we take things down in order.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000


class CommandFailed(Exception):
    """A command ended with a status other than 0; the message holds its output."""


class TimedOut(Exception):
    """Something that was waited for did not come in time."""


def run(arguments: Sequence[str], *, stdin: str | None = None, timeout: float = 30.0) -> str:
    """Runs a command to its end and returns its standard output; raises CommandFailed with its error output."""
    done = subprocess.run(arguments, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        error = (done.stderr or done.stdout).strip()
        raise CommandFailed(f"`{' '.join(arguments)}` ended with {done.returncode}: {error}")
    return done.stdout


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Process:
    """A child process that is stopped by its own id and leaves its output in files."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        namespace: str | None = None,
        environment: dict[str, str] | None = None,
        stdout: int | None = None,
    ) -> None:
        """Starts it, inside `namespace` if given. `log` takes its error output, and its standard output unless
        `stdout` says otherwise."""
        command = list(arguments) if namespace is None else ["ip", "netns", "exec", namespace, *arguments]
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output if stdout is None else stdout,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                # Safe here: the testbed starts children from its one thread only.
                preexec_fn=_die_with_parent,
            )

    @property
    def pid(self) -> int:
        """The process's id (`ip netns exec` becomes the program it starts, so this is the program's)."""
        return self.popen.pid

    @property
    def output(self) -> IO[bytes]:
        """The pipe of a process started with `stdout=subprocess.PIPE`."""
        if self.popen.stdout is None:
            raise ValueError("this process writes to its log")
        return self.popen.stdout

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.popen.poll() is None

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait(timeout=10)

    def stop(self, *, by: signal.Signals = signal.SIGTERM, patience: float = 10.0) -> int:
        """Asks it to end, kills it when `patience` (seconds) is over, and returns its exit status."""
        if self.alive():
            self.popen.send_signal(by)
        try:
            return self.popen.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode

    def log_text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float, every: float = 0.01) -> float:
    """Waits for `condition`; returns the seconds it took, raises TimedOut naming `what`."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout:
            raise TimedOut(f"waited {timeout:g} s in vain for: {what}")
        time.sleep(every)
    return time.monotonic() - start


def _set_namespace(descriptor: int) -> None:
    if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets opened within this block belong to `namespace` (and stay in it afterwards)."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _set_namespace(there)
        try:
            yield
        finally:
            _set_namespace(home)
    finally:
        os.close(there)
        os.close(home)
