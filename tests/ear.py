"""What a tenant hears, decoded exactly: numbers keep their digits, MessagePack and JSON come out alike."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pack
from client import Client, Message
from harness import ROOT_TOKEN, wait_until


@dataclass(frozen=True)
class Number:
    """A number of a JSON text, by its digits: 1.10 is not 1.1, and 1 is not "1"."""

    digits: str


def exact(text: str | bytes) -> Any:
    """Decode JSON so that two values are equal only when their numbers are written alike."""
    return json.loads(text, parse_int=Number, parse_float=Number)


@dataclass(frozen=True)
class Heard:
    subject: str
    headers: dict[str, str]
    data: bytes

    @cached_property
    def body(self) -> Any:
        return json.loads(self.data) if self.data[:1] == b"{" else unpack(self.data)

    @property
    def exact(self) -> Any:
        return exact(self.data)

    @property
    def epoch(self) -> int:
        return int(self.headers["Muster-Epoch"])

    @property
    def seq(self) -> int:
        return int(self.headers["Muster-Seq"])

    @property
    def lsn(self) -> tuple[int, int, int]:
        commit, ordinal, part = self.headers["Muster-Lsn"].rsplit("/", 2)
        high, low = commit.split("/")
        return (int(high, 16) << 32) + int(low, 16), int(ordinal), int(part)


class Ear:
    """Everything a tenant hears on a subject, from now on."""

    def __init__(self, client: Client, tenant: str, subject: str) -> None:
        self._heard = client.subscribe(f"{ROOT_TOKEN}.{tenant}.{subject}")
        self._decoded: list[Heard] = []

    @property
    def all(self) -> list[Heard]:
        fresh: list[Message] = self._heard.messages[len(self._decoded):]
        self._decoded += [Heard(m.subject, m.headers, m.data) for m in fresh]
        return self._decoded

    def wait(self, count: int, deadline: float = 20) -> list[Heard]:
        """The first `count` messages, as soon as they are there; that no more came is not said."""
        self._await(lambda: len(self.all) >= count, deadline, f"{count} messages")
        return self.all[:count]

    def wait_for(self, condition: Callable[[Heard], bool], deadline: float = 20) -> Heard:
        found: Heard = self._await(lambda: next((h for h in self.all if condition(h)), None), deadline, "the awaited message")
        return found

    def _await(self, condition: Callable[[], Any], deadline: float, what: str) -> Any:
        try:
            return wait_until(condition, deadline, what)
        except AssertionError as late:
            raise AssertionError(f"{late}; {len(self.all)} came, the last: {self.all[-3:]}") from None


def unpack(data: bytes) -> Any:
    """Decode one MessagePack value. Binary comes out as base64, which is what JSON has for it."""
    return _as_json(pack.unpack(data))


def _as_json(value: Any) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return [_as_json(item) for item in value]
        case dict():
            return {key: _as_json(item) for key, item in value.items()}
    return value
