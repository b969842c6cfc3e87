"""TLS of NATS and of the admin port: who is let in and who is not, and certificates that change under a running broker."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from authority import Authority, Pair, install
from client import Client
from harness import Musterd, Nats, Site, binary, free_port, run_cli, wait_until


@pytest.fixture
def folder() -> Generator[Path, None, None]:
    path = Path(tempfile.mkdtemp(prefix="muster-tls-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def ca(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture
def other(folder: Path) -> Authority:
    return Authority(folder, "other")


class Bare:
    """A broker without PostgreSQL and plugins, and the server that it is told of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats = Nats(folder)
        self.broker = Musterd("musterd", folder, {})

    def secure(self, pair: Pair, *options: str) -> None:
        run_cli(["nats-config", "--dir", str(self.nats.folder), "--tls-cert", str(pair.cert), "--tls-key", str(pair.key), *options], {})

    def configure(self, scheme: str = "tls", **tls: Path) -> None:
        self.broker.config["nats"] = {"urls": [f"{scheme}://127.0.0.1:{self.nats.port}"], "creds": str(self.nats.folder / "broker.creds"),
                                      **({"tls": {name: str(path) for name, path in tls.items()}} if tls else {})}
        self.broker.config["postgres"] = {"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}

    def start(self) -> None:
        self.nats.start()
        self.broker.start(ready=False)

    def link(self) -> bool:
        text = self.broker.get("/readyz")[1]
        parts = json.loads(text)["components"] if text.startswith("{") else []
        return any((part["kind"], part["name"], part["state"]) == ("link", "live", "ok") for part in parts)

    def wait_up(self) -> None:
        wait_until(self.link, 15, f"the link to be up\n{self.broker.get('/readyz')[1]}\n{self.broker.log()[-3000:]}")

    def wait_refused(self, *words: str) -> None:
        wait_until(lambda: any(word in self.broker.log() for word in words), 15, f"{words}\n{self.broker.log()[-3000:]}")
        assert not self.link()

    def close(self) -> None:
        if self.broker.alive:
            assert self.broker.stop() == 0, self.broker.log()[-3000:]
        assert "Sanitizer" not in self.broker.log(), self.broker.log()[-6000:]
        self.nats.kill()


@pytest.fixture
def bare(folder: Path) -> Generator[Bare, None, None]:
    bare = Bare(folder)
    try:
        yield bare
        bare.close()
    finally:
        bare.broker.kill()
        bare.nats.kill()


# ---- NATS


def test_nats_by_tls(bare: Bare, ca: Authority) -> None:
    bare.secure(ca.issue(), "--tls-ca", str(ca.cert))
    bare.configure(ca=ca.cert)
    bare.start()
    bare.wait_up()
    done = run_cli(["-c", str(bare.broker.config_path), "doctor"], {"MUSTER_NATS_KEYS": str(bare.nats.keys)}, check=False)
    assert "ok      certificate of nats-server: " in done.stdout and "certificate nats.tls.ca: " in done.stdout, done.stdout
    assert "jetstream" in done.stdout and "nats_away" not in done.stdout, done.stdout


def test_nats_by_an_authority_of_the_system(bare: Bare, ca: Authority) -> None:
    """Without nats.tls.ca those of the system are trusted, and the host is looked at all the same."""
    bare.secure(ca.issue())
    bare.configure()
    bare.nats.start()
    bare.broker.start(ready=False, env={"SSL_CERT_FILE": str(ca.cert)})
    bare.wait_up()


REFUSED: dict[str, tuple[Callable[[Authority, Authority], Pair], str]] = {
    "of another authority": (lambda _, other: other.issue(), "unable to get local issuer certificate"),
    "of another host": (lambda ca, _: ca.issue("DNS:nats.example.com"), "IP address mismatch"),
    "expired": (lambda ca, _: ca.issue(days=-1), "certificate has expired"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_server_that_is_not_trusted(bare: Bare, ca: Authority, other: Authority, what: str) -> None:
    make, word = REFUSED[what]
    pair = make(ca, other)
    if what == "expired":  # nats-config would not write it
        bare.secure(ca.issue())
        config = bare.nats.config.read_text()
        bare.nats.config.write_text(config.replace(str(ca.folder / "2.pem"), str(pair.cert)).replace(str(ca.folder / "2.key"), str(pair.key)))
    else:
        bare.secure(pair)
    bare.configure(ca=ca.cert)
    bare.start()
    bare.wait_refused(word)


def test_a_server_without_tls_is_refused(bare: Bare, ca: Authority) -> None:
    """tls:// is no wish: without encryption nothing is said, also where no authority is named."""
    bare.configure()
    bare.start()
    bare.wait_refused("Secure Connection not available", "Secure connection not available")


def test_a_plain_client_is_refused(bare: Bare, ca: Authority) -> None:
    bare.secure(ca.issue())
    bare.nats.start()
    with socket.create_connection(("127.0.0.1", bare.nats.port), timeout=5) as link:
        assert b'"tls_required":true' in link.recv(4096)
        link.sendall(b'CONNECT {"verbose":true}\r\nPING\r\n')
        link.settimeout(10)
        heard = b""
        try:
            while part := link.recv(4096):
                heard += part
        except ConnectionResetError:
            pass
    assert b"PONG" not in heard


def test_nats_asks_for_a_certificate(bare: Bare, ca: Authority, other: Authority) -> None:
    bare.secure(ca.issue(), "--tls-ca", str(ca.cert), "--tls-verify")
    own, foreign = ca.issue(), other.issue()
    cert, key = bare.folder / "own.pem", bare.folder / "own.key"
    install(foreign, cert, key)
    bare.configure(ca=ca.cert, cert=cert, key=key)
    bare.start()
    wait_until(lambda: "TLS handshake error" in bare.nats.log(), 15, "the server to refuse the certificate")
    assert not bare.link()
    install(own, cert, key)
    bare.wait_up()
    done = run_cli(["-c", str(bare.broker.config_path), "doctor"], {}, check=False)
    assert "is accepted" in done.stdout, done.stdout


def test_nats_certificates_change(bare: Bare, ca: Authority, other: Authority) -> None:
    """Another authority, the broker's certificate too: the next connect uses what is there then."""
    server_cert, server_key, trusted = (bare.folder / name for name in ("server.pem", "server.key", "trusted.pem"))
    cert, key = bare.folder / "own.pem", bare.folder / "own.key"
    install(ca.issue(), server_cert, server_key)
    install(ca.issue(), cert, key)
    shutil.copy(ca.cert, trusted)
    bare.secure(Pair(server_cert, server_key), "--tls-ca", str(trusted), "--tls-verify")
    bare.configure(ca=trusted, cert=cert, key=key)
    bare.start()
    bare.wait_up()
    pid = bare.broker.pid
    install(other.issue(), server_cert, server_key)
    install(other.issue(), cert, key)
    shutil.copy(other.cert, trusted)
    bare.nats.stop()
    bare.nats.start()
    bare.wait_up()
    assert bare.broker.pid == pid
    wait_until(lambda: "nats.tls has changed and is taken up" in bare.broker.log(), 10, "it to be told")


def test_a_broken_file_of_nats_changes_nothing(bare: Bare, ca: Authority) -> None:
    trusted = bare.folder / "trusted.pem"
    shutil.copy(ca.cert, trusted)
    bare.secure(ca.issue())
    bare.configure(ca=trusted)
    bare.start()
    bare.wait_up()
    trusted.write_text("no certificate")
    wait_until(lambda: "certificate_unusable" in bare.broker.get("/readyz")[1], 10, "it to be told")
    bare.nats.stop()
    wait_until(lambda: not bare.link(), 10, "the link to be down")
    bare.nats.start()
    bare.wait_up()
    shutil.copy(ca.cert, trusted)
    wait_until(lambda: "certificate_unusable" not in bare.broker.get("/readyz")[1], 10, "it to be well again")


def test_agents_by_tls(bare: Bare, ca: Authority, other: Authority) -> None:
    bare.secure(ca.issue("DNS:localhost"), "--tls-ca", str(ca.cert), "--tls-verify")
    bare.nats.start()
    own = ca.issue(purpose="clientAuth")
    context = ssl.create_default_context(cafile=str(ca.cert))
    context.load_cert_chain(own.cert, own.key)
    client = Client(f"tls://localhost:{bare.nats.port}", bare.nats.folder / "broker.creds", tls=context)
    assert client.connected
    client.close()


# ---- nats-config


def config(bare: Bare, *options: str) -> str:
    done = run_cli(["nats-config", "--dir", str(bare.nats.folder), *options], {}, check=False)
    return done.stdout if done.returncode == 0 else done.stderr


def test_a_command_ends_as_it_should(bare: Bare, ca: Authority) -> None:
    """It has signed something before it spoke TLS with the server, or had nobody to speak with: at the end OpenSSL is freed once."""
    bare.secure(ca.issue(), "--tls-ca", str(ca.cert))
    bare.configure(ca=ca.cert)
    bare.broker.config["nats"].update(system_creds=str(bare.nats.folder / "system.creds"), keys=str(bare.nats.keys))
    bare.nats.start()
    bare.broker.start(ready=False)
    bare.wait_up()
    command = ["-c", str(bare.broker.config_path), "nats-config", "--dir", str(bare.nats.folder)]
    for _ in range(8):
        done = run_cli(command, {}, check=False)
        assert done.returncode == 0 and "in force on 1 of 1 NATS servers" in done.stderr, done
    bare.nats.kill()
    for _ in range(2):
        done = run_cli(command, {}, check=False)
        assert done.returncode == 0 and "no NATS server has taken it" in done.stderr, done


def test_nats_config_keeps_and_ends_tls(bare: Bare, ca: Authority) -> None:
    pair = ca.issue()
    assert f'urls: ["tls://127.0.0.1:{bare.nats.port}"]' in config(bare, "--tls-cert", str(pair.cert), "--tls-key", str(pair.key),
                                                                   "--tls-ca", str(ca.cert), "--tls-verify")
    written = bare.nats.config.read_text()
    assert f'cert_file: "{pair.cert}"' in written and "verify: true" in written
    config(bare)
    assert bare.nats.config.read_text() == written
    config(bare, "--tls-ca", "")
    assert "verify" not in bare.nats.config.read_text() and "cert_file" in bare.nats.config.read_text()
    config(bare, "--tls-cert", "")
    assert "cert_file" not in bare.nats.config.read_text()


def test_options_of_tls_that_lack_another_are_wrong_use(bare: Bare, ca: Authority) -> None:
    pair = ca.issue()
    for options in (("--tls-verify",), ("--tls-cert", str(pair.cert)), ("--tls-key", str(pair.key)), ("--tls-ca", str(ca.cert)),
                    ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-verify")):
        done = run_cli(["nats-config", "--dir", str(bare.nats.folder), *options], {}, check=False)
        assert (done.returncode, done.stdout) == (2, "") and "needed" in done.stderr, options
    assert run_cli(["nats-config", "--dir", str(bare.nats.folder), "--tls-cert", "/none", "--tls-key", str(pair.key)], {}, check=False).returncode == 1


def test_nats_config_looks_at_the_files(bare: Bare, ca: Authority) -> None:
    pair, second, ended = ca.issue(), ca.issue(), ca.issue(days=-1)
    assert "--tls-cert and --tls-key are both needed" in config(bare, "--tls-cert", str(pair.cert))
    assert f"{second.key}: is not the key of the certificate" in config(bare, "--tls-cert", str(pair.cert), "--tls-key", str(second.key))
    assert "no such file" in config(bare, "--tls-cert", "/none", "--tls-key", str(pair.key))
    assert "no certificate is in it" in config(bare, "--tls-cert", str(pair.key), "--tls-key", str(pair.key))
    assert "no key that can be read" in config(bare, "--tls-cert", str(pair.cert), "--tls-key", str(pair.cert))
    assert "ended on 2020-02-01" in config(bare, "--tls-cert", str(ended.cert), "--tls-key", str(ended.key))
    assert "--tls-ca is needed too" in config(bare, "--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tls-verify")
    assert "cert_file" not in bare.nats.config.read_text()


# ---- the admin port


class Admin:
    def __init__(self, folder: Path, ca: Authority) -> None:
        self.ca = ca
        self.cert, self.key, self.client_ca = folder / "admin.pem", folder / "admin.key", folder / "clients.pem"
        self.broker = Musterd("musterd", folder, {"nats": {"urls": [f"nats://127.0.0.1:{free_port()}"]},
                                                  "postgres": {"dsn": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}})
        self.broker.config["broker"]["tls"] = {"cert": str(self.cert), "key": str(self.key)}

    def ask_clients(self, ca: Authority) -> None:
        shutil.copy(ca.cert, self.client_ca)
        self.broker.config["broker"]["tls"]["client_ca"] = str(self.client_ca)

    def start(self, pair: Pair) -> None:
        install(pair, self.cert, self.key)
        self.broker.start(ready=False)
        wait_until(self.listens, 15, f"the port to be open\n{self.broker.log()}")

    def listens(self) -> bool:
        assert self.broker.alive, self.broker.log()
        try:
            socket.create_connection(("127.0.0.1", self.broker.admin_port), timeout=2).close()
        except OSError:
            return False
        return True

    def open(self, trust: Authority | None = None, own: Pair | None = None, host: str = "127.0.0.1") -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str((trust or self.ca).cert))
        if own:
            context.load_cert_chain(own.cert, own.key)
        return http.client.HTTPSConnection(host, self.broker.admin_port, timeout=10, context=context)

    def get(self, path: str = "/healthz", **how: Any) -> str:
        link = self.open(**how)
        try:
            link.request("GET", path)
            return link.getresponse().read().decode()
        finally:
            link.close()

    def refuses(self, **how: Any) -> bool:
        try:
            self.get(**how)
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            return True
        return False

    def serial(self) -> str:
        """Of the certificate that is shown now."""
        context = ssl.create_default_context(cafile=str(self.ca.cert))
        with socket.create_connection(("127.0.0.1", self.broker.admin_port), timeout=5) as raw:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
                shown = link.getpeercert()
                assert shown
                return str(shown["serialNumber"])


def serial_of(pair: Pair) -> str:
    return str(ssl._ssl._test_decode_cert(str(pair.cert))["serialNumber"])  # type: ignore[attr-defined]


@pytest.fixture
def admin(folder: Path, ca: Authority) -> Generator[Admin, None, None]:
    admin = Admin(folder, ca)
    try:
        yield admin
        assert admin.broker.stop() == 0, admin.broker.log()[-3000:]
        assert "Sanitizer" not in admin.broker.log(), admin.broker.log()[-6000:]
    finally:
        admin.broker.kill()


def test_admin_by_tls(admin: Admin, ca: Authority, other: Authority) -> None:
    admin.start(ca.issue("IP:127.0.0.1"))
    assert admin.get() == "ok\n"
    with pytest.raises(ssl.SSLCertVerificationError):
        admin.get(trust=other)
    with pytest.raises(ssl.SSLCertVerificationError):
        admin.get(host="localhost")
    status, why = admin.broker.get("/healthz")  # in the clear
    assert status == 0, why
    assert admin.get() == "ok\n"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_admin_refuses_old_versions(admin: Admin, ca: Authority) -> None:
    admin.start(ca.issue())

    def shake(version: ssl.TLSVersion) -> str:
        context = ssl.create_default_context(cafile=str(ca.cert))
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", admin.broker.admin_port), timeout=5) as raw:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
                return link.version() or ""

    assert shake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3" and shake(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match="EOF|alert protocol version"):
        shake(ssl.TLSVersion.TLSv1_1)


def test_admin_asks_for_a_certificate(admin: Admin, ca: Authority, other: Authority) -> None:
    admin.ask_clients(ca)
    admin.start(ca.issue())
    assert admin.get(own=ca.issue(purpose="clientAuth")) == "ok\n"
    assert admin.refuses()
    assert admin.refuses(own=other.issue())
    assert admin.refuses(own=ca.issue(days=-1))
    assert admin.refuses(own=ca.issue(purpose="serverAuth"))
    assert admin.broker.get("/healthz")[0] == 0
    shutil.copy(other.cert, admin.client_ca)
    wait_until(lambda: admin.refuses(own=ca.issue()), 10, "the old authority to be worth nothing")
    assert admin.get(own=other.issue()) == "ok\n"


def test_admin_takes_up_a_new_certificate(admin: Admin, ca: Authority) -> None:
    first, second, third = ca.issue(days=10), ca.issue(days=100), ca.issue(days=200)
    admin.start(first)
    assert admin.serial() == serial_of(first)
    wait_until(lambda: "certificate_expires" in admin.get("/readyz"), 10, "the end to be told")
    assert "broker.tls.cert" in admin.broker.log()
    open_before = admin.open()
    open_before.request("GET", "/healthz")
    assert open_before.getresponse().read() == b"ok\n"
    install(second, admin.cert, admin.key)
    wait_until(lambda: admin.serial() == serial_of(second), 10, "the new certificate to be shown")
    open_before.request("GET", "/healthz")  # who was connected stays so
    assert open_before.getresponse().read() == b"ok\n"
    open_before.close()
    wait_until(lambda: "certificate_expires" not in admin.get("/readyz"), 10, "the end to be far")
    left = float(next(line.split()[-1] for line in admin.get("/metrics").splitlines()
                      if line.startswith('muster_certificate_expires_seconds{setting="broker.tls.cert"}')))
    assert 99 * 86400 < left < 100.1 * 86400
    install(third, admin.cert, admin.key)
    admin.broker.signal(signal.SIGHUP)
    wait_until(lambda: admin.serial() == serial_of(third), 5, "the third to be shown")


def test_a_broken_certificate_of_admin_changes_nothing(admin: Admin, ca: Authority) -> None:
    first, second = ca.issue(), ca.issue()
    admin.start(first)
    install(Pair(second.cert, first.key), admin.cert, admin.key)
    wait_until(lambda: "certificate_unusable" in admin.get("/readyz"), 10, "it to be told")
    assert "broker.tls cannot be used" in admin.broker.log()
    assert admin.serial() == serial_of(first)
    install(second, admin.cert, admin.key)
    wait_until(lambda: admin.serial() == serial_of(second), 10, "the good one to be shown")
    wait_until(lambda: "certificate_unusable" not in admin.get("/readyz"), 5, "it to be well again")


def test_admin_survives_rotation_under_load(admin: Admin, ca: Authority) -> None:
    """Each answer whole, whichever certificate it came with."""
    pairs = [ca.issue(), ca.issue()]
    admin.start(pairs[0])
    done = threading.Event()

    def ask() -> int:
        n = 0
        while not done.is_set():
            assert admin.get() == "ok\n"
            n += 1
        return n

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for i in range(20):
            install(pairs[i % 2], admin.cert, admin.key)
            admin.broker.signal(signal.SIGHUP)
            wait_until(lambda pair=pairs[i % 2]: admin.serial() == serial_of(pair), 10, "the other certificate to be shown")  # type: ignore[misc]
        done.set()
        assert all(future.result() > 20 for future in asking)


def test_a_silent_client_holds_up_nobody(admin: Admin, ca: Authority) -> None:
    admin.start(ca.issue())
    silent = [socket.create_connection(("127.0.0.1", admin.broker.admin_port), timeout=5) for _ in range(20)]
    assert admin.get() == "ok\n"
    for link in silent:
        link.close()


BAD = {
    "cert alone": ({"cert": "CERT"}, "broker.tls.cert: needs broker.tls.key beside it"),
    "client_ca alone": ({"client_ca": "CERT"}, "broker.tls.client_ca: needs broker.tls.cert beside it"),
    "no file": ({"cert": "/none", "key": "KEY"}, "broker.tls.cert: /none: No such file or directory, expected a readable file"),
    "no certificate": ({"cert": "KEY", "key": "KEY"}, "broker.tls.cert: "),
    "another key": ({"cert": "CERT", "key": "OTHER"}, "broker.tls.cert: "),
    "no authority": ({"cert": "CERT", "key": "KEY", "client_ca": "KEY"}, "broker.tls.client_ca: "),
}


@pytest.mark.parametrize("what", BAD)
def test_settings_that_cannot_be_used(folder: Path, ca: Authority, what: str) -> None:
    pair, second = ca.issue(), ca.issue()
    names = {"CERT": str(pair.cert), "KEY": str(pair.key), "OTHER": str(second.key)}
    settings, message = BAD[what]
    path = folder / "m.yaml"
    path.write_text(json.dumps({"broker": {"tls": {name: names.get(value, value) for name, value in settings.items()}}}))
    done = subprocess.run([binary("musterd"), "--check", "-c", str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and f": {message}" in done.stderr, done.stderr


# ---- PostgreSQL


class Database:
    """PostgreSQL that takes muster_broker by a certificate alone; the tests themselves come in the clear."""

    def __init__(self, ca: Authority) -> None:
        self.site = Site()
        self.ca = ca
        self.data = self.site.postgres.data
        self.own = (self.site.folder / "own.pem", self.site.folder / "own.key")
        (self.data / "pg_hba.conf").write_text("host all postgres 127.0.0.1/32 trust\n"
                                               "hostssl all,replication muster_broker 127.0.0.1/32 cert\n")

    def show(self, pair: Pair) -> None:
        """The server's certificate, and whose certificates it takes."""
        for source, name in ((pair.cert, "server.crt"), (pair.key, "server.key"), (self.ca.cert, "root.crt")):
            shutil.copy(source, self.data / name)
            (self.data / name).chmod(0o600)
            if self.site.postgres.user:
                shutil.chown(self.data / name, self.site.postgres.user, self.site.postgres.user)

    def start(self, pair: Pair) -> Musterd:
        self.show(pair)
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write("ssl = on\nssl_ca_file = 'root.crt'\n")
        self.site.start("acme")
        install(self.ca.issue(purpose="clientAuth"), *self.own)
        broker = self.site.broker()
        broker.config["postgres"]["dsn"] = (f"postgresql://muster_broker@127.0.0.1:{self.site.postgres.port}/muster?sslmode=verify-full"
                                            f"&sslrootcert={self.ca.cert}&sslcert={self.own[0]}&sslkey={self.own[1]}")
        return broker


@pytest.fixture
def database(ca: Authority) -> Generator[Database, None, None]:
    database = Database(ca)
    try:
        yield database
        for broker in database.site.brokers:
            assert broker.stop() == 0, broker.log()[-3000:]
            assert "Sanitizer" not in broker.log(), broker.log()[-6000:]
    finally:
        database.site.close()


def test_postgres_by_tls(database: Database, ca: Authority) -> None:
    """Registry, statements and both replication connections; a renewed certificate is used by what connects next."""
    broker = database.start(ca.issue())
    broker.start()
    postgres = database.site.postgres
    seen = postgres.query("SELECT ssl, client_serial::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'muster_broker'")
    assert len(seen) >= 3 and all(row[0] for row in seen), seen
    before = {row[1] for row in seen}
    assert broker.metric("muster_certificate_expires_seconds", 'setting="postgres.dsn sslcert"') > 300 * 86400
    install(ca.issue(days=10, purpose="clientAuth"), *database.own)
    wait_until(lambda: "certificate_expires" in broker.get("/readyz")[1], 10, "the end to be told")
    postgres.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'muster_broker'")
    broker.wait_ready()

    def after() -> set[str]:
        return {row[0] for row in postgres.query("SELECT client_serial::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                                                 " WHERE usename = 'muster_broker'")}

    wait_until(lambda: after() and not after() & before, 15, "every connection to be a new one")


DATABASES: dict[str, tuple[Callable[[Authority, Authority], Pair], str]] = {
    "of another authority": (lambda _, other: other.issue(), "certificate verify failed"),
    "of another host": (lambda ca, _: ca.issue("DNS:db.example.com"), "does not match host name"),
    "expired": (lambda ca, _: ca.issue(days=-1), "certificate verify failed"),
}


@pytest.mark.parametrize("what", DATABASES)
def test_a_database_that_is_not_trusted(database: Database, ca: Authority, other: Authority, what: str) -> None:
    make, words = DATABASES[what]
    broker = database.start(make(ca, other))
    broker.start(ready=False)
    wait_until(lambda: words in broker.log(), 15, f"{words}\n{broker.log()[-3000:]}")
    assert broker.get("/readyz")[0] == 503


def test_a_broker_that_the_database_does_not_trust(database: Database, ca: Authority, other: Authority) -> None:
    broker = database.start(ca.issue())
    install(other.issue(purpose="clientAuth"), *database.own)
    broker.start(ready=False)
    wait_until(lambda: "unknown ca" in broker.log(), 15, broker.log()[-3000:])
    assert broker.get("/readyz")[0] == 503
    install(ca.issue(purpose="clientAuth"), *database.own)
    broker.wait_ready()


# ---- doctor


def test_doctor(admin: Admin, ca: Authority) -> None:
    admin.start(ca.issue(days=5))

    def told() -> str:
        return run_cli(["-c", str(admin.broker.config_path), "doctor"], {}, check=False).stdout

    text = told()
    assert "hint    certificate broker.tls.cert: " in text and "(certificate_expires)" in text, text
    assert "is not ready (not_ready)" in text, text  # it was asked by TLS
    pair = ca.issue(days=-1)
    shutil.copy(pair.cert, admin.cert)
    text = told()
    assert "broken  certificate broker.tls.cert: " in text and "ended on 2020-02-01" in text, text
    assert "its certificate is not that of" in text, text


def test_doctor_shows_a_certificate(admin: Admin, ca: Authority, other: Authority) -> None:
    """Where the broker wants one it is the broker's own, if that is good for clients."""
    admin.ask_clients(ca)
    admin.start(ca.issue())
    text = run_cli(["-c", str(admin.broker.config_path), "doctor"], {}, check=False).stdout
    assert "is not ready (not_ready)" in text, text
    shutil.copy(other.cert, admin.client_ca)
    wait_until(lambda: admin.refuses(own=ca.issue()), 10, "the old authority to be worth nothing")
    text = run_cli(["-c", str(admin.broker.config_path), "doctor"], {}, check=False).stdout
    assert "hint    broker: no broker answers on" in text and "TLS: " in text, text
