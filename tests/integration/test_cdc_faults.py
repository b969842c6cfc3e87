"""Zero lost, zero twice, commit order kept, after every fault of the list (ARCHITECTURE, "The WAL is the outbox").

Each test runs applications against the database, breaks something, heals it, and then asks the oracle.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Generator

import pytest

from client import Client
from harness import LONG, Musterd, Site, wait_until
from load import KEY, TABLE, Load
from oracle import (
    Change, Watcher, check_heard, check_heard_while_away, check_order, read_stream, replay, same_rows, table_rows)
from proxy import Proxy

Connect = Callable[..., Client]
Watch = Callable[[str], Watcher]
TENANTS = ("acme", "zeta")
MARK = "INSERT INTO public.orders (tenant_id, id, item) VALUES (%s, %s, 'mark')"


@pytest.fixture
def proxy(site: Site) -> Generator[Proxy, None, None]:
    """The brokers' way to NATS; agents and the test itself connect directly."""
    proxy = Proxy(site.nats.port)
    yield proxy
    proxy.close()


def flowing(load: Load, watcher: Watcher, commits: int = 40) -> None:
    """Wait for further commits, and for changes that arrive meanwhile."""
    start, heard = load.commits, len(watcher.changes)
    wait_until(lambda: load.commits >= start + commits and len(watcher.changes) > heard, 60, "load to flow to the subscriber")


def pass_time(seconds: float) -> None:
    """A fault has to last: this is its length, not a wait for something."""
    threading.Event().wait(seconds)


def settle(site: Site, watchers: dict[str, Watcher], deadline: float = 90) -> None:
    """Commit a last row a tenant and wait until it is heard: what was committed before it has then passed."""
    for tenant, watcher in watchers.items():
        number = -1 - sum(change.body["key"]["id"] < 0 for change in watcher.changes if change.body["op"] == "insert")
        site.postgres.query(MARK, (tenant, number))
        watcher.wait_for("orders", {"tenant_id": tenant, "id": number}, deadline)


def judge(site: Site, connect: Connect, watchers: dict[str, Watcher], connected: bool = True) -> list[Change]:
    stored = read_stream(connect())
    check_order(stored)
    for tenant, watcher in watchers.items():
        (check_heard if connected else check_heard_while_away)(stored, watcher.changes, tenant)
        same_rows(replay(stored, tenant).get(TABLE, {}), table_rows(site.postgres, TABLE, KEY, f"tenant_id = '{tenant}'"))
    return stored


@pytest.mark.parametrize("kills", [200 if LONG else 20])
def test_random_kill_9_under_load(site: Site, watch: Watch, connect: Connect, kills: int) -> None:
    rng = random.Random(kills)
    broker = site.broker()
    broker.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    with Load(site.postgres, TENANTS, seed=2) as load:
        for kill in range(kills):
            if kill % 4 == 0:  # the others strike at any moment, also in the middle of a start
                broker.wait_ready()
                flowing(load, watchers["acme"], 5)
            pass_time(rng.random() * 0.6)
            broker.kill()
            broker.start(ready=False)
    broker.wait_ready(60)
    settle(site, watchers)
    judge(site, connect, watchers)


@pytest.mark.parametrize("seconds", [60 if LONG else 5])
def test_nats_out_of_reach(site: Site, watch: Watch, connect: Connect, proxy: Proxy, seconds: int) -> None:
    """The broker's network to NATS is away; agents stay connected and must hear everything afterwards."""
    broker = site.broker(nats_port=proxy.port)
    broker.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    with Load(site.postgres, TENANTS, seed=3) as load:
        flowing(load, watchers["acme"])
        proxy.cut()
        wait_until(lambda: broker.get("/readyz")[0] == 503, 20, "/readyz to tell that NATS is away")
        pass_time(seconds)
        assert broker.alive
        proxy.heal()
        broker.wait_ready(60)
        flowing(load, watchers["acme"])
    settle(site, watchers)
    judge(site, connect, watchers)


@pytest.mark.parametrize("seconds", [60 if LONG else 5])
def test_nats_killed_and_started_again(site: Site, watch: Watch, connect: Connect, seconds: int) -> None:
    broker = site.broker()
    broker.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    with Load(site.postgres, TENANTS, seed=4) as load:
        flowing(load, watchers["acme"])
        site.nats.kill()
        pass_time(seconds)
        site.nats.start()
        broker.wait_ready(60)
        flowing(load, watchers["acme"])
    settle(site, watchers)
    judge(site, connect, watchers, connected=False)


@pytest.mark.parametrize("seconds", [60 if LONG else 8])
def test_nats_stopped_by_sigstop(site: Site, watch: Watch, connect: Connect, seconds: int) -> None:
    """Connections stay open and nothing answers: only timeouts can tell."""
    broker = site.broker()
    broker.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    with Load(site.postgres, TENANTS, seed=5) as load:
        flowing(load, watchers["acme"])
        site.nats.pause()
        pass_time(seconds)
        site.nats.resume()
        broker.wait_ready(60)
        flowing(load, watchers["acme"])
    settle(site, watchers)
    judge(site, connect, watchers, connected=False)


@pytest.mark.parametrize("times", [10 if LONG else 2])
def test_postgres_killed_and_restarted(site: Site, watch: Watch, connect: Connect, times: int) -> None:
    broker = site.broker()
    broker.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    with Load(site.postgres, TENANTS, seed=6) as load:
        for _ in range(times):
            flowing(load, watchers["acme"])
            site.postgres.kill()
            wait_until(lambda: broker.get("/readyz")[0] == 503, 20, "/readyz to tell that PostgreSQL is away")
            site.postgres.start()
            broker.wait_ready(60)
        flowing(load, watchers["acme"])
    settle(site, watchers)
    judge(site, connect, watchers)


def test_a_host_that_never_answers_does_not_hide_the_next(site: Site, watch: Watch, connect: Connect) -> None:
    broker = site.broker()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{site.postgres.port}"
        broker.config["postgres"]["dsn"] = f"postgresql://muster_broker@{hosts}/{site.postgres.database}"
        broker.start()
        watchers = {tenant: watch(tenant) for tenant in TENANTS}
        settle(site, watchers)
        judge(site, connect, watchers)


def holder(site: Site) -> str | None:
    """The server process that feeds the slot's reader."""
    rows = site.postgres.query("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = 'muster_main' AND active")
    return str(rows[0][0]) if rows else None


def other_holder(site: Site, before: str | None, deadline: float) -> None:
    wait_until(lambda: holder(site) not in (None, before), deadline, "PostgreSQL to drop the old reader and the standby to read")


def test_a_standby_takes_over(site: Site, watch: Watch, connect: Connect) -> None:
    first, second = site.broker("first"), site.broker("second")
    first.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    second.start(ready=False)
    wait_until(lambda: second.get("/readyz")[0] in (200, 503), 20, "the standby to answer")
    with Load(site.postgres, TENANTS, seed=7) as load:
        active, standby = first, second
        for _ in range(4):
            flowing(load, watchers["acme"])
            before = holder(site)
            active.kill()
            other_holder(site, before, 5)
            flowing(load, watchers["acme"])
            active.start(ready=False)
            active, standby = standby, active
    settle(site, watchers)
    judge(site, connect, watchers)


def stop_and_wake(site: Site, load: Load, sleeper: Musterd, watcher: Watcher, seconds: float) -> None:
    before = holder(site)
    sleeper.pause()
    other_holder(site, before, 15)
    flowing(load, watcher)
    busy, load.pause = load.pause, 0.05  # it sleeps, whatever others do: a long time of it needs not many rows
    pass_time(seconds)
    load.pause = busy
    sleeper.resume()
    flowing(load, watcher)


def test_a_stopped_broker_wakes_after_the_take_over(site: Site, watch: Watch, connect: Connect) -> None:
    first, second = site.broker("first"), site.broker("second")
    first.start()
    watchers = {tenant: watch(tenant) for tenant in TENANTS}
    second.start(ready=False)
    wait_until(lambda: second.get("/readyz")[0] in (200, 503), 20, "the standby to answer")
    with Load(site.postgres, TENANTS, seed=8) as load:
        flowing(load, watchers["acme"])
        stop_and_wake(site, load, first, watchers["acme"], 20)
        stop_and_wake(site, load, second, watchers["acme"], 20 if LONG else 1)
    settle(site, watchers)
    judge(site, connect, watchers)


def test_alter_table_in_mid_transaction(site: Site, watch: Watch, connect: Connect) -> None:
    broker = site.broker()
    broker.start()
    watchers = {"acme": watch("acme")}
    with site.postgres.connect() as connection:
        for statement in (
                "INSERT INTO public.orders (tenant_id, id, item) VALUES ('acme', 1, 'a')",
                "ALTER TABLE public.orders ADD COLUMN colour text DEFAULT 'red'",
                "INSERT INTO public.orders (tenant_id, id, item) VALUES ('acme', 2, 'b')",
                "UPDATE public.orders SET colour = 'blue' WHERE id = 1",
                "ALTER TABLE public.orders DROP COLUMN qty",
                "ALTER TABLE public.orders RENAME COLUMN note TO remark",
                "UPDATE public.orders SET remark = 'c' WHERE id = 2"):
            connection.execute(statement)
        connection.commit()
    settle(site, watchers)
    first, second, blue, last = watchers["acme"].changes[:4]
    assert "colour" not in first.body["new"] and first.body["new"]["qty"] is None
    assert second.body["new"]["colour"] == "red"
    assert {"name": "colour", "type": "text"} in second.body["columns"]
    assert blue.body["new"]["colour"] == "blue" and "columns" not in blue.body
    assert last.body["new"]["remark"] == "c" and "qty" not in last.body["new"] and "note" not in last.body["new"]
    assert {"name": "remark", "type": "text"} in last.body["columns"]
    check_order(read_stream(connect()))
    check_heard(read_stream(connect()), watchers["acme"].changes, "acme")


def commit_adjacent(site: Site, ids: tuple[int, int]) -> tuple[str, bool]:
    """Two transactions whose commit records should touch. Returns where the first ends, and whether the second begins there."""
    with site.postgres.connect() as a, site.postgres.connect() as b, site.postgres.connect(autocommit=True) as observer:
        a.execute(MARK, ("acme", ids[0]))
        b.execute(MARK, ("acme", ids[1]))
        a.commit()
        end_of_a = observer.execute("SELECT pg_current_wal_insert_lsn()").fetchall()[0][0]
        b.commit()
        size = observer.execute("SELECT pg_current_wal_insert_lsn() - %s", (end_of_a,)).fetchall()[0][0]
        return end_of_a, size < 100  # one commit record takes less


def confirmed(site: Site) -> str:
    return str(site.postgres.query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'muster_main'")[0][0])


def wait_confirmed(site: Site, lsn: str) -> None:
    wait_until(lambda: confirmed(site) == lsn, 20, f"{lsn} to be confirmed")


def test_a_kill_between_adjacent_commits(site: Site, watch: Watch, connect: Connect, proxy: Proxy) -> None:
    """The first one's acknowledgement has come back and is confirmed, the second one's has not, and then kill -9."""
    broker = site.broker(nats_port=proxy.port)
    broker.start()
    watchers = {"acme": watch("acme")}
    settle(site, watchers)
    for attempt in range(1, 6):
        ids = (10 * attempt, 10 * attempt + 1)
        proxy.hold_at(b"PUB mst._in.acme.cdc.", after=1)
        end_of_first, adjacent = commit_adjacent(site, ids)
        assert proxy.held.wait(20), "the broker did not publish the second transaction"
        wait_confirmed(site, end_of_first)
        broker.kill()
        proxy.release()
        broker.start()
        settle(site, watchers)
        heard = [change.body["key"]["id"] for change in watchers["acme"].changes if change.body["key"]["id"] > 0]
        assert heard[-2:] == [*ids], f"the last two heard: {heard[-4:]}"
        if adjacent:
            break
    else:
        pytest.fail("no two commit records were adjacent in five attempts")
    judge(site, connect, watchers)
