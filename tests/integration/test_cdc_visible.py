"""A commit stands in the log before the database shows it: what cdc looks up must be what the transaction itself has made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import suppress

import psycopg
import pytest

from cdcrig import Rig, component, installation, wait_code
from ear import Ear
from harness import Musterd, wait_until

ROWS = "tenant_id text, id int, v text, PRIMARY KEY (tenant_id, id)"


@pytest.fixture(scope="module")
def rig() -> Generator[Rig, None, None]:
    """A cluster whose sessions do not wait for a synchronous standby unless they ask for it."""
    with installation("acme") as rig:
        rig.sql("ALTER DATABASE muster SET synchronous_commit = 'local'")
        rig.site.broker().start()
        yield rig


@pytest.fixture
def broker(rig: Rig) -> Musterd:
    return rig.site.brokers[0]


@pytest.fixture
def unseen(rig: Rig) -> Generator[Callable[..., Callable[[], None]], None, None]:
    """unseen(statements): commit them in a transaction that stays invisible, as with a standby that is away, until what is returned is called."""
    workers: list[threading.Thread] = []

    def show() -> None:
        rig.sql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
        for worker in workers:
            worker.join(20)

    def commit(statements: tuple[str, ...]) -> None:
        with suppress(psycopg.OperationalError), psycopg.connect(rig.site.postgres.dsn()) as connection:  # the server may be stopped
            for statement in ("SET synchronous_commit = 'on'", *statements):
                connection.execute(statement)

    def start(*statements: str) -> Callable[[], None]:
        rig.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()")
        wait_until(lambda: rig.sql("SHOW synchronous_standby_names") == [("nobody",)], 10, "the setting to be read")
        workers.append(threading.Thread(target=commit, args=(statements,)))
        workers[-1].start()
        wait_until(lambda: rig.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), 10, "the commit to wait")
        position = rig.sql("SELECT pg_current_wal_flush_lsn()")[0][0]
        wait_until(lambda: rig.sql(f"SELECT 1 FROM pg_stat_replication WHERE application_name = 'muster cdc' AND sent_lsn >= '{position}'"),
                   10, "the commit to be sent to the broker")
        return show

    yield start
    show()


def test_tenant_and_rows_of_one_transaction(rig: Rig, broker: Musterd, unseen: Callable[..., Callable[[], None]]) -> None:
    """The row is the new tenant's, however long the database takes to show either; meanwhile the instance says what it waits for."""
    table = rig.table(ROWS)
    every = Ear(rig.client(), "*", f"cdc.main.public.{table}.>")
    show = unseen("INSERT INTO muster.tenants (name) VALUES ('young')", f"INSERT INTO {table} VALUES ('young', 1)")
    said = wait_code(broker, "not_visible")
    assert said["state"] == "degraded" and "synchronous_standby_names" in said["text"], said
    assert broker.metric("muster_cdc_unroutable_total") == 0 and not every.all
    show()
    assert [(h.subject.split(".")[1], h.body["key"]["id"]) for h in every.wait(1)] == [("young", 1)]
    wait_code(broker, "ok")
    assert broker.log().count("(not_visible)") == 1


def test_table_and_type_and_rows_of_one_transaction(rig: Rig, unseen: Callable[..., Callable[[], None]]) -> None:
    """Settings, types and primary key are looked up: none of them is there before the transaction shows."""
    every = Ear(rig.client(), "*", "cdc.main.public.whole.>")
    show = unseen("CREATE DOMAIN amount AS int", "CREATE TABLE whole (a amount, id int PRIMARY KEY)", "ALTER TABLE whole REPLICA IDENTITY FULL",
                  "INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('public', 'whole', 'acme')",
                  "ALTER PUBLICATION muster ADD TABLE whole", "INSERT INTO whole VALUES (7, 1)")
    assert not every.all
    show()
    body = every.wait(1)[0].body
    assert body["key"] == {"id": 1} and body["new"] == {"a": 7, "id": 1}


def test_unknown_tenants_cost_one_question_each(rig: Rig, broker: Musterd) -> None:
    """What the database did not know is asked again only when the log says that tenants have changed."""
    table = rig.table(ROWS)
    every = Ear(rig.client(), "*", f"cdc.main.public.{table}.>")
    asked = broker.metric("muster_cdc_questions_total", 'instance="main"')
    for n in range(200):
        rig.sql(f"INSERT INTO {table} VALUES ('nobody{n % 4}', {n})")
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 1)")
    every.wait(1)
    assert 4 <= broker.metric("muster_cdc_questions_total", 'instance="main"') - asked <= 20
    rig.sql("INSERT INTO muster.tenants (name) VALUES ('nobody2')", f"INSERT INTO {table} VALUES ('nobody2', 1000)")
    assert [h.subject.split(".")[1] for h in every.wait(2)] == ["acme", "nobody2"]
    assert component(broker)["code"] == "ok"


def test_a_server_that_stops_does_not_wait_for_the_reader(rig: Rig, broker: Musterd, unseen: Callable[..., Callable[[], None]]) -> None:
    """It waits until its readers have confirmed all that was sent, and nothing is confirmed while a question cannot be answered."""
    table = rig.table(ROWS)
    every = Ear(rig.client(), "*", f"cdc.main.public.{table}.>")
    unseen("INSERT INTO muster.tenants (name) VALUES ('last')", f"INSERT INTO {table} VALUES ('last', 1)")
    wait_code(broker, "not_visible")
    rig.site.postgres.stop(15)
    rig.site.postgres.start()
    assert [h.subject.split(".")[1] for h in every.wait(1)] == ["last"]


@pytest.mark.parametrize("names", ["*", 'ANY 1 (other, "Muster CDC")'])
def test_no_synchronous_standby_of_anybody(rig: Rig, broker: Musterd, names: str) -> None:
    """A reader that commits wait for, and that waits for a commit to be visible, would stop the cluster."""
    wait_code(broker, "ok")
    try:
        rig.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT pg_reload_conf()")
        said = wait_code(broker, "synchronous_standby")
        assert said["state"] == "down" and names in said["text"], said
        wait_until(lambda: rig.sql("SELECT count(*) FROM pg_stat_replication") == [(0,)], 10, "both readers to be gone")
    finally:
        rig.sql("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")
    wait_code(broker, "ok")


def test_a_forgotten_transaction_shows_in_the_lag(rig: Rig, broker: Musterd) -> None:
    """The log is kept from its beginning, although all that was committed is confirmed."""
    rig.sql("CREATE TABLE junk (v text)", "CREATE TABLE held (v int)")
    with rig.site.postgres.connect() as forgotten:
        forgotten.execute("INSERT INTO held VALUES (1)")
        for _ in range(4):
            rig.sql("INSERT INTO junk SELECT repeat('x', 1000) FROM generate_series(1, 5000)", "CHECKPOINT")
        wait_until(lambda: broker.metric("muster_cdc_lag_bytes", 'instance="main"') > 15_000_000
                   > 1_000_000 > broker.metric("muster_cdc_unconfirmed_bytes", 'instance="main"'), 20, "the lag to be told")
