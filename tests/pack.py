"""MessagePack, as much of it as bodies use: to check what the broker answers without trusting the library that the broker uses."""

from __future__ import annotations

import struct
from typing import Any


def pack(value: Any) -> bytes:
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int() if 0 <= value < 128:
            return bytes([value])
        case int():
            return b"\xd3" + struct.pack(">q", value)
        case float():
            return b"\xcb" + struct.pack(">d", value)
        case str():
            data = value.encode()
            return b"\xdb" + struct.pack(">I", len(data)) + data
        case bytes():
            return b"\xc6" + struct.pack(">I", len(value)) + value
        case list():
            return b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))
        case dict():
            return b"\xdf" + struct.pack(">I", len(value)) + b"".join(pack(k) + pack(v) for k, v in value.items())
    raise TypeError(type(value))


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        piece = self.data[self.at:self.at + n]
        assert len(piece) == n, "the body ends too early"
        self.at += n
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def pairs(self, n: int) -> dict[Any, Any]:
        return {self.value(): self.value() for _ in range(n)}

    def value(self) -> Any:
        head = self.number("B")
        if head < 0x80:
            return head
        if head < 0x90:
            return self.pairs(head & 15)
        if head < 0xa0:
            return [self.value() for _ in range(head & 15)]
        if head < 0xc0:
            return self.take(head & 31).decode()
        if head >= 0xe0:
            return head - 256
        if head in _SINGLE:
            return _SINGLE[head]
        if head in _NUMBERS:
            return self.number(_NUMBERS[head])
        n = self.number(_SIZES[head][1])
        match _SIZES[head][0]:
            case "str":
                return self.take(n).decode()
            case "bin":
                return self.take(n)
            case "array":
                return [self.value() for _ in range(n)]
        return self.pairs(n)


_SINGLE = {0xc0: None, 0xc2: False, 0xc3: True}
_NUMBERS = {0xca: "f", 0xcb: "d", 0xcc: "B", 0xcd: "H", 0xce: "I", 0xcf: "Q", 0xd0: "b", 0xd1: "h", 0xd2: "i", 0xd3: "q"}
_SIZES = {0xc4: ("bin", "B"), 0xc5: ("bin", "H"), 0xc6: ("bin", "I"), 0xd9: ("str", "B"), 0xda: ("str", "H"), 0xdb: ("str", "I"),
          0xdc: ("array", "H"), 0xdd: ("array", "I"), 0xde: ("map", "H"), 0xdf: ("map", "I")}


def unpack(data: bytes) -> Any:
    reader = _Reader(data)
    value = reader.value()
    assert reader.at == len(data), "bytes after the body"
    return value
