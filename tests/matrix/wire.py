"""The NATS protocol by hand: many attempts in one go, bytes that no client library would send, and every refusal in the server's words."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys

VIOLATION = re.compile(r'(?i)permissions violation for (publish|subscription) to "(.*?)"(?: using queue "(.*?)")?$')


@dataclass(frozen=True)
class Heard:
    sid: int
    subject: str
    reply: str
    headers: bytes
    data: bytes


class Refused(Exception):
    """The server let nobody in, or closed the connection; its words."""


@dataclass
class Login:
    """What a client shows a server: a creds file, a user and password, a token, or several."""

    creds: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def connect(self, nonce: str) -> dict[str, Any]:
        said = dict(self.options)
        if self.creds:
            text = self.creds.read_text()
            jwt, seed = (re.search(f"-----BEGIN {what}-----\\s+(\\S+)", text) for what in ("NATS USER JWT", "USER NKEY SEED"))
            assert jwt and seed, f"{self.creds} is no creds file"
            signature = nkeys.from_seed(bytearray(seed[1].encode())).sign(nonce.encode())
            said |= {"jwt": jwt[1], "sig": base64.urlsafe_b64encode(signature).decode().rstrip("=")}
        return said


class Wire:
    """One connection. Reading happens inside of the calls, on the caller's thread."""

    def __init__(self, port: int, login: Login, name: str = "wire") -> None:
        self.heard: list[Heard] = []
        self.refusals: list[tuple[str, str, str]] = []  # publish or subscription, subject, queue
        self.errors: list[str] = []
        self.closed = False
        self._pongs = 0
        self._sids = 0
        self._buffer = b""
        self._link = socket.create_connection(("127.0.0.1", port), timeout=10)
        info = json.loads(self._line()[5:])
        said = {"verbose": False, "pedantic": False, "lang": "matrix", "version": "1", "protocol": 1, "headers": True, "no_responders": True,
                "name": name, **login.connect(info.get("nonce", ""))}
        self.send(b"CONNECT " + json.dumps(said).encode() + b"\r\n")
        try:
            self.flush()
        except Refused:
            self.close()
            raise

    # ---- out

    def send(self, data: bytes) -> None:
        """Into the socket; what arrives meanwhile is read, so that neither side waits for the other."""
        view = memoryview(data)
        while view:
            part = view[:65536]
            try:
                self._link.sendall(part)
            except OSError as error:
                raise self._ended(error) from error
            view = view[len(part):]
            self._poll()

    def publish(self, subject: str | bytes, data: bytes = b"", reply: str = "", headers: bytes = b"") -> None:
        name = subject if isinstance(subject, bytes) else subject.encode()
        words = b" ".join(filter(None, (name, reply.encode())))
        if headers:
            self.send(b"HPUB %s %d %d\r\n" % (words, len(headers), len(headers) + len(data)) + headers + data + b"\r\n")
        else:
            self.send(b"PUB %s %d\r\n" % (words, len(data)) + data + b"\r\n")

    def subscribe(self, subject: str | bytes, queue: str = "") -> int:
        self._sids += 1
        name = subject if isinstance(subject, bytes) else subject.encode()
        self.send(b" ".join(filter(None, (b"SUB", name, queue.encode(), b"%d" % self._sids))) + b"\r\n")
        return self._sids

    def flush(self, deadline: float = 20) -> None:
        """The server has handled all that was sent before, and its refusals are here."""
        awaited = self._pongs + 1
        self.send(b"PING\r\n")
        self.wait(lambda: self._pongs >= awaited, deadline, "PONG")

    # ---- in

    def wait(self, condition: Callable[[], Any], deadline: float, what: str) -> None:
        end = time.monotonic() + deadline
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"not within {deadline} s: {what}")
            self._read(0.05)

    def listen(self, seconds: float) -> None:
        """Take what comes for so long: for what must not come there is nothing to wait for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read(0.02)

    def of(self, sid: int) -> list[Heard]:
        return [heard for heard in self.heard if heard.sid == sid]

    def close(self) -> None:
        self.closed = True
        self._link.close()

    def _ended(self, why: object) -> Refused:
        self.closed = True
        return Refused("; ".join(self.errors) or str(why) or "the server closed the connection")

    def _poll(self) -> None:
        self._link.setblocking(False)
        try:
            while data := self._link.recv(1 << 18):
                self._buffer += data
        except (BlockingIOError, ConnectionError):
            pass
        finally:
            self._link.settimeout(10)
        self._take()

    def _read(self, timeout: float) -> None:
        self._link.settimeout(timeout)
        try:
            data = self._link.recv(1 << 18)
        except TimeoutError:
            return
        except OSError as error:
            raise self._ended(error) from error
        finally:
            if not self.closed:
                self._link.settimeout(10)
        self._buffer += data
        self._take()
        if not data:
            raise self._ended("")

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            data = self._link.recv(65536)
            if not data:
                raise self._ended("")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _take(self) -> None:
        """Every whole protocol message in the buffer; what is left stays."""
        at = 0
        while (end := self._buffer.find(b"\r\n", at)) >= 0:
            line = self._buffer[at:end]
            words = line.split()
            if words and words[0] in (b"MSG", b"HMSG"):
                total = int(words[-1])
                if len(self._buffer) < end + 4 + total:
                    break
                self._keep(words, self._buffer[end + 2:end + 2 + total])
                end += 2 + total
            else:
                self._control(line)
            at = end + 2
        self._buffer = self._buffer[at:]

    def _keep(self, words: list[bytes], payload: bytes) -> None:
        with_headers = words[0] == b"HMSG"
        reply = words[3].decode(errors="replace") if len(words) == (6 if with_headers else 5) else ""
        split = int(words[-2]) if with_headers else 0
        self.heard.append(Heard(int(words[2]), words[1].decode(errors="replace"), reply, payload[:split], payload[split:]))

    def _control(self, line: bytes) -> None:
        if line == b"PONG":
            self._pongs += 1
        elif line == b"PING":
            self._link.sendall(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            text = line[4:].strip().strip(b"'").decode(errors="replace")
            self.errors.append(text)
            if found := VIOLATION.search(text.replace("\\\"", "\"")):
                self.refusals.append((found[1].lower(), found[2], found[3] or ""))
