"""What a tenant hears, decoded exactly: numbers keep their digits, MessagePack and JSON come out alike."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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
        found: Heard = self._await(lambda: next((h for h in self.all if condition(h)), None), deadline, "the message that is awaited")
        return found

    def _await(self, condition: Callable[[], Any], deadline: float, what: str) -> Any:
        try:
            return wait_until(condition, deadline, what)
        except AssertionError as late:
            raise AssertionError(f"{late}; {len(self.all)} came, the last: {self.all[-3:]}") from None


def unpack(data: bytes) -> Any:
    """Decode one MessagePack value. Binary comes out as base64, which is what JSON has for it."""
    value, at = _value(data, 0)
    assert at == len(data), f"{len(data) - at} bytes behind the value"
    return value


_FIXED = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
_LENGTHS = {0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"), 0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
            0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I")}


def _value(data: bytes, at: int) -> tuple[Any, int]:
    first = data[at]
    at += 1
    if first in _FIXED:
        return _FIXED[first], at
    if first < 0x80 or first >= 0xE0:
        return first if first < 0x80 else first - 0x100, at
    if first in _NUMBERS:
        form = _NUMBERS[first]
        return struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if first in _LENGTHS:
        kind, form = _LENGTHS[first]
        return _sized(kind, struct.unpack_from(form, data, at)[0], data, at + struct.calcsize(form))
    kind, mask = ("map", 0x0F) if first < 0x90 else ("array", 0x0F) if first < 0xA0 else ("str", 0x1F)
    assert first < 0xC0, f"byte {first:#x} begins no value"
    return _sized(kind, first & mask, data, at)


def _sized(kind: str, n: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind in ("str", "bin"):
        raw = data[at:at + n]
        assert len(raw) == n, "cut short"
        return raw.decode() if kind == "str" else base64.b64encode(raw).decode(), at + n
    items = []
    for _ in range(n * (2 if kind == "map" else 1)):
        item, at = _value(data, at)
        items.append(item)
    return (dict(zip(items[::2], items[1::2], strict=True)) if kind == "map" else items), at
