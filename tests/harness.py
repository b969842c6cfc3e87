"""Private servers for the black-box tests: PostgreSQL, nats-server and musterd, and the `muster` command line.

Every server is a child in a process group of its own, dies with the test run (PR_SET_PDEATHSIG) and is killed at exit.
Ports lie below the kernel's ephemeral range: a client that dials a dead server's port inside that range can connect to
itself, and then holds the port.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg

REPO = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("MUSTER_BUILD", REPO / "build" / "debug")).resolve()  # servers run in folders of their own
LONG = os.environ.get("MUSTER_TEST_LONG") == "1"
ROOT_TOKEN = "mst"

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def wait_until(condition: Callable[[], Any], deadline: float, what: str) -> Any:
    """Poll condition until it is true and return its value; fail after deadline seconds with what was awaited."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.01)


# A port whose server is not up yet, or down for a while, is not another's: workers of one run take every n-th each, none twice in a row.
WORKERS, WORKER = (int(os.environ.get(f"PYTEST_XDIST_WORKER{what}", default).removeprefix("gw")) for what, default in (("_COUNT", "1"), ("", "0")))
_given: deque[int] = deque(maxlen=100)


def free_port() -> int:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    lowest = min(15000, first - 1000)
    for _ in range(2000):
        port = random.SystemRandom().randrange(lowest + WORKER, first, WORKERS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.append(port)
        return port
    raise RuntimeError("no free port below the ephemeral range")


def binary(name: str) -> str:
    """A program of the build under test."""
    path = BUILD / "bin" / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: build first, or set MUSTER_BUILD")
    return str(path)


def installed(name: str) -> str:
    """A program of the system; PostgreSQL's are not on the PATH, the newest major version wins."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    path = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ["PATH"], "/usr/sbin"]))
    if path is None:
        raise FileNotFoundError(f"{name} is not installed; the packages are listed in deploy/packages")
    return path


# The one server that a whole run of tests uses where a test names none: "" (the installed one) or a version of tests/servers.
NATS_VERSION = os.environ.get("MUSTER_TEST_NATS", "")


def nats_versions() -> list[str]:
    """What tests/servers pins, oldest first: "2.10", "2.15"."""
    names = [path.stem.removeprefix("nats-") for path in (REPO / "tests/servers").glob("nats-*.txt")]
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def nats_program(version: str = "") -> str:
    """nats-server: the installed one, or one of tests/servers by its version ("2.10")."""
    if not version:
        return installed("nats-server")
    path = REPO / "tests/.servers" / f"nats-{version}" / "bin/nats-server"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: tests/servers/install gets nats-server {', '.join(nats_versions())}")
    return str(path)


def nats_release(program: str) -> tuple[int, ...]:
    """What a nats-server says it is, e.g. (2, 10, 26)."""
    said = subprocess.run([program, "--version"], text=True, capture_output=True, check=True).stdout
    return tuple(int(part) for part in re.findall(r"\d+", said)[:3])


class Server:
    """One child process that can be stopped, killed, paused and started again on the same ports."""

    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL
    user: str | None = None

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log_path = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.paused = False
        atexit.register(self.kill)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self, argv: list[str], env: Mapping[str, str] | None = None) -> None:
        """Start the child. The death signal is bound to the calling thread: call from the main thread."""
        assert not self.alive, f"{self.name} runs already"
        parent, death = os.getpid(), int(self.death_signal)

        def before_exec() -> None:  # runs after the change of user, which would clear the setting
            _libc.prctl(_PR_SET_PDEATHSIG, death)
            if os.getppid() != parent:
                os._exit(1)

        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, process_group=0,
                user=self.user, group=self.user and pwd.getpwnam(self.user).pw_gid, extra_groups=[] if self.user else None,
                env={**os.environ, **(env or {})}, preexec_fn=before_exec)

    def signal(self, number: int) -> None:
        if self.alive:
            os.killpg(self.pid, number)

    def stop(self, deadline: float = 20) -> int:
        """End it the polite way and return its exit code."""
        assert self.process is not None
        self.signal(self.stop_signal)
        wait_until(lambda: not self.alive, deadline, f"{self.name} to end after signal {self.stop_signal}\n{self.log()[-2000:]}")
        return self.process.wait()

    def kill(self) -> None:
        if self.alive and self.process:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def pause(self) -> None:
        self.paused = True
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)
        self.paused = False


class Postgres(Server):
    """A private cluster with trust on the loopback address. fsync is off: tests kill processes, not machines."""

    stop_signal = signal.SIGINT  # fast shutdown
    death_signal = signal.SIGQUIT  # immediate shutdown, which also ends the backends
    database = "muster"

    def __init__(self, folder: Path, migrated: bool = False) -> None:
        """migrated: with what `muster migrate` makes, and no tenant."""
        super().__init__("postgres", folder / "postgres")
        self.user = "postgres" if os.geteuid() == 0 else None
        self.port = free_port()
        self.data = self.folder / "data"
        # Owners come along. There are hundreds of clusters a run: Python takes twice as long, and copy_file_range(2) on ext4 six times.
        subprocess.run(["cp", "-a", "--reflink=never", str(_migrated_template() if migrated else _cluster_template()), str(self.folder)], check=True)
        atexit.register(self.discard)

    def dsn(self, role: str = "postgres") -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{self.database}"

    def start(self) -> None:
        """A cluster that was killed refuses to start while its last backends are still ending: try until it does."""
        def up() -> bool:
            if not self.alive:
                self.spawn([installed("postgres"), "-D", str(self.data), "-p", str(self.port)])
            return self._accepts()

        wait_until(up, 30, f"PostgreSQL to accept connections\n{self.log()[-2000:]}")

    def _accepts(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """kill -9 of the postmaster and of every backend: they sit in sessions of their own."""
        if self.alive:
            for child in _children(self.pid):
                _try_kill(child)
        super().kill()

    def discard(self) -> None:
        """End it for ever. A cluster that was killed leaves a segment of shared memory, of which a machine has 4,096."""
        self.kill()
        try:
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
        except (OSError, IndexError):
            return
        subprocess.run(["ipcrm", "-m", segment], stderr=subprocess.DEVNULL)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(), **options)

    def query(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own."""
        with self.connect(autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []


_template: Path | None = None


def _cluster_template() -> Path:
    """initdb once a run; every cluster is a copy."""
    global _template
    if _template is None:
        _template = _temporary_folder("template")
        target = _template / "data"
        user = "postgres" if os.geteuid() == 0 else None
        if user:
            shutil.chown(_template, user)
        subprocess.run(
            [installed("initdb"), "-D", str(target), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"],
            user=user, check=True, cwd="/", stdout=subprocess.DEVNULL)
        with (target / "postgresql.conf").open("a") as conf:
            conf.write("wal_level = logical\nfsync = off\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
                       "max_wal_senders = 10\nmax_replication_slots = 10\nmax_connections = 60\nshared_buffers = 32MB\n"
                       "restart_after_crash = on\nlog_line_prefix = '%m %b [%p] '\n")
        subprocess.run(
            [installed("postgres"), "--single", "-D", str(target), "postgres"], user=user, check=True, cwd="/",
            input=b"CREATE DATABASE muster;\n", stdout=subprocess.DEVNULL)
    return _template


_migrated: Path | None = None


def _migrated_template() -> Path:
    """A cluster on which `muster migrate` has run, stopped cleanly."""
    global _migrated
    if _migrated is None:
        server = Postgres(_temporary_folder("migrated"))
        server.start()
        run_cli(["migrate"], {"MUSTER_POSTGRES_ADMIN_DSN": server.dsn(), "MUSTER_POSTGRES_DSN": server.dsn("muster_broker")})
        assert server.stop() == 0, server.log()[-2000:]
        server.log_path.unlink()
        _migrated = server.folder
    return _migrated


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def _try_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Nats(Server):
    """nats-server with what `muster nats-config` wrote: operator mode, or static users."""

    def __init__(self, folder: Path, static: bool = False, version: str = NATS_VERSION) -> None:
        super().__init__("nats", folder / "nats")
        self.folder.mkdir()
        self.port = free_port()
        self.config = self.folder / "nats-server.conf"
        self.keys = self.folder / "keys"
        self.program = nats_program(version)
        argv = ["nats-config", "--dir", str(self.folder), "--listen", f"127.0.0.1:{self.port}",
                "--store", str(self.folder / "store")] + (["--static"] if static else [])
        run_cli(argv, {})

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.spawn([self.program, "-c", str(self.config)])
        wait_until(self._greets, 15, f"nats-server to greet\n{self.log()[-2000:]}")

    def _greets(self) -> bool:
        assert self.alive, f"nats-server ended\n{self.log()[-2000:]}"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as link:
                return link.recv(5) == b"INFO "
        except OSError:
            return False


class Musterd(Server):
    """A broker with a configuration of its own."""

    def __init__(self, name: str, folder: Path, config: dict[str, Any]) -> None:
        super().__init__(name, folder)
        self.admin_port = free_port()
        self.config = {**config, "broker": {
            "http": f"127.0.0.1:{free_port()}", "admin": f"127.0.0.1:{self.admin_port}",
            "log": {"format": "text", "level": "info"}, **config.get("broker", {})}}
        self.config_path = folder / f"{name}.yaml"

    def start(self, ready: bool = True, env: Mapping[str, str] | None = None) -> None:
        self.config_path.write_text(json.dumps(self.config, indent=2))  # JSON is YAML's flow style
        self.spawn([binary("musterd"), "-c", str(self.config_path)], env)
        if ready:
            self.wait_ready()

    def wait_ready(self, deadline: float = 30) -> None:
        def ready() -> bool:
            assert self.alive, f"musterd ended before it was ready\n{self.log()[-3000:]}"
            return self.get("/readyz")[0] == 200

        try:
            wait_until(ready, deadline, f"{self.name} to be ready")
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.get('/readyz')[1]}\n{self.log()[-3000:]}") from late

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a page of the admin port; status 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=3) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics, by name with labels as they stand; none when nobody is there to tell them. Who is only slow is waited for."""
        status, text = self.get("/metrics")
        for _ in range(5):
            if status or "timed out" not in text or self.paused or not self.alive:
                break
            status, text = self.get("/metrics")
        return {name: float(value) for name, value in re.findall(r"^([a-zA-Z_:][^ #]*(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}

    def metric(self, name: str, *labels: str) -> float:
        """Sum of a metric's samples that carry every given label, e.g. 'instance="main"'."""
        return sum(value for sample, value in self.metrics().items()
                   if sample.partition("{")[0] == name and all(label in sample for label in labels))


def run_cli(argv: list[str], env: Mapping[str, str], check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([binary("muster"), *argv], env={**os.environ, **env}, text=True, capture_output=True, timeout=120)
    if check and done.returncode != 0:
        raise AssertionError(f"muster {' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def _temporary_folder(name: str) -> Path:
    """Open to look through, because PostgreSQL runs as another user when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix=f"muster-{name}-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Site:
    """One installation: PostgreSQL, NATS and any number of brokers, under one folder."""

    def __init__(self, static: bool = False, nats: str = NATS_VERSION, migrated: bool = True) -> None:
        """nats: a version of tests/servers instead of the installed server. migrated: False where `muster migrate` has not run yet."""
        self.folder = _temporary_folder("site")
        self.static = static
        self.postgres = Postgres(self.folder, migrated)
        self.nats = Nats(self.folder, static, nats)
        self.brokers: list[Musterd] = []
        self._creds: dict[tuple[str, str], Path] = {}

    def start(self, *tenants: str) -> Site:
        """Servers up, schema in place, tenants known."""
        self.postgres.start()
        self.nats.start()
        for tenant in tenants:
            self.cli("tenant", "add", tenant)
        return self

    @property
    def servers(self) -> list[Server]:
        return [*self.brokers, self.nats, self.postgres]

    def close(self) -> None:
        for server in self.servers:
            server.kill()
        self.postgres.discard()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cli(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        env = {"MUSTER_NATS_KEYS": str(self.nats.keys), "MUSTER_POSTGRES_DSN": self.postgres.dsn("muster_broker"),
               "MUSTER_POSTGRES_ADMIN_DSN": self.postgres.dsn()}
        if self.static:  # names and files of passwords stand in a file only
            path = self.folder / "cli.yaml"
            path.write_text(json.dumps({"nats": self.nats_section()}))
            env["MUSTER_CONFIG"] = str(path)
        else:
            env |= {"MUSTER_NATS_URLS": self.nats.url, "MUSTER_NATS_CREDS": str(self.nats.folder / "broker.creds"),
                    "MUSTER_NATS_SYSTEM_CREDS": str(self.nats.folder / "system.creds")}
        return run_cli(list(argv), env, check)

    def agent(self, tenant: str, name: str, role: str = "agent") -> Path:
        """The creds file of an agent, minted on first use."""
        if (tenant, name) not in self._creds:
            path = self.folder / f"{tenant}-{name}.creds"
            self.cli("agent", "add", tenant, name, "--role", role, "--out", str(path))
            self._creds[tenant, name] = path
        return self._creds[tenant, name]

    def nats_section(self, port: int | None = None) -> dict[str, Any]:
        """How a broker, or a command, logs in."""
        section: dict[str, Any] = {"urls": [f"nats://127.0.0.1:{port or self.nats.port}"]}
        folder = self.nats.folder
        if self.static:
            return section | {"user": "broker", "password_file": str(folder / "broker.pass"), "system_user": "system",
                              "system_password_file": str(folder / "system.pass")}
        return section | {"creds": str(folder / "broker.creds"), "system_creds": str(folder / "system.creds")}

    def broker_config(self, nats_port: int | None = None, cdc: dict[str, Any] | None = None) -> dict[str, Any]:
        main = {"publication": "muster", "slot": "muster_main", "snapshot": "never", "tenant_column": "tenant_id", **(cdc or {})}
        return {
            "nats": self.nats_section(nats_port),
            "postgres": {"dsn": self.postgres.dsn("muster_broker")},
            "plugins": [{"name": "cdc", "instance": "main", "config": main},
                        {"name": "cdc", "instance": "evt", "config": {"slot": "muster_evt", "messages": ["muster.evt"]}}]}

    def broker(self, name: str = "musterd", **options: Any) -> Musterd:
        """A further broker of this site, not yet started."""
        broker = Musterd(name, self.folder, self.broker_config(**options))
        self.brokers.append(broker)
        return broker
