"""A broker played by a test: the frames of broker/child/frame.h over a socket pair to a real `musterd --plugin-host`.

Built with AddressSanitizer it goes without walls, so that leaks are sought when it ends."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import BUILD, REPO

_HEADER = (REPO / "broker" / "child" / "frame.h").read_text()
# The values of enum frame_type, by their place in it.
TYPES: dict[str, int] = {name: i + 1 for i, name in enumerate(re.findall(
    r"^    FRAME_(\w+)(?: = 1)?,", _HEADER[_HEADER.index("enum frame_type"):_HEADER.index("FRAME_N_TYPES")], re.M))}
NAMES = {number: name for name, number in TYPES.items()}
VERSION = 2
# The names of limits that every plugin may ask for, in their order.
LIMITS = [*re.findall(r"^    X\([A-Z_]+, (\w+),", (REPO / "broker/tenant/limits.h").read_text(), re.M)]
NULL = 0xFFFFFFFF
ALL_SOCKETS = 3
JSON = 1
PATIENCE = 20.0


def u8(v: int) -> bytes:
    return struct.pack("<B", v)


def u32(v: int) -> bytes:
    return struct.pack("<I", v)


def u64(v: int) -> bytes:
    return struct.pack("<Q", v)


def i32(v: int) -> bytes:
    return struct.pack("<i", v)


def i64(v: int) -> bytes:
    return struct.pack("<q", v)


def text(v: str | None) -> bytes:
    raw = (v or "").encode()
    return u32(NULL) if v is None else u32(len(raw)) + raw + b"\0"


def blob(v: bytes) -> bytes:
    return u32(len(v)) + v


def listed(items: list[bytes]) -> bytes:
    return u32(len(items)) + b"".join(items)


def texts(*items: str) -> bytes:
    return listed([text(item) for item in items])


def message(subject: str, body: Any = None, tenant: int = 1, agent: str | None = "a1", wants_answer: bool = False, seq: int = 0,
            raw: bytes | None = None, role: int = 0) -> bytes:
    """The fields `msg` of frame.h."""
    tokens = subject.split(".")
    service, verb = (tokens[2], tokens[3]) if tokens[0] == "rpc" else (None, None)
    payload = raw if raw is not None else json.dumps(body if body is not None else {}).encode()
    return b"".join([u32(JSON), u64(tenant), text(agent), text(subject), text(service), text(verb), listed([text("X-Test") + text("yes")]),
                     u8(wants_answer), blob(payload), i64(time.monotonic_ns()), u64(seq), u32(role)])


class Frame:
    """One frame of the child's, read field by field."""

    def __init__(self, kind: int, ident: int, fields: bytes) -> None:
        self.name, self.id, self._fields, self._at = NAMES[kind], ident, fields, 0

    def __repr__(self) -> str:
        return f"{self.name}({self.id}, {self._fields[:80]!r})"

    def _take(self, form: str) -> Any:
        value = struct.unpack_from(form, self._fields, self._at)[0]
        self._at += struct.calcsize(form)
        return value

    def u8(self) -> int:
        return int(self._take("<B"))

    def u32(self) -> int:
        return int(self._take("<I"))

    def u64(self) -> int:
        return int(self._take("<Q"))

    def i32(self) -> int:
        return int(self._take("<i"))

    def i64(self) -> int:
        return int(self._take("<q"))

    def bytes(self) -> bytes:
        n = self.u32()
        value = self._fields[self._at:self._at + n]
        self._at += n
        return value

    def text(self) -> str | None:
        n = self.u32()
        if n == NULL:
            return None
        value = self._fields[self._at:self._at + n]
        self._at += n + 1
        return value.decode()

    def headers(self) -> dict[str, str]:
        return {str(self.text()): str(self.text()) for _ in range(self.u32())}

    def json(self) -> Any:
        return json.loads(self.bytes())

    def out(self) -> dict[str, Any]:
        """The fields `out`."""
        return {"tenant": self.u64(), "subject": self.text(), "headers": self.headers(), "payload": self.bytes()}

    def is_read(self) -> bool:
        return self._at == len(self._fields)


class Child:
    """One child. What it says is kept until somebody asks for it; PONG, METRIC and LOG are kept apart."""

    def __init__(self, plugin: Path | str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket, self._in = ours, b""
        self.frames: list[Frame] = []
        self.logs: list[tuple[int, str]] = []
        self.metrics: list[Frame] = []
        self._messages = 0
        self._limits = [*LIMITS, *(["shouts"] if Path(plugin).stem == "echo" else [])]  # then those that it declares
        self._words: str | None = None
        self._pings = 0
        self.begun = time.monotonic()
        fd = theirs.fileno()
        os.set_inheritable(fd, True)
        self.process = subprocess.Popen(
            [str(BUILD / "bin" / "musterd"), "--plugin-host", "test"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, close_fds=False, preexec_fn=lambda: _keep_only(fd), env={**os.environ, "MUSTER_SEEK_LEAKS": "1"})
        theirs.close()
        walls = b"".join([u32(os.getpid()), u32(0), u32(0), u32(0), i64(0), i64(0), i64(0), u32(ALL_SOCKETS), u32(1), texts("/"), texts("/tmp"), u32(0)])
        self.send("SANDBOX", 0, u32(VERSION) + text(str(plugin)) + walls)

    # ---- frames -------------------------------------------------------------------------------------------------------------

    def send(self, name: str, ident: int = 0, fields: bytes = b"") -> None:
        self.socket.sendall(struct.pack("<IHHQ", len(fields) + 12, TYPES[name], 0, ident) + fields)

    def _read(self, seconds: float) -> bool:
        self.socket.settimeout(max(seconds, 0.001))
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return False
        if not data:
            raise EOFError(f"the child has ended\n{self.last_words()}")
        self._in += data
        while len(self._in) >= 16:
            length, kind, _, ident = struct.unpack_from("<IHHQ", self._in)
            if len(self._in) < length + 4:
                break
            self._keep(Frame(kind, ident, self._in[16:length + 4]))
            self._in = self._in[length + 4:]
        return True

    def _keep(self, frame: Frame) -> None:
        if frame.name == "LOG":
            self.logs.append((frame.u32(), str(frame.text())))
        elif frame.name == "METRIC":
            self.metrics.append(frame)
        else:
            self.frames.append(frame)

    def take(self, name: str, ident: int | None = None, seconds: float = PATIENCE) -> Frame:
        """The first frame of that name, whatever came before it."""
        end = time.monotonic() + seconds
        while True:
            for i, frame in enumerate(self.frames):
                if frame.name == name and (ident is None or frame.id == ident):
                    return self.frames.pop(i)
            if time.monotonic() > end:
                raise AssertionError(f"no {name} within {seconds} s; here are {self.frames}")
            self._read(0.05)

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        end = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {what}")
            self._read(0.02)
        return value

    def none(self, name: str, seconds: float = 0.3) -> None:
        """Nothing of that name comes."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.02)
        assert not [frame for frame in self.frames if frame.name == name], self.frames

    # ---- life ---------------------------------------------------------------------------------------------------------------

    def settings(self, values: bytes, instance: str = "test", dsn: str | None = None, capabilities: tuple[str, ...] = (),
                 subscribe: tuple[str, ...] = (), publish: tuple[str, ...] = (), places: dict[str, str] | None = None) -> None:
        said = listed([text(key) + text(place) for key, place in (places or {}).items()])
        self.send("SETTINGS", 0, b"".join([text(instance), u32(0), u32(1), text("broker-1"), text("mst"), text(dsn), texts(*capabilities),
                                           texts(*subscribe), texts(*publish), said, values]))

    def tenant(self, ident: int, name: str, known: bool = True, requests_per_s: int = 100, burst: int = 200,
               **limits: int) -> None:
        self.send("TENANT", ident, text(name) + u32(JSON) + i64(requests_per_s) + i64(burst) + u8(known)
                  + listed([i64(limits.get(limit, -1)) for limit in self._limits]))

    def outcome(self, name: str, answer: str, fields: bytes = b"") -> tuple[int, str | None]:
        self.send(name, 0, fields)
        frame = self.take(answer)
        code = frame.i32(), frame.text()
        assert frame.is_read()
        return code

    def ping(self) -> None:
        """Behind this, all that was sent before has been taken."""
        self._pings += 1
        self.send("PING", self._pings)
        self.take("PONG", self._pings)

    # ---- messages -----------------------------------------------------------------------------------------------------------

    def deliver(self, sub: int, subject: str, body: Any = None, **more: Any) -> int:
        self._messages += 1
        self.send("MSG", self._messages, u64(sub) + message(subject, body, **more))
        return self._messages

    def ask(self, sub: int, subject: str, body: Any = None, **more: Any) -> Any:
        """A request: the body of its answer."""
        ident = self.deliver(sub, subject, body, wants_answer=True, **more)
        return self.take("REPLY", ident).json()

    # ---- the end ------------------------------------------------------------------------------------------------------------

    def last_words(self) -> str:
        if self.process.stdout and self._words is None:
            self.process.wait(PATIENCE)
            self._words = self.process.stdout.read().decode(errors="replace")
        return self._words or ""

    def end(self) -> tuple[int, str]:
        """Close the socket; the code and last words of the process."""
        self.socket.close()
        words = self.last_words()
        return self.process.wait(PATIENCE), words

    def close(self) -> None:
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _keep_only(fd: int) -> None:
    os.dup2(fd, 3)
    os.closerange(4, 256)


def echo_settings(greeting: str = "hello", misbehave: int = 0, sql: bool = False) -> bytes:
    """The values of tests/plugin/echo.c in the order of its option table; those that are not named here as if they were not given."""
    nothing = {"STRING": text(None), "ENUM": i32(0), "BOOL": i32(0), "INT": i64(0), "BYTES": i64(0), "DURATION_NS": i64(0), "LIST": listed([])}
    named = {"greeting": text(greeting), "misbehave": i32(misbehave), "sql": i32(sql)}
    options = re.findall(r'\{\.key = "(\w+)".*?\.type = MUSTER_T_(\w+)', (REPO / "tests" / "plugin" / "echo.c").read_text(), re.S)
    return b"".join(named.get(key, nothing[kind]) for key, kind in options)
