"""What the tests of the cdc plugin share: an installation a module, tables made and published in a line, what brokers say."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg

from client import Client
from ear import Ear, Heard
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


ORDERS = "CREATE TABLE orders (tenant_id text, id int GENERATED ALWAYS AS IDENTITY, v text, PRIMARY KEY (tenant_id, id))"


class Scene:
    """One broker with a source of its own beside the slot of events, so that the tests do not meet."""

    def __init__(self, rig: Rig, source: str) -> None:
        self.rig = rig
        self.source = self.slot = source
        self.broker = self.further()
        self.ears = {tenant: rig.ear(f"cdc.{source}.>", tenant) for tenant in ("acme", "zeta")}
        self.gaps = {tenant: rig.ear(f"evt.cdc.gap.{source}", tenant) for tenant in ("acme", "zeta")}

    def further(self, **cdc: Any) -> Musterd:
        """A broker for the same source, not yet started."""
        broker = self.rig.site.broker(f"{self.source}{len(self.rig.site.brokers)}", cdc={"slot": self.slot, **cdc})
        broker.config["plugins"][0]["instance"] = self.source
        return broker

    def row(self, tenant: str = "acme") -> int:
        return int(self.rig.sql(f"INSERT INTO orders (tenant_id) VALUES ('{tenant}') RETURNING id")[0][0])

    def hear(self, row: int, tenant: str = "acme", deadline: float = 20) -> Heard:
        return self.ears[tenant].wait_for(lambda h: h.body.get("key", {}).get("id") == row, deadline)

    def flows(self, deadline: float = 20) -> Heard:
        return self.hear(self.row(), "acme", deadline)

    def wait_code(self, code: str, deadline: float = 20) -> dict[str, Any]:
        return wait_code(self.broker, code, deadline, f"cdc.{self.source}")

    def restarts(self) -> float:
        return self.broker.metric("muster_cdc_restarts_total", f'instance="{self.source}"')

    def told(self, code: str) -> int:
        """How often the log names the fault."""
        return len(re.findall(rf"plugin\.cdc\.{self.source}: \w+ \({code}\)", self.broker.log()))

    def check_leisure(self, code: str) -> None:
        """While a fault lasts it is tried again ever more seldom, and the log has it once."""
        assert self.broker.get("/readyz")[0] == 503
        before = self.restarts()
        threading.Event().wait(3)
        assert component(self.broker, f"cdc.{self.source}")["code"] == code
        assert self.restarts() - before <= 7, "a hot loop"
        assert self.told(code) == 1, self.broker.log()

    def check_gap(self, reason: str, before: Heard, count: int = 1) -> None:
        """Each tenant has been told, a new epoch counts from 1, and what follows arrives."""
        for tenant in ("acme", "zeta"):
            gap = self.gaps[tenant].wait(count)[-1]
            assert gap.body["source"] == self.source and gap.body["reason"] == reason, gap.body
            assert set(gap.body) == {"source", "reason", "from_lsn", "to_lsn", "epoch", "at"}
            row = self.row(tenant)
            heard = self.hear(row, tenant)
            assert heard.epoch == gap.body["epoch"] > before.epoch
            first = next(h for h in self.ears[tenant].all if h.epoch == heard.epoch)
            assert first.seq == 1 and "columns" in first.body
        assert [len(ear.all) for ear in self.gaps.values()] == [count, count]
        assert self.broker.metric("muster_cdc_gaps_total", f'instance="{self.source}"') >= 1

    def drop_slot(self, name: str = "") -> None:
        """Also under a reader that comes back at once."""
        slot = name or self.slot

        def dropped() -> bool:
            try:
                self.rig.sql(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'",
                             f"SELECT pg_drop_replication_slot('{slot}')")
            except psycopg.errors.ObjectInUse:
                return False
            return True

        wait_until(dropped, 10, "the slot to be dropped")

    def confirmed(self) -> int:
        return int(self._slot("confirmed_flush_lsn - '0/0'")[0][0])

    def _slot(self, columns: str, condition: str = "true") -> list[tuple[Any, ...]]:
        return self.rig.sql(f"SELECT {columns} FROM pg_replication_slots WHERE slot_name = '{self.slot}' AND {condition}")

    def end(self) -> None:
        for broker in self.rig.site.brokers:
            if broker.alive:
                assert broker.stop() == 0, broker.log()[-3000:]
        wait_until(lambda: not self._slot("1", "active"), 10, "the slot to be released")
        self._slot("pg_drop_replication_slot(slot_name)")


@contextmanager
def told_site() -> Generator[Rig, None, None]:
    """An installation whose table `orders` belongs to acme and zeta."""
    with installation("acme", "zeta") as rig:
        rig.sql(ORDERS)
        rig.site.cli("publish", "public.orders")
        yield rig


@contextmanager
def own_scene() -> Generator[Scene, None, None]:
    """Servers of its own, for what would break those of other tests."""
    with told_site() as rig:
        yield Scene(rig, "main")
