"""What the tests of the cdc plugin share: one installation a module, tables made and published in a line, what the broker says."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from client import Client
from ear import Ear
from harness import Musterd, Site, wait_until

COMPLAINTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant")


@contextmanager
def installation(*tenants: str) -> Generator[Rig, None, None]:
    """Servers up and tenants known, no broker yet; at the end every broker that still runs must end cleanly."""
    site = Site()
    rig = Rig(site)
    try:
        site.start(*tenants)
        yield rig
        rig.check_brokers()
    except BaseException:
        for server in site.servers:
            print(f"--- {server.name}\n{server.log()[-8000:]}", file=sys.stderr)
        raise
    finally:
        rig.close()


class Rig:
    def __init__(self, site: Site) -> None:
        self.site = site
        self._clients: list[Client] = []
        self._made = 0

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.site.close()

    def check_brokers(self) -> None:
        for broker in self.site.brokers:
            broker.resume()
            if broker.alive:
                assert broker.stop() == 0, f"{broker.name} did not end cleanly\n{broker.log()[-6000:]}"
            for complaint in COMPLAINTS:
                at = broker.log().find(complaint)
                assert at < 0, f"{broker.name}: {broker.log()[max(0, at - 200):at + 6000]}"

    def sql(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements, each in a transaction of its own; the rows of the last one."""
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            rows = self.site.postgres.query(statement)
        return rows

    def transaction(self, *statements: str) -> None:
        with self.site.postgres.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def table(self, columns: str, *publish: str, name: str = "", after: str = "") -> str:
        """Make a table, run `after` on it ({} is its name) and publish it; returns its bare name."""
        self._made += 1
        name = name or f"t{self._made}"
        self.sql(f"CREATE TABLE public.{name} ({columns})")
        for statement in filter(None, after.split(";")):
            self.sql(statement.format(name))
        self.site.cli("publish", f"public.{name}", *publish)
        return name

    def client(self, tenant: str = "", agent: str = "watcher") -> Client:
        creds = self.site.agent(tenant, agent) if tenant else self.site.nats.folder / "broker.creds"
        self._clients.append(Client(self.site.nats.url, creds, tenant, agent if tenant else ""))
        return self._clients[-1]

    def ear(self, subject: str, tenant: str = "acme") -> Ear:
        return Ear(self.client(tenant), tenant, subject)

    def changes(self, table: str, tenant: str = "acme", source: str = "main") -> Ear:
        """The changes of one table of schema public."""
        return self.ear(f"cdc.{source}.public.{table}.>", tenant)


def component(broker: Musterd, name: str = "cdc.main", kind: str = "plugin") -> dict[str, Any]:
    """What /readyz says of one component; empty when nobody answers or there is none."""
    status, text = broker.get("/readyz")
    if not status:
        return {}
    found: dict[str, Any] = next((c for c in json.loads(text)["components"] if (c["kind"], c["name"]) == (kind, name)), {})
    return found


def wait_code(broker: Musterd, code: str, deadline: float = 20, name: str = "cdc.main") -> dict[str, Any]:
    """Wait until a plugin instance says `code` of itself."""
    try:
        wait_until(lambda: component(broker, name).get("code") == code, deadline, f"{name} to say {code}")
    except AssertionError as late:
        raise AssertionError(f"{late}; it says {component(broker, name)}\n{broker.log()[-4000:]}") from None
    return component(broker, name)
