"""An HTTP server that receives webhooks, checks their signatures, and answers as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from harness import free_port


@dataclass(frozen=True)
class Delivery:
    id: str
    timestamp: int
    body: dict[str, Any]
    at: float
    path: str


@dataclass
class Receiver:
    """answer(n, delivery) gives the status and headers of the n-th request; a status of 0 hangs until the end."""

    keys: list[bytes]
    answer: Callable[[int, Delivery], tuple[int, dict[str, str]]] = lambda n, delivery: (204, {})
    certificate: tuple[Path, Path] | None = None
    heard: list[Delivery] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    most_at_once: int = 0

    def __post_init__(self) -> None:
        receiver = self
        self._lock, self._open, self._end = threading.Lock(), 0, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.port = free_port()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        data = request.rfile.read(int(request.headers["content-length"]))
        delivery = Delivery(request.headers["webhook-id"], int(request.headers["webhook-timestamp"]), json.loads(data), time.monotonic(),
                            request.path)
        with self._lock:
            self._check(request, delivery, data)
            self.heard.append(delivery)
            n = len(self.heard)
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        status, headers = self.answer(n, delivery)
        if status == 0:
            self._end.wait(60)
            status = 500
        with self._lock:
            self._open -= 1
        request.send_response(status)
        for name, value in {"content-length": "0", **headers}.items():
            request.send_header(name, value)
        request.end_headers()

    def _check(self, request: BaseHTTPRequestHandler, delivery: Delivery, data: bytes) -> None:
        signed = f"{delivery.id}.{delivery.timestamp}.".encode() + data
        expected = {"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in self.keys}
        if set(request.headers["webhook-signature"].split(" ")) != expected:
            self.faults.append(f"{delivery.id}: signature {request.headers['webhook-signature']}, expected {expected}")
        if abs(delivery.timestamp - time.time()) > 60:
            self.faults.append(f"{delivery.id}: timestamp {delivery.timestamp}")
        if request.headers["content-type"] != "application/json":
            self.faults.append(f"{delivery.id}: content-type {request.headers['content-type']}")

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
