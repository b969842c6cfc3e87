"""muster dev: a private installation that comes up, keeps its data, and leaves nothing running, whatever ends it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path

import psycopg
import pytest

from client import Client
from harness import Server, binary, run_cli, wait_until
from oracle import Watcher


class Dev(Server):
    stop_signal = signal.SIGINT
    death_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        super().__init__("dev", folder)
        self.site = folder / "site"

    def start(self, *options: str) -> Dev:
        self.log_path.unlink(missing_ok=True)
        self.spawn([binary("muster"), "dev", "--dir", str(self.site), *options])
        wait_until(lambda: " up.\n" in self.log() or not self.alive, 60, f"muster dev to be up\n{self.log()}")
        assert self.alive, self.log()
        return self

    @property
    def env(self) -> dict[str, str]:
        """What a shell gets from `. env`."""
        script = f". '{self.site}/env'; env -0"
        text = subprocess.run(["sh", "-c", script], env={}, capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in text.split("\0") if line)

    @property
    def nats_url(self) -> str:
        found = re.search(r"nats://\S+", self.log())
        assert found
        return found.group()

    def pids(self) -> dict[str, int]:
        return {path.stem: int(path.read_text().split()[0]) for path in (self.site / "run").glob("*.pid")}

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.env["DATABASE_URL"], autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def dev() -> Generator[Dev, None, None]:
    folder = Path(tempfile.mkdtemp(prefix="muster-dev-"))
    folder.chmod(0o755)
    dev = Dev(folder)
    yield dev
    if dev.alive:
        dev.stop()
    shutil.rmtree(folder)


def gone(pids: dict[str, int]) -> Callable[[], bool]:
    def check() -> bool:
        return not any(Path(f"/proc/{pid}").exists() for pid in pids.values())

    return check


def test_rows_reach_the_agent_and_all_is_kept(dev: Dev) -> None:
    dev.start()
    dev.sql("CREATE TABLE orders (id serial PRIMARY KEY, item text)")
    run_cli(["publish", "orders", "--tenant", "default"], dev.env)
    assert dev.env["NATS_URL"] == dev.env["MUSTER_NATS_URLS"] == dev.nats_url
    client = Client(dev.env["NATS_URL"], Path(dev.env["NATS_CREDS"]), "default", "dev")
    watcher = Watcher(client, "default")
    dev.sql("INSERT INTO orders (item) VALUES ('bolt')")
    assert watcher.wait_for("orders", {"id": 1}, 20).body["new"] == {"id": 1, "item": "bolt"}
    client.close()
    assert "\n0 broken, " in run_cli(["doctor"], dev.env).stdout

    state, pids = (dev.site / "state").read_text(), dev.pids()
    assert pids.keys() == {"postgres", "nats-server", "musterd"}
    assert dev.stop() == 0
    wait_until(gone(pids), 5, "every server to have ended")
    assert dev.pids() == {}
    dev.start()
    assert (dev.site / "state").read_text() == state, "free ports are kept"
    assert dev.sql("SELECT item FROM orders") == [("bolt",)]
    dev.stop()
    dev.start("--reset")
    assert dev.sql("SELECT to_regclass('orders')") == [(None,)]


def test_kill_9_takes_the_servers_along(dev: Dev) -> None:
    dev.start()
    pids = dev.pids()
    os.kill(pids["nats-server"], signal.SIGSTOP)
    dev.kill()
    wait_until(gone(pids), 15, "the servers to follow")
    dev.start()


def started(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def test_leftovers_are_ended_and_strangers_are_not(dev: Dev) -> None:
    """A pid file names a process by pid and start time: both fit what an earlier run left, the pid alone may be anybody's."""
    dev.start()
    dev.stop()
    leftover, stranger = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    try:
        (dev.site / "run" / "postgres.pid").write_text(f"{leftover.pid} {started(leftover.pid)}\n")
        (dev.site / "run" / "musterd.pid").write_text(f"{stranger.pid} {int(started(stranger.pid)) - 1}\n")
        dev.start()
        assert leftover.wait(5) in (-signal.SIGQUIT, -signal.SIGKILL)  # a slow core dump is cut short
        assert stranger.poll() is None
        assert "ended what the last run left" in dev.log()
    finally:
        for process in (leftover, stranger):
            process.kill()
            process.wait()


def test_a_second_one_in_the_same_folder_is_refused(dev: Dev) -> None:
    dev.start()
    second = run_cli(["dev", "--dir", str(dev.site)], {}, check=False)
    assert second.returncode == 1 and "another `muster dev` runs in" in second.stderr
    assert dev.alive


@pytest.mark.parametrize(("server", "place"), [("postgres", "{site}/log/postgres.log"), ("musterd", "the lines above")])
def test_a_server_that_dies_ends_all_and_is_named(dev: Dev, server: str, place: str) -> None:
    dev.start()
    pids = dev.pids()
    os.kill(pids[server], signal.SIGKILL)
    wait_until(lambda: not dev.alive, 20, "muster dev to end")
    assert dev.process and dev.process.wait() == 1
    assert f"{server} ended by itself; see {place.format(site=dev.site)}\n" in dev.log()
    wait_until(gone(pids), 5, "every server to have ended")


def test_a_broker_of_the_users_own(dev: Dev) -> None:
    dev.start("--no-broker")
    assert dev.pids().keys() == {"postgres", "nats-server"}
    shutil.copy(dev.site / "muster.yaml", dev.site / "my.yaml")
    assert f'-c "{dev.site}/my.yaml"' in dev.log()
    with subprocess.Popen([binary("musterd"), "-c", str(dev.site / "my.yaml")]) as broker:
        wait_until(lambda: "\n0 broken, " in run_cli(["doctor"], dev.env, check=False).stdout, 20, "the broker to be ready")
        broker.terminate()
        assert broker.wait(15) == 0


def test_all_of_it_by_tls(dev: Dev) -> None:
    """An authority of its own, kept; and without --tls the next start speaks in the clear again."""
    dev.start("--tls")
    authority = dev.site / "tls" / "ca.pem"
    env = dev.env
    assert env["NATS_URL"].startswith("tls://") and env["NATS_CA"] == str(authority.resolve())
    assert "sslmode=verify-full" in env["DATABASE_URL"]
    assert dev.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]
    assert not dev.sql("SELECT 1 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL AND NOT ssl")
    dev.sql("CREATE TABLE orders (id serial PRIMARY KEY, item text)")
    run_cli(["publish", "orders", "--tenant", "default"], env)
    trusted = ssl.create_default_context(cafile=str(authority))
    client = Client(env["NATS_URL"], Path(env["NATS_CREDS"]), "default", "dev", tls=trusted)
    watcher = Watcher(client, "default")
    dev.sql("INSERT INTO orders (item) VALUES ('bolt')")
    wait_until(lambda: watcher.changes, 20, "the row's change")
    client.close()
    found = re.search(r"https://\S+", dev.log())
    assert found
    with urllib.request.urlopen(found.group(), timeout=5, context=trusted) as answer:
        assert answer.status == 200
    done = run_cli(["doctor"], {**env, "MUSTER_CONFIG": str(dev.site / "muster.yaml")}, check=False)
    assert "certificate broker.tls.cert" in done.stdout and "is ready" in done.stdout, done.stdout
    assert (dev.site / "tls" / "ca.key").stat().st_mode & 0o77 == 0
    before = authority.read_bytes()
    assert dev.stop() == 0
    dev.start("--tls")
    assert authority.read_bytes() == before
    assert dev.stop() == 0
    dev.start()
    assert dev.env["NATS_URL"].startswith("nats://") and "NATS_CA" not in dev.env
    assert dev.sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(False,)]
