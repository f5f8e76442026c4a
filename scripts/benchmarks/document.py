"""YAML that knows its lines: every fault is told as `FILE:LINE: what is wrong; expected …`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Fault(Exception):
    """What is wrong with a file, and where."""

    def __init__(self, place: str, what: str, expected: str) -> None:
        super().__init__(f"{place}: {what}; expected {expected}")


@dataclass(frozen=True)
class Value:
    """A value of the document, with its place."""

    file: Path
    path: str
    """As `traffic.mix.syn`."""
    node: yaml.Node

    def fault(self, what: str, expected: str) -> Fault:
        """A fault of this value."""
        return Fault(f"{self.file}:{self.node.start_mark.line + 1}", f"{self.path or 'the file'}: {what}", expected)

    def entries(self, known: list[str] | None = None) -> dict[str, Value]:
        """A mapping's values; with `known`, no other key may be there."""
        if not isinstance(self.node, yaml.MappingNode):
            keys = f" with some of: {', '.join(known)}" if known else ""
            raise self.fault(f"{self._shown()} is not a mapping", f"a mapping{keys}")
        found: dict[str, Value] = {}
        for key, node in self.node.value:
            name = str(key.value)
            here = Value(self.file, f"{self.path}.{name}" if self.path else name, key)
            if known is not None and name not in known:
                raise here.fault("there is no such key", f"one of: {', '.join(known)}")
            if name in found:
                raise here.fault("the key is there twice", "it once")
            found[name] = Value(self.file, here.path, node)
        return found

    def items(self) -> list[Value]:
        """A list's values."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.fault(f"{self._shown()} is not a list", "a list such as [60, 1514]")
        return [Value(self.file, f"{self.path}[{number}]", node) for number, node in enumerate(self.node.value)]

    def text(self, expected: str = "a text") -> str:
        """A scalar as it is written."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.value == "":
            raise self.fault(f"{self._shown()} is not {expected}", expected)
        return str(self.node.value)

    def choice(self, options: list[str]) -> str:
        """One of these words."""
        expected = f"one of: {', '.join(options)}"
        word = self.text(expected)
        if word not in options:
            raise self.fault(f"there is no {word!r}", expected)
        return word

    def flag(self) -> bool:
        """true or false."""
        return self.choice(["true", "false"]) == "true"

    def integer(self, least: int, most: int) -> int:
        """A whole number within these bounds."""
        expected = f"a whole number from {least} to {most}"
        text = self.text(expected).replace("_", "")
        if not re.fullmatch(r"-?\d+", text):
            raise self.fault(f"{text!r} is not a whole number", expected)
        if not least <= int(text) <= most:
            raise self.fault(f"{text} is out of range", expected)
        return int(text)

    def share(self) -> float:
        """A percentage, as a part of one."""
        expected = "a percentage such as 25%"
        text = self.text(expected)
        if not re.fullmatch(r"\d+(\.\d+)?%", text):
            raise self.fault(f"{text!r} is not a percentage", expected)
        return float(text[:-1]) / 100

    def seconds(self, least: float, most: float) -> float:
        """A duration such as `10ms` or `2s`, in seconds."""
        expected = f"a duration from {_written(least)} to {_written(most)}, such as 500ms or 2s"
        text = self.text(expected)
        matched = re.fullmatch(r"(\d+)(ms|s|m)", text)
        if matched is None:
            raise self.fault(f"{text!r} is not a duration", expected)
        seconds = int(matched[1]) * _SECONDS[matched[2]]
        if not least <= seconds <= most:
            raise self.fault(f"{text} is out of range", expected)
        return seconds

    def _shown(self) -> str:
        if isinstance(self.node, yaml.ScalarNode):
            return repr(self.node.value) if self.node.value else "nothing"
        return "a mapping" if isinstance(self.node, yaml.MappingNode) else "a list"


def _written(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def read(file: Path) -> Value:
    """The document in a file."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Fault(f"{file}:1", f"it cannot be read ({error.strerror})", "a file of configs/bench/") from None
    except UnicodeDecodeError:
        raise Fault(f"{file}:1", "it is not text", "YAML in UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be parsed"
        raise Fault(f"{file}:{mark.line + 1 if mark else 1}", str(problem), "YAML") from None
    if node is None:
        raise Fault(f"{file}:1", "the file is empty", "a mapping with measure, systems and more")
    return Value(file, "", node)
