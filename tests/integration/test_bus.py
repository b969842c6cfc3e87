"""The two NATS links and JetStream through them, against a real nats-server that is stopped, restarted and paused."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from harness import Server, binary, free_port, installed, wait_until



class PlainNats(Server):
    """A server without users, on a port of its own."""

    def __init__(self, folder: Path, jetstream: bool = True) -> None:
        super().__init__("nats", folder)
        self.port = free_port()
        store = f'jetstream: {{store_dir: "{folder}/store"}}\n' if jetstream else ""
        (folder / "nats.conf").write_text(f"listen: 127.0.0.1:{self.port}\nmax_payload: 2MB\n{store}")

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.spawn([installed("nats-server"), "-c", str(self.folder / "nats.conf")])
        wait_until(lambda: "Server is ready" in self.log(), 15, f"nats-server to be ready\n{self.log()}")


@pytest.fixture
def folder() -> Generator[Path, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-bus-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nats(folder: Path) -> Generator[PlainNats, None, None]:
    server = PlainNats(folder)
    server.start()
    yield server
    server.resume()
    server.kill()


def check(name: str, nats: PlainNats) -> None:
    """Run one check of bus_check, doing to the server what it asks for."""
    program = subprocess.Popen([binary("bus_check"), name, nats.url], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert program.stdin and program.stdout and program.stderr
    try:
        for line in program.stdout:
            match line.strip():
                case "stop the server":
                    nats.kill()
                case "start the server":
                    nats.start()
                case "pause the server":
                    nats.pause()
                    program.stdin.write("\n")
                    program.stdin.flush()
                case "resume the server":
                    nats.resume()
        errors = program.stderr.read()
        assert program.wait(timeout=60) == 0, errors
    finally:
        program.kill()
        program.wait()


@pytest.mark.parametrize("name", ["requests", "many", "cancel", "forged", "bounds", "unsubscribe", "direct", "flood", "behind", "ensure", "append", "list"])
def test_calls(nats: PlainNats, name: str) -> None:
    check(name, nats)


def test_a_link_that_is_lost_returns_with_its_subscriptions(nats: PlainNats) -> None:
    check("link", nats)


def test_a_full_outbox_refuses_and_tells_when_there_is_room(nats: PlainNats) -> None:
    check("full", nats)


def test_a_server_without_jetstream_is_told_in_words(folder: Path) -> None:
    server = PlainNats(folder, jetstream=False)
    server.start()
    try:
        check("no_jetstream", server)
    finally:
        server.kill()
