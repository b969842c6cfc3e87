"""A revocation cuts who is connected: by the account's JWT on every server, by the brokers' own hand where servers can be told to."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client as NatsClient

from harness import LONG, Musterd, Site, nats_program, nats_release, nats_versions, run_cli, wait_until

SERVERS = ["", *(nats_versions() if LONG else nats_versions()[:1])]  # "": the installed one
RELOADED = "Reloaded server configuration"


class Login:
    """One connection that does not come back by itself, on a loop of the test's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str, **options: Any) -> None:
        self.loop = loop
        self.gone_after: float | None = None
        self.began = time.monotonic()
        self.client: NatsClient = loop.run_until_complete(
            nats.connect(url, allow_reconnect=False, connect_timeout=5, closed_cb=self._on_closed, error_cb=self._on_error, **options))

    async def _on_closed(self) -> None:
        self.gone_after = time.monotonic()

    async def _on_error(self, error: Exception) -> None:
        del error

    def is_gone_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.gone_after is None and time.monotonic() < end:
            self.loop.run_until_complete(asyncio.sleep(0.01))
        return self.gone_after is not None

    def close(self) -> None:
        if self.gone_after is None:
            self.loop.run_until_complete(self.client.close())


class Rig:
    def __init__(self, static: bool, version: str) -> None:
        self.site = Site(static)
        self.site.nats.program = nats_program(version)
        self.static = static
        self.version = nats_release(self.site.nats.program)
        self.site.start("acme", "zeta")
        self.loop = asyncio.new_event_loop()
        self.logins: list[Login] = []
        folder = self.site.nats.folder
        self.section: dict[str, Any] = {"urls": [self.site.nats.url]}
        if static:
            self.section |= {"user": "broker", "password_file": str(folder / "broker.pass"), "system_user": "system",
                             "system_password_file": str(folder / "system.pass")}
        else:
            self.section |= {"creds": str(folder / "broker.creds"), "system_creds": str(folder / "system.creds")}
        self.section["keys"] = str(self.site.nats.keys)
        self.config = self.site.folder / "cli.yaml"
        self.write_config(self.section)

    def write_config(self, section: dict[str, Any]) -> None:
        lines = ["nats:"] + [f"  {key}: {value if key != 'urls' else value[0]}" for key, value in section.items()]
        lines[1] = f"  urls: [\"{section['urls'][0]}\"]"
        self.config.write_text("\n".join([*lines, "postgres:", f"  dsn: {self.site.postgres.dsn('muster_broker')}", ""]))

    def cli(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return run_cli(["-c", str(self.config), *argv], {})

    def broker(self, **nats_section: Any) -> Musterd:
        section = {key: value for key, value in {**self.section, **nats_section}.items() if value is not None and key != "keys"}
        broker = Musterd("musterd", self.site.folder, {"nats": section, "postgres": self.site.broker_config()["postgres"], "plugins": []})
        self.site.brokers.append(broker)
        broker.start()
        return broker

    def add(self, tenant: str, *agents: str) -> None:
        out = self.site.folder / f"{tenant}-logins"
        self.cli("agent", "add", tenant, *agents, "--out", f"{out}/")
        if self.static and self.version < (2, 10):
            self.reload()

    def reload(self) -> None:
        read = self.site.nats.log().count(RELOADED)
        self.site.nats.signal(signal.SIGHUP)
        wait_until(lambda: self.site.nats.log().count(RELOADED) > read, 10, "nats-server to reload")

    def login(self, tenant: str, agent: str) -> Login:
        file = self.site.folder / f"{tenant}-logins" / f"{agent}.{'pass' if self.static else 'creds'}"
        how: dict[str, Any] = ({"user": f"{tenant}.{agent}", "password": file.read_text().strip()} if self.static
                               else {"user_credentials": str(file)})
        login = Login(self.loop, self.site.nats.url, **how)
        self.logins.append(login)
        return login

    def is_cut(self, tenant: str, agent: str, seconds: float) -> bool:
        """Who comes is gone again within that time; where brokers are quick, before the login is through."""
        try:
            return self.login(tenant, agent).is_gone_within(seconds)
        except (OSError, nats.errors.Error):
            return True

    def is_refused(self, tenant: str, agent: str) -> bool:
        try:
            self.login(tenant, agent)
        except Exception as error:  # noqa: BLE001: the client has several of its own
            return "uthorization" in str(error) or "expired" in str(error)
        return False

    def clear(self) -> None:
        for login in self.logins:
            login.close()
        for broker in self.site.brokers:
            broker.kill()
        self.logins.clear()
        self.site.brokers.clear()
        self.site.postgres.query("DELETE FROM muster.credentials")
        shutil.rmtree(self.site.folder / "acme-logins", ignore_errors=True)
        self.write_config(self.section)


@pytest.fixture(scope="module", params=[(static, version) for version in SERVERS for static in (False, True)],
                ids=lambda p: f"{'static' if p[0] else 'operator'}-{p[1] or 'installed'}")
def shared(request: pytest.FixtureRequest) -> Generator[Rig]:
    rig = Rig(*request.param)
    yield rig
    rig.loop.close()
    rig.site.close()


@pytest.fixture
def rig(shared: Rig) -> Generator[Rig]:
    yield shared
    shared.clear()


def test_revoking_cuts_who_is_connected(rig: Rig) -> None:
    """No broker runs: the command alone reaches the servers, and says so."""
    if rig.static and rig.version < (2, 10):
        pytest.skip("such a server reads its configuration on SIGHUP only")
    rig.add("acme", "alice", "bob")
    alice, bob = rig.login("acme", "alice"), rig.login("acme", "bob")
    said = rig.cli("agent", "revoke", "acme", "bob")
    assert "in force on 1 of 1 NATS servers" in said.stderr
    assert "NATS has cut them off" in said.stdout
    assert bob.is_gone_within(1)
    assert rig.is_refused("acme", "bob")
    assert not alice.is_gone_within(0.3)


def test_rotating_cuts_who_uses_the_old_credentials(rig: Rig) -> None:
    if rig.static and rig.version < (2, 10):
        pytest.skip("such a server reads its configuration on SIGHUP only")
    rig.add("acme", "bob")
    old = rig.login("acme", "bob")
    rig.cli("agent", "rotate", "acme", "bob", "--out", f"{rig.site.folder}/acme-logins/")
    assert old.is_gone_within(1)
    new = rig.login("acme", "bob")
    assert not new.is_gone_within(0.3)


def test_a_server_that_nobody_has_used_yet_takes_it_too(rig: Rig) -> None:
    """It would load the account of its files at the first login: that must be the new one."""
    if rig.static:
        pytest.skip("of accounts that are loaded when they are used")
    rig.site.nats.stop()
    rig.add("acme", "bob")  # says that no server has taken it; nothing there has changed
    rig.site.nats.start()
    said = rig.cli("agent", "revoke", "acme", "bob")
    if rig.version < (2, 10):
        assert "has not taken it" in said.stderr and "reload it" in said.stderr
        rig.reload()
    else:
        assert "read their configuration again" in said.stderr
    assert rig.is_refused("acme", "bob")


def test_what_cannot_be_reached_is_said(rig: Rig) -> None:
    rig.add("acme", "bob")
    login = rig.login("acme", "bob")
    rig.write_config({key: value for key, value in rig.section.items() if not key.startswith("system")})
    said = rig.cli("agent", "revoke", "acme", "bob")
    assert "no NATS server has taken it" in said.stderr and "system_creds" in said.stderr
    assert "cut" not in said.stdout
    assert not login.is_gone_within(0.3)
    rig.reload()
    assert login.is_gone_within(2)


def test_role_limits_reach_the_servers_that_run(rig: Rig) -> None:
    """`nats-config` run again after limits.subscriptions was changed: who connects then has the new one."""
    if rig.static:
        pytest.skip("of the account's JWT")
    rig.add("acme", "bob")
    login = rig.login("acme", "bob")
    rig.config.write_text(rig.config.read_text() + "limits:\n  subscriptions: 3\n")
    said = rig.cli("nats-config", "--dir", str(rig.site.nats.folder))
    assert "in force on 1 of 1 NATS servers" in said.stderr
    login.close()
    login = rig.login("acme", "bob")

    async def subscribe() -> None:
        for i in range(6):
            await login.client.subscribe(f"mst.acme.all.{i}")
        await login.client.flush()

    with pytest.raises(Exception):  # noqa: B017, PT011: the client's own, of a connection that was cut or of a limit
        rig.loop.run_until_complete(subscribe())
        assert not login.is_gone_within(1), "the server has cut it"


def test_brokers_cut_whom_the_command_cannot_reach(rig: Rig) -> None:
    """The row alone tells them. Who comes back, because the server has not learned of it, is cut again."""
    if rig.version < (2, 10):
        pytest.skip("such a server cannot be told to cut a connection")
    rig.add("acme", "alice", "bob")
    alice, bob = rig.login("acme", "alice"), rig.login("acme", "bob")
    broker = rig.broker()
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'bob'")
    assert bob.is_gone_within(1)
    assert rig.is_cut("acme", "bob", 1)
    assert not alice.is_gone_within(0.3)
    assert broker.metric("muster_kicked_total", 'result="cut"') >= 2
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = NULL WHERE tenant = 'acme' AND agent = 'bob'")
    wait_until(lambda: not rig.is_cut("acme", "bob", 0.5), 10, "a name that holds again to be let be")


def test_brokers_cut_who_has_expired_or_is_gone(rig: Rig) -> None:
    if rig.version < (2, 10):
        pytest.skip("such a server cannot be told to cut a connection")
    rig.add("acme", "ended", "removed")
    ended, removed = rig.login("acme", "ended"), rig.login("acme", "removed")
    rig.broker()
    rig.site.postgres.query("UPDATE muster.credentials SET expires_at = now() WHERE agent = 'ended'")
    assert ended.is_gone_within(1)
    rig.site.postgres.query("DELETE FROM muster.credentials WHERE agent = 'removed'")
    assert removed.is_gone_within(1)


def test_a_name_that_was_removed_may_come_back(rig: Rig) -> None:
    if rig.version < (2, 10):
        pytest.skip("such a server cannot be told to cut a connection")
    rig.add("acme", "back")
    rig.broker()
    for _ in range(3):
        removed = rig.login("acme", "back")
        rig.site.postgres.query("DELETE FROM muster.credentials WHERE agent = 'back'")
        assert removed.is_gone_within(1)
        shutil.rmtree(rig.site.folder / "acme-logins")
        rig.add("acme", "back")
    time.sleep(1)  # longer than brokers take to hear of the row
    assert not rig.login("acme", "back").is_gone_within(1)


@pytest.mark.parametrize("role", ["operator", "admin", "plugin"])
def test_brokers_cut_who_may_more_than_an_agent(rig: Rig, role: str) -> None:
    """An operator above all, who hears every tenant."""
    if rig.version < (2, 10):
        pytest.skip("such a server cannot be told to cut a connection")
    rig.cli("agent", "add", "acme", "root", "--role", role, "--out", f"{rig.site.folder}/acme-logins/")
    root = rig.login("acme", "root")
    rig.broker()
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE agent = 'root'")
    assert root.is_gone_within(1)


def test_a_server_that_cannot_cut_is_told_of(rig: Rig) -> None:
    if rig.version >= (2, 10):
        pytest.skip("of servers before 2.10")
    rig.add("acme", "bob")
    bob = rig.login("acme", "bob")
    broker = rig.broker()
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'bob'")
    wait_until(lambda: broker.metric("muster_kicked_total", 'result="too_old"') >= 1, 5, "the broker to have looked")
    assert "acme.bob may not speak any more, and is connected" in broker.log()
    assert not bob.is_gone_within(0.2)


def test_the_link_to_the_system_account_comes_back(rig: Rig) -> None:
    """What was revoked while NATS was away is cut afterwards."""
    if rig.version < (2, 10):
        pytest.skip("such a server cannot be told to cut a connection")
    rig.add("acme", "bob")
    broker = rig.broker()
    rig.site.nats.stop()
    wait_until(lambda: broker.get("/readyz")[0] != 200, 10, "the broker to notice")
    rig.site.postgres.query("UPDATE muster.credentials SET revoked_at = now() WHERE tenant = 'acme' AND agent = 'bob'")
    rig.site.nats.start()
    bob = rig.login("acme", "bob")
    assert bob.is_gone_within(10)
