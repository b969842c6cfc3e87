"""A server that asks the brokers about logins (auth callout), for test_logins.py and test_auth_tokens.py."""

from __future__ import annotations

import base64
import json
import re
import socket
import time
from typing import Any

import nkeys
import pytest

from client import Client
from harness import LONG, Musterd, Site, nats_versions, run_cli
from pluginrig import plugin

COMPLAINTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant")
VIOLATION = "Authorization Violation"
# Version of the server, and whether in the static form; each of them once, or all of both.
FORMS = ([(version, static) for version in nats_versions() for static in (False, True)] if LONG
         else [(nats_versions()[0], False), (nats_versions()[-1], True)])


class Rig:
    """A site whose server asks, and any number of brokers that answer."""

    def __init__(self, program: str, static: bool = False, callout: bool = True) -> None:
        self.static = static
        self.site = Site(static)
        self.site.nats.program = program
        self.folder = self.site.nats.folder
        if callout:
            run_cli(["nats-config", "--dir", str(self.folder), "--callout"], {})
        self.site.start("acme", "zeta")
        self.clients: list[Client] = []

    def nats_section(self) -> dict[str, Any]:
        section: dict[str, Any] = {"urls": [self.site.nats.url], "callout_key_file": str(self.folder / "callout.nk")}
        if self.static:
            for user in ("", "system_", "callout_"):
                name = user.strip("_") or "broker"
                section |= {f"{user}user": name, f"{user}password_file": str(self.folder / f"{name}.pass")}
            return section
        return section | {f"{user}creds": str(self.folder / f"{user.strip('_') or 'broker'}.creds")
                          for user in ("", "system_", "callout_")}

    def broker(self, name: str = "musterd", *plugins: dict[str, Any], **nats_options: Any) -> Musterd:
        """Not yet started."""
        broker = Musterd(name, self.site.folder, {
            "nats": self.nats_section() | nats_options, "postgres": {"dsn": self.site.postgres.dsn("muster_broker"), "pool": 2},
            "plugins": list(plugins) or [plugin("logins", "logins"), plugin("conns", "conns")]})
        self.site.brokers.append(broker)
        return broker

    @property
    def beside(self) -> dict[str, Any]:
        """What a client brings besides its token."""
        return {} if self.static else {"user_credentials": str(self.folder / "sentinel.creds")}

    def client(self, token: str, **options: Any) -> Client:
        tenant, agent = token.removeprefix("late.300.").split(".")[:2]
        login = {} if "user" in options else {"token": token}
        client = Client(self.site.nats.url, tenant=tenant, agent=agent, **login, allow_reconnect=False, connect_timeout=15,
                        **self.beside, **options)
        self.clients.append(client)
        return client

    def refused(self, token: str) -> float:
        """Seconds until the client was told the one thing that clients are told."""
        begun = time.monotonic()
        with pytest.raises(Exception, match=VIOLATION):
            Client(self.site.nats.url, token=token, allow_reconnect=False, connect_timeout=15, **self.beside)
        return time.monotonic() - begun

    def unanswered(self, token: str) -> float:
        """Seconds until the server closed the connection; it never said PONG. nats-py takes the end of a connection for its begin."""
        begun = time.monotonic()
        link = socket.create_connection(("127.0.0.1", self.site.nats.port))
        link.settimeout(20)
        info = json.loads(link.recv(8192)[5:].split(b"\r\n")[0])
        connect = {"verbose": False, "pedantic": False, "lang": "raw", "version": "0", "auth_token": token}
        if not self.static:
            creds = (self.folder / "sentinel.creds").read_text()
            jwt, seed = re.findall(r"-----\n(\S+)\n-", creds)
            signed = nkeys.from_seed(seed.encode()).sign(info["nonce"].encode())
            connect |= {"jwt": jwt, "sig": base64.urlsafe_b64encode(signed).decode().rstrip("=")}
        link.sendall(b"CONNECT " + json.dumps(connect).encode() + b"\r\nPING\r\n")
        heard = b""
        while more := link.recv(4096):
            heard += more
        assert b"PONG" not in heard, heard
        return time.monotonic() - begun

    def insider(self, kind: str) -> Client:
        login: dict[str, Any] = ({"user": kind, "password": (self.folder / f"{kind}.pass").read_text().strip()} if self.static
                                 else {"creds": self.folder / f"{kind}.creds"})
        client = Client(self.site.nats.url, **login)
        self.clients.append(client)
        return client

    def row(self, tenant: str, agent: str) -> tuple[Any, ...] | None:
        rows = self.site.postgres.query(
            "SELECT role, public_key, revoked_at IS NULL FROM muster.credentials WHERE tenant = %s AND agent = %s", (tenant, agent))
        return rows[0] if rows else None

    def end_clients(self) -> None:
        while self.clients:
            self.clients.pop().close()

    def close(self) -> None:
        self.end_clients()
        self.site.close()
