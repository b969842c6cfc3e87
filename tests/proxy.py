"""A TCP link that a test can cut, or hold at an exact byte of either side, while both ends stay alive."""

from __future__ import annotations

import socket
import threading

from harness import free_port


class Proxy:
    """Forward 127.0.0.1:port to a server. cut() is a network that is away; hold_at() and hold_answer() stop the bytes of one side only."""

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self._server_port = server_port
        self._lock = threading.Lock()
        self._links: set[socket.socket] = set()
        self._up = True
        self._closed = False
        self._marker = b""
        self._answer = b""
        self._passes = 0
        self.held = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection and refuse new ones."""
        with self._lock:
            self._up = False
            links, self._links = self._links, set()
        for link in links:
            _shut(link)

    def heal(self) -> None:
        with self._lock:
            self._up = True

    def turn_to(self, server_port: int) -> None:
        """Lead new connections to another server."""
        self._server_port = server_port

    def hold_at(self, marker: bytes, after: int) -> None:
        """Let `after` occurrences of marker pass from client to server, then forward nothing more of the link that has the next.

        What goes from server to client still passes."""
        with self._lock:
            self.held.clear()
            self._marker, self._passes = marker, after

    def hold_answer(self, marker: bytes) -> None:
        """Forward nothing more of what the server says on the link whose next piece has marker in it, nor that piece."""
        with self._lock:
            self.held.clear()
            self._answer = marker

    def release(self) -> None:
        """Forget the marker and break the links, so that both sides begin anew."""
        with self._lock:
            self._marker = self._answer = b""
        self.cut()
        self.heal()

    def close(self) -> None:
        self._closed = True
        _shut(self._listener)
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), timeout=5)
            except OSError:
                _shut(client)
                continue
            server.settimeout(None)
            with self._lock:
                up = self._up
                if up:
                    self._links |= {client, server}
            if not up:
                _shut(client)
                _shut(server)
                continue
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, upstream: bool) -> None:
        kept = b""  # upstream only: bytes not forwarded yet, because a marker may begin in them
        try:
            while data := source.recv(1 << 16):
                if upstream:
                    data, kept, held = self._before_marker(kept + data)
                    sink.sendall(data)
                    if held:
                        self.held.set()
                        return  # neither closed nor read any further
                elif self._answer and self._answer in data:
                    self.held.set()
                    return
                else:
                    sink.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(sink)

    def _before_marker(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """Split data into what may pass and what waits; the last is true when the marker's turn has come."""
        with self._lock:
            marker = self._marker
            if not marker:
                return data, b"", False
            at = 0
            while (found := data.find(marker, at)) >= 0:
                if self._passes == 0:
                    return data[:found], b"", True
                self._passes -= 1
                at = found + len(marker)
        # The tail could be the beginning of a marker, unless no beginning of it ends the data.
        keep = next((n for n in range(min(len(marker) - 1, len(data) - at), 0, -1) if data.endswith(marker[:n])), 0)
        return data[:len(data) - keep], data[len(data) - keep:], False


def _shut(link: socket.socket) -> None:
    try:
        link.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    link.close()
