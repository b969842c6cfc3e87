"""Whose row is it: by column, by map, of nobody, of a table that cannot be delivered; and changes of all that while brokers run."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from cdcrig import Rig, component, installation, wait_code
from ear import Ear
from harness import Musterd, wait_until

ROWS = "tenant_id text, id int, v text, PRIMARY KEY (tenant_id, id)"
# Nullable and not in the primary key, so that anything can stand in the tenant column.
LOOSE = "tenant_id text, id int PRIMARY KEY, v text"
FULL = "ALTER TABLE {} REPLICA IDENTITY FULL"


@pytest.fixture(scope="module")
def rig() -> Generator[Rig, None, None]:
    with installation("acme", "zeta", "lost") as rig:
        broker = rig.site.broker(cdc={"tables": {
            "public.configured": {"tenant": "zeta"}, "public.overridden": {"tenant": "zeta", "subject_key": True},
            "public.columned": {"tenant_column": "owner"}}})
        broker.config["plugins"].append({"name": "cdc", "instance": "taker", "config": {
            "slot": "muster_taker", "unroutable": {"tenant": "lost"}}})
        broker.start()
        yield rig


@pytest.fixture
def broker(rig: Rig) -> Musterd:
    return rig.site.brokers[0]


@pytest.fixture
def every(rig: Rig) -> Ear:
    """The changes of all tenants, as only a broker may hear them."""
    return Ear(rig.client(), "*", "cdc.main.>")


def tenants(ear: Ear, table: str) -> list[tuple[str, int]]:
    return [(h.subject.split(".")[1], h.body["key"]["id"]) for h in ear.all if h.body["table"] == table]


def unroutable(broker: Musterd, table: str, instance: str = "main") -> float:
    return broker.metric("muster_cdc_unroutable_total", f'table="public.{table}"', f'instance="{instance}"')


def test_a_tenant_that_was_added_a_moment_ago(rig: Rig, every: Ear) -> None:
    """The row's transaction follows the tenant's at once, faster than any notice."""
    table = rig.table(ROWS)
    for n in range(50):
        rig.sql(f"INSERT INTO muster.tenants (name) VALUES ('new{n}')", f"INSERT INTO {table} VALUES ('new{n}', {n})")
    for n in range(50, 55):
        rig.site.cli("tenant", "add", f"new{n}")
        rig.sql(f"INSERT INTO {table} VALUES ('new{n}', {n})")
    rig.transaction("INSERT INTO muster.tenants (name) VALUES ('new55')", f"INSERT INTO {table} VALUES ('new55', 55)")
    wait_until(lambda: len(tenants(every, table)) >= 56, 20, "the rows of 56 new tenants")
    assert tenants(every, table) == [(f"new{n}", n) for n in range(56)]


def test_a_tenant_that_comes_after_its_first_rows(rig: Rig, broker: Musterd, every: Ear) -> None:
    """What was nobody's when it was committed stays so; what is committed after the tenant is its own."""
    table = rig.table(ROWS)
    rig.sql(f"INSERT INTO {table} VALUES ('late', 1)")
    wait_until(lambda: unroutable(broker, table) == 1, 10, "the row to be counted")
    rig.sql("INSERT INTO muster.tenants (name) VALUES ('late')", f"INSERT INTO {table} VALUES ('late', 2)")
    wait_until(lambda: tenants(every, table), 10, "the row of the new tenant")
    assert tenants(every, table) == [("late", 2)]


def test_a_tenant_that_is_removed(rig: Rig, broker: Musterd, every: Ear) -> None:
    table = rig.table(ROWS)
    rig.sql("INSERT INTO muster.tenants (name) VALUES ('gone')", f"INSERT INTO {table} VALUES ('gone', 1)")
    wait_until(lambda: tenants(every, table), 10, "its row")
    rig.sql("DELETE FROM muster.tenants WHERE name = 'gone'")
    wait_until(lambda: rig.sql(f"INSERT INTO {table} SELECT 'gone', count(*) + 1 FROM {table}") or unroutable(broker, table) > 0,
               10, "its rows to be nobody's")


def test_rows_of_nobody_are_counted_and_told_once_a_minute(rig: Rig, broker: Musterd, every: Ear) -> None:
    table = rig.table(LOOSE, after=FULL)
    taken = Ear(rig.client(), "*", f"cdc.taker.public.{table}.>")
    values = [None, "", "nobody", "a.b", "*", ">", "_in", "_muster", "x" * 65, "é", "acme ", "ACME"]
    with rig.site.postgres.connect() as connection:
        for n, value in enumerate(values):
            connection.execute(f"INSERT INTO {table} VALUES (%s, %s)", (value, n))
    rig.sql(f"INSERT INTO {table} SELECT 'nobody', n FROM generate_series(100, 150) n", f"INSERT INTO {table} VALUES ('acme', 99)",
            f"UPDATE {table} SET tenant_id = 'nobody' WHERE id = 99", f"UPDATE {table} SET tenant_id = NULL WHERE id = 99",
            f"UPDATE {table} SET tenant_id = 'zeta' WHERE id = 99")
    wait_until(lambda: len(tenants(every, table)) >= 3, 10, "the rows of somebody")
    assert tenants(every, table) == [("acme", 99), ("acme", 99), ("zeta", 99)]
    assert [h.body["op"] for h in every.all if h.body["table"] == table] == ["insert", "delete", "insert"]
    # Each half of a move is a row of its own: to nobody, from nobody to nobody, from nobody.
    assert unroutable(broker, table) == len(values) + 51 + 1 + 2 + 1
    assert broker.log().count(f"main: table public.{table}: a row goes to nobody: its tenant is NULL (1 so far)") == 1
    assert broker.log().count(f"main: table public.{table}: a row goes to nobody") == 1
    assert unroutable(broker, table, "taker") == 0, "there they have a taker"
    taken.wait(len(values) + 51 + 3 + 4)
    assert {h.subject.split(".")[1] for h in taken.all} == {"lost", "acme", "zeta"}
    assert [h.body["new"]["tenant_id"] for h in taken.all[:len(values)]] == values


def test_tables_mapped_by_configuration_and_by_publish(rig: Rig, broker: Musterd, every: Ear) -> None:
    """The configuration goes before muster.tables, setting by setting."""
    rig.table("id int PRIMARY KEY", "--tenant", "acme", name="mapped")
    rig.sql("CREATE TABLE configured (id int PRIMARY KEY)", "ALTER PUBLICATION muster ADD TABLE configured")
    rig.table("id int PRIMARY KEY, x int", "--tenant", "acme", name="overridden")
    rig.table("tenant_id text, owner text, id int, PRIMARY KEY (owner, id)", "--tenant-column", "owner", name="columned")
    rig.sql("INSERT INTO mapped VALUES (1)", "INSERT INTO configured VALUES (1)", "INSERT INTO overridden VALUES (1)",
            "INSERT INTO columned VALUES ('acme', 'zeta', 1)", "UPDATE overridden SET x = 2", "DELETE FROM mapped", "DELETE FROM configured")
    wait_until(lambda: tenants(every, "configured")[1:], 10, "seven changes")
    told = {table: tenants(every, table) for table in ("mapped", "configured", "overridden", "columned")}
    assert told == {"mapped": [("acme", 1)] * 2, "configured": [("zeta", 1)] * 2, "overridden": [("zeta", 1)] * 2, "columned": [("zeta", 1)]}
    assert [h.subject.split(".")[-1] for h in every.all if h.body["table"] == "overridden"] == ["1", "1"]
    assert component(broker)["code"] == "ok"


def test_tables_published_while_brokers_run(rig: Rig, every: Ear) -> None:
    """A mapping counts for the row that follows it at once, faster than any notice."""
    names = [rig.table("id int PRIMARY KEY, v text", "--tenant", "zeta", "--subject-key") for _ in range(1)]
    for n in range(12):
        names.append(f"further{n}")
        rig.sql(f"CREATE TABLE further{n} (id int PRIMARY KEY)")
        rig.transaction(f"INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('public', 'further{n}', 'zeta')",
                        f"ALTER PUBLICATION muster ADD TABLE further{n}")
        rig.sql(f"INSERT INTO further{n} VALUES ({n})")
    wait_until(lambda: tenants(every, "further11"), 10, "the last table's row")
    assert [tenants(every, f"further{n}") for n in range(12)] == [[("zeta", n)] for n in range(12)]

    moved = names[0]
    rig.sql(f"INSERT INTO {moved} VALUES (1)")
    wait_until(lambda: tenants(every, moved), 10, "a row of the table as it was published first")
    rig.site.cli("publish", f"public.{moved}", "--tenant", "acme")
    wait_until(lambda: rig.sql(f"UPDATE {moved} SET v = clock_timestamp()::text") or tenants(every, moved)[-1] == ("acme", 1), 10,
               "a changed mapping to be picked up")
    last = [h for h in every.all if h.body["table"] == moved][-1]
    assert last.subject.endswith(".update._"), "the key is in the subject no more"


def refuse(rig: Rig, name: str, columns: str) -> None:
    """Published behind the back of `muster publish`, which would not have it."""
    rig.sql(f"CREATE TABLE {name} ({columns})", f"ALTER PUBLICATION muster ADD TABLE {name}")


def test_refused_tables(rig: Rig, broker: Musterd, every: Ear) -> None:
    counted = broker.metric("muster_cdc_refused_total", 'instance="main"')
    fine = rig.table(ROWS)
    refuse(rig, "lacking", LOOSE)
    refuse(rig, "without", "id int PRIMARY KEY")
    refuse(rig, "dropped", "id int PRIMARY KEY")
    for n in range(3):
        rig.sql(f"INSERT INTO lacking VALUES ('acme', {n})", f"INSERT INTO without VALUES ({n})", f"INSERT INTO dropped VALUES ({n})",
                f"INSERT INTO {fine} VALUES ('acme', {n})")
    said = wait_code(broker, "table_refused")
    wait_until(lambda: len(tenants(every, fine)) == 3, 10, "the other table to go on")
    said = component(broker)
    assert said["state"] == "degraded" and all(f"public.{name}" in said["text"] for name in ("lacking", "without", "dropped"))
    status, text = broker.get("/readyz")
    assert status == 200 and json.loads(text)["ready"] is True
    wait_until(lambda: broker.metric("muster_cdc_refused_total", 'instance="main"') == counted + 9, 5, "nine refused rows to be counted")
    for name, hint in (("lacking", "REPLICA IDENTITY FULL"), ("without", "`muster publish --tenant T`")):
        lines = [line for line in broker.log().splitlines() if f"main: table public.{name} is refused" in line]
        assert len(lines) == 1 and hint in lines[0], lines
    assert all(not tenants(every, name) for name in ("lacking", "without", "dropped"))

    rig.sql("ALTER PUBLICATION muster DROP TABLE dropped")
    wait_until(lambda: "dropped" not in component(broker)["text"], 10, "a table that is published no more to be forgotten")
    rig.sql("ALTER TABLE lacking REPLICA IDENTITY FULL", "INSERT INTO lacking VALUES ('acme', 7)")
    wait_until(lambda: tenants(every, "lacking"), 10, "the mended table's row")
    rig.site.cli("publish", "public.without", "--tenant", "zeta")
    wait_code(broker, "ok", 5)
    rig.sql("INSERT INTO without VALUES (8)")
    wait_until(lambda: tenants(every, "without"), 10, "the mapped table's row")
    assert tenants(every, "lacking") == [("acme", 7)] and tenants(every, "without") == [("zeta", 8)]


def test_a_partition_that_lacks_the_tenant(rig: Rig, broker: Musterd, every: Ear) -> None:
    """A new partition does not inherit its root's identity, and its rows come as the root's: a delete would be nobody's."""
    rig.sql("CREATE TABLE parts (id int PRIMARY KEY, tenant_id text, v text) PARTITION BY RANGE (id)",
            "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
            "ALTER TABLE parts REPLICA IDENTITY FULL", "ALTER TABLE parts_1 REPLICA IDENTITY FULL")
    rig.site.cli("publish", "public.parts")
    rig.sql("INSERT INTO parts VALUES (1, 'acme')")
    wait_until(lambda: tenants(every, "parts"), 10, "a row of the first partition")
    rig.sql("CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20)", "INSERT INTO parts VALUES (11, 'acme')")
    said = wait_code(broker, "table_refused")
    assert "public.parts (partition public.parts_2)" in said["text"], said
    assert "ALTER TABLE public.parts_2 REPLICA IDENTITY FULL" in broker.log()
    rig.sql("ALTER TABLE parts_2 REPLICA IDENTITY FULL")
    wait_code(broker, "ok", 15)
    rig.sql("INSERT INTO parts VALUES (12, 'acme')", "DELETE FROM parts WHERE id = 12")
    wait_until(lambda: tenants(every, "parts")[2:], 10, "insert and delete of the mended partition")
    assert [(h.body["op"], h.body["key"]) for h in every.all if h.body["table"] == "parts"] == [
        ("insert", {"id": 1}), ("insert", {"id": 12}), ("delete", {"id": 12})]


def test_key_of_an_index_that_includes_more(rig: Rig, every: Ear) -> None:
    table = rig.table("id int, v text, tenant_id text, PRIMARY KEY (id) INCLUDE (v)", "--subject-key", after=FULL)
    rig.sql(f"INSERT INTO {table} VALUES (1, 'x', 'acme')", f"UPDATE {table} SET v = 'y'")
    wait_until(lambda: tenants(every, table)[1:], 10, "two changes")
    assert [(h.body["key"], h.subject.split(".")[-1]) for h in every.all if h.body["table"] == table] == [({"id": 1}, "1")] * 2


def test_identity_nothing(rig: Rig, broker: Musterd, every: Ear) -> None:
    """Refused by `muster publish`, and by the broker where the tenant is a column; mapped, its inserts have no key."""
    rig.sql("CREATE TABLE bare (tenant_id text, v text)", "ALTER TABLE bare REPLICA IDENTITY NOTHING")
    said = rig.site.cli("publish", "public.bare", check=False)
    assert said.returncode == 1 and "no replica identity" in said.stderr, said.stderr
    rig.sql("ALTER PUBLICATION muster ADD TABLE bare", "INSERT INTO bare VALUES ('acme', 'x')")
    wait_code(broker, "table_refused")
    rig.sql("INSERT INTO muster.tables (schema_name, table_name, tenant) VALUES ('public', 'bare', 'acme')")
    wait_code(broker, "ok")
    rig.sql("INSERT INTO bare VALUES ('zeta', 'y')", "TRUNCATE bare")
    wait_until(lambda: len([h for h in every.all if h.body["table"] == "bare"]) == 2, 10, "insert and truncate")
    insert, truncate = (h for h in every.all if h.body["table"] == "bare")
    assert insert.body["key"] == {} and insert.body["new"] == {"tenant_id": "zeta", "v": "y"} and "Muster-Key" not in insert.headers
    assert insert.subject.split(".")[1] == truncate.subject.split(".")[1] == "acme"
