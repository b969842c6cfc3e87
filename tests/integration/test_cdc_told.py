"""Faults of PostgreSQL's side told apart: told once, seen in /readyz and metrics, tried again at leisure, healed by themselves."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Generator

import psycopg
import pytest

from cdcrig import ORDERS, Rig, Scene, component, own_scene, told_site, wait_code
from harness import installed, wait_until

@pytest.fixture(scope="module")
def shared() -> Generator[Rig, None, None]:
    with told_site() as rig:
        yield rig


@pytest.fixture
def scene(shared: Rig, request: pytest.FixtureRequest) -> Generator[Scene, None, None]:
    """One whose names come from the test's."""
    scene = Scene(shared, re.sub(r"\W", "_", request.node.name.removeprefix("test_"))[:40].rstrip("_").lower())
    yield scene
    scene.end()


# ---- publication and slot


def test_publication_missing(scene: Scene) -> None:
    scene.broker.config["plugins"][0]["config"]["publication"] = "late"
    scene.broker.start(ready=False)
    said = scene.wait_code("publication_missing")
    assert said["state"] == "down" and "late" in said["text"] and "muster migrate" in said["text"]
    scene.check_leisure("publication_missing")
    assert not scene.rig.sql(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{scene.slot}'"), "publication before slot"
    scene.rig.sql("CREATE PUBLICATION late FOR TABLE orders")
    scene.wait_code("ok", 10)
    assert scene.flows().seq == 1 and not scene.gaps["acme"].all
    scene.rig.sql("DROP PUBLICATION late")


def test_publication_dropped_while_running(scene: Scene) -> None:
    """Up to PostgreSQL 17 a slot cannot get past a position at which its publication was not there: the slot must go."""
    scene.rig.sql("CREATE PUBLICATION brief FOR TABLE orders")
    scene.broker.config["plugins"][0]["config"]["publication"] = "brief"
    scene.broker.start()
    before = scene.flows()
    scene.rig.sql("DROP PUBLICATION brief")
    scene.row()
    said = scene.wait_code("publication_missing")
    assert "brief" in said["text"]
    scene.check_leisure("publication_missing")
    scene.rig.sql("CREATE PUBLICATION brief FOR TABLE orders")
    scene.drop_slot()
    scene.wait_code("ok", 15)
    scene.check_gap("slot_missing", before)
    scene.rig.sql("DROP PUBLICATION brief")


def test_slot_dropped_while_running(scene: Scene) -> None:
    scene.broker.start()
    before = scene.flows()
    scene.drop_slot()
    scene.wait_code("ok")
    scene.check_gap("slot_missing", before)
    assert scene.restarts() <= 3


@pytest.mark.parametrize("events_too", [False, True])
def test_slot_dropped_while_the_broker_is_down(scene: Scene, events_too: bool) -> None:
    """With the slot of events, as after a fail-over to a standby, the gap is told once that one is there again."""
    scene.broker.start()
    before = scene.flows()
    scene.broker.kill()
    lost = scene.row()
    wait_until(lambda: not scene.rig.sql("SELECT 1 FROM pg_replication_slots WHERE active"), 5, "release")
    scene.drop_slot()
    if events_too:
        scene.drop_slot("muster_evt")
    scene.broker.start()
    scene.check_gap("slot_missing", before)
    assert not [h for h in scene.ears["acme"].all if h.body["key"].get("id") == lost]


@pytest.mark.parametrize("how", ["advanced", "recreated"])
def test_slot_moved_by_somebody_else(scene: Scene, how: str) -> None:
    scene.broker.start()
    before = scene.flows()
    scene.broker.stop()
    scene.row()
    if how == "advanced":
        scene.rig.sql(f"SELECT pg_replication_slot_advance('{scene.slot}', pg_current_wal_insert_lsn())")
    else:
        scene.drop_slot()
        scene.rig.sql(f"SELECT pg_create_logical_replication_slot('{scene.slot}', 'pgoutput')")
    scene.broker.start()
    scene.check_gap("slot_advanced", before)
    gap = scene.gaps["acme"].all[0].body
    assert gap["from_lsn"] and gap["to_lsn"] and gap["from_lsn"] != gap["to_lsn"]


def test_a_restart_is_no_gap(scene: Scene) -> None:
    scene.broker.start()
    first = scene.flows()
    for end in (scene.broker.kill, scene.broker.stop, scene.broker.kill):
        end()
        row = scene.row()
        scene.broker.start()
        assert scene.hear(row).epoch == first.epoch
    assert not scene.gaps["acme"].all


def test_slot_of_another_plugin(scene: Scene) -> None:
    scene.rig.sql(f"SELECT pg_create_logical_replication_slot('{scene.slot}', 'test_decoding')")
    scene.broker.start(ready=False)
    said = scene.wait_code("slot_foreign")
    assert "test_decoding" in said["text"] and said["state"] == "down"
    scene.check_leisure("slot_foreign")
    scene.rig.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    scene.wait_code("ok", 10)
    assert scene.flows().seq == 1


def test_slot_that_can_have_no_such_name(scene: Scene) -> None:
    """What can never work stops the start."""
    broker = scene.further(slot="Main-Slot")
    broker.start(ready=False)
    wait_until(lambda: not broker.alive, 10, "the broker to end")
    assert broker.process and broker.process.wait() == 1
    assert "Main-Slot" in broker.log() and "a-z" in broker.log(), broker.log()


def test_slot_of_another_database(scene: Scene) -> None:
    with scene.rig.site.postgres.connect(dbname="postgres", autocommit=True) as connection:
        connection.execute(f"SELECT pg_create_logical_replication_slot('{scene.slot}', 'pgoutput')")
    scene.broker.start(ready=False)
    assert "another database" in scene.wait_code("slot_foreign")["text"]
    scene.rig.sql(f"SELECT pg_drop_replication_slot('{scene.slot}')")
    scene.wait_code("ok", 10)


def test_slot_waits_for_running_transactions(scene: Scene) -> None:
    """PostgreSQL makes a slot when the transactions that run have ended: to give up and ask again would never end."""
    with scene.rig.site.postgres.connect() as connection:
        connection.execute("INSERT INTO orders (tenant_id) VALUES ('acme')")
        scene.broker.start(ready=False)
        said = scene.wait_code("slot_creating")
        assert said["state"] == "down" and "transactions" in said["text"]
        threading.Event().wait(11)
        assert scene.restarts() == 0 and scene.told("slot_creating") == 1
        connection.commit()
    scene.wait_code("ok")
    scene.flows()


def test_slot_active_elsewhere(scene: Scene) -> None:
    """The second broker stands by, is ready, and takes over within 2 s of the slot's release."""
    second = scene.further()
    scene.broker.start()
    first = scene.flows()
    second.start()
    said = wait_code(second, "slot_active", 10, f"cdc.{scene.source}")
    assert said["state"] == "standby" and second.get("/readyz")[0] == 200
    holders = [scene.broker, second]
    for end in ("stop", "kill", "stop"):
        active, standby = holders
        getattr(active, end)()
        released = time.monotonic()
        heard = scene.hear(scene.row())
        assert time.monotonic() - released < 2, "take-over within 2 s"
        assert heard.epoch == first.epoch
        wait_code(standby, "ok", 10, f"cdc.{scene.source}")
        active.start()
        wait_code(active, "slot_active", 10, f"cdc.{scene.source}")
        holders.reverse()
    assert [h.seq for h in scene.ears["acme"].all] == [1, 2, 3, 4] and not scene.gaps["acme"].all


def test_slot_lost(scene: Scene) -> None:
    """The server gave up the log that the slot needs: it is made anew, and the gap is told."""
    scene.broker.start()
    before = scene.flows()
    scene.broker.stop()
    scene.rig.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")

    def lost() -> bool:
        scene.rig.sql("CREATE TABLE IF NOT EXISTS filler (v text)", "INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 9000)",
                      "SELECT pg_switch_wal()", "CHECKPOINT")
        return bool(scene.rig.sql(f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{scene.slot}' AND wal_status = 'lost'"))

    wait_until(lost, 30, "the slot to be given up")
    scene.rig.sql("ALTER SYSTEM RESET max_slot_wal_keep_size", "SELECT pg_reload_conf()", "DROP TABLE filler")
    # The slot of events is lost with it, and its reader comes later: until then nobody would hear of the gap.
    everything = scene.broker.config["plugins"]
    scene.broker.config["plugins"] = everything[:1]
    scene.broker.start(ready=False)
    wait_until(lambda: "gap: slot_missing" in scene.broker.log(), 20, "the gap to be seen")
    scene.further().start(ready=False)
    scene.check_gap("slot_missing", before)


# ---- privileges, settings, the server itself


def test_role_without_replication(scene: Scene) -> None:
    scene.broker.start()
    first = scene.flows()
    scene.broker.stop()
    scene.rig.sql("ALTER ROLE muster_broker NOREPLICATION")
    try:
        scene.broker.start(ready=False)
        said = scene.wait_code("no_replication_privilege")
        assert "REPLICATION" in said["text"]
        scene.check_leisure("no_replication_privilege")
    finally:
        scene.rig.sql("ALTER ROLE muster_broker REPLICATION")
    scene.wait_code("ok", 10)
    assert scene.flows().seq == first.seq + 1


def test_catalog_that_may_not_be_read(scene: Scene) -> None:
    """Rows wait until it is known whose they are."""
    scene.broker.start()
    first = scene.flows()
    scene.rig.sql("REVOKE SELECT ON muster.tables FROM muster_broker", "ALTER TABLE orders ADD extra int")
    try:
        row = scene.row()
        said = scene.wait_code("catalog_unreadable")
        assert "permission denied" in said["text"]
        scene.check_leisure("catalog_unreadable")
    finally:
        scene.rig.sql("GRANT SELECT ON muster.tables TO muster_broker")
    assert scene.hear(row).seq == first.seq + 1
    scene.wait_code("ok", 10)
    scene.rig.sql("ALTER TABLE orders DROP extra")


@pytest.mark.parametrize(("database", "code"), [("nosuch", "database_missing"), ("postgres", "migrations_pending")])
def test_wrong_database(scene: Scene, database: str, code: str) -> None:
    """One that is not there, and one that was not migrated: without the registry nothing begins, and both say so."""
    dsn = scene.broker.config["postgres"]["dsn"]
    scene.broker.config["postgres"]["dsn"] = dsn.removesuffix("muster") + database
    scene.broker.start(ready=False)
    scene.wait_code("postgres_away")
    said = component(scene.broker, "registry", "postgres")
    assert said["state"] == "down" and said["code"] == code and (database in said["text"] or "muster" in said["text"]), said
    assert scene.broker.get("/readyz")[0] == 503


def test_login_that_is_refused() -> None:
    """The registry tells it from a server that is away, also when the one follows the other."""
    with own_scene() as scene:
        postgres, config = scene.rig.site.postgres, scene.broker.config
        rules = postgres.data / "pg_hba.conf"
        trust = rules.read_text()
        rules.write_text("host all muster_broker all scram-sha-256\n" + trust)
        scene.rig.sql("ALTER ROLE muster_broker PASSWORD 'right'", "SELECT pg_reload_conf()")
        config["postgres"]["dsn"] = config["postgres"]["dsn"].replace("@", ":swordfish@")
        scene.broker.start(ready=False)
        wait_until(lambda: registry(scene) == "authentication", 20, "the registry to be refused")
        said = component(scene.broker, "registry", "postgres")["text"]
        assert "password authentication failed" in said and "; check postgres.dsn" in said
        postgres.stop()
        wait_until(lambda: registry(scene) == "postgres_away", 20, "the registry to miss the server")
        rules.write_text(trust)
        postgres.start()
        scene.broker.wait_ready()
        assert registry(scene) == "ok" and scene.flows().seq == 1
        lines = re.findall(r"postgres\.registry: \w+(?: \(\w+\))?", scene.broker.log())
        assert lines == ["postgres.registry: down (authentication)", "postgres.registry: down (postgres_away)", "postgres.registry: ok"]
        assert "swordfish" not in scene.broker.log()


def registry(scene: Scene) -> str:
    return str(component(scene.broker, "registry", "postgres").get("code"))


def test_database_that_goes_away(scene: Scene) -> None:
    """The registry is known already when the database cannot be connected to any more."""
    scene.broker.start()
    scene.flows()
    with psycopg.connect(scene.rig.site.postgres.dsn().replace("/muster", "/postgres"), autocommit=True) as admin:
        admin.execute("ALTER DATABASE muster ALLOW_CONNECTIONS false")
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'muster'")
            wait_until(lambda: "not currently accepting" in component(scene.broker, f"cdc.{scene.source}")["text"], 10, "PostgreSQL's words")
            scene.check_leisure("postgres_away")
        finally:
            admin.execute("ALTER DATABASE muster ALLOW_CONNECTIONS true")
    scene.wait_code("ok", 10)
    scene.flows()


def test_wal_level() -> None:
    with own_scene() as scene:
        rig, postgres = scene.rig, scene.rig.site.postgres
        rig.sql("ALTER SYSTEM SET wal_level = replica")
        postgres.stop()
        postgres.start()
        scene.broker.start(ready=False)
        said = scene.wait_code("wal_level")
        assert "replica" in said["text"] and "ALTER SYSTEM SET wal_level = logical" in said["text"]
        scene.check_leisure("wal_level")
        rig.sql("ALTER SYSTEM SET wal_level = logical")
        postgres.stop()
        postgres.start()
        scene.wait_code("ok", 15)
        assert scene.flows().seq == 1


def test_postgres_away_at_start_and_later() -> None:
    with own_scene() as scene:
        postgres = scene.rig.site.postgres
        postgres.stop()
        scene.broker.start(ready=False)
        scene.wait_code("postgres_away")
        assert scene.broker.get("/readyz")[0] == 503 and component(scene.broker, "registry", "postgres")["state"] == "down"
        postgres.start()
        scene.broker.wait_ready()
        assert scene.flows().seq == 1
        lines = scene.told("postgres_away")
        postgres.stop()
        scene.wait_code("postgres_away")
        before = scene.restarts()
        threading.Event().wait(4)
        assert scene.restarts() - before <= 8 and scene.told("postgres_away") == lines + 1
        postgres.start()
        scene.broker.wait_ready()
        assert scene.flows().seq == 2 and not scene.gaps["acme"].all


def test_another_cluster_in_its_place() -> None:
    """Restored or made anew, its positions mean nothing here: a gap, and no row is taken for one that is stored."""
    with own_scene() as scene:
        postgres = scene.rig.site.postgres
        scene.broker.start()
        scene.rig.sql("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 30000)")
        before = scene.flows()
        wait_until(lambda: scene.confirmed() > before.lsn[0], 10, "the row to be confirmed")
        scene.broker.stop()
        postgres.stop()
        postgres.data.rename(postgres.folder / "before")
        user = ["runuser", "-u", "postgres", "--"] if postgres.user else []
        subprocess.run([*user, installed("initdb"), "-D", str(postgres.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                        "-N"], check=True, cwd="/", stdout=subprocess.DEVNULL)
        conf = (postgres.folder / "before" / "postgresql.conf").read_text()
        (postgres.data / "postgresql.conf").write_text(conf)
        postgres.database = "postgres"
        postgres.start()
        scene.rig.sql("CREATE DATABASE muster")
        postgres.database = "muster"
        scene.rig.site.cli("migrate")
        for tenant in ("acme", "zeta"):
            scene.rig.site.cli("tenant", "add", tenant)
        scene.rig.sql(ORDERS)
        scene.rig.site.cli("publish", "public.orders")
        scene.broker.start()
        scene.gaps["acme"].wait(1)
        scene.broker.kill()  # before anything of the new cluster is stored
        row = scene.row()
        scene.broker.start()
        heard = scene.ears["acme"].wait_for(lambda h: h.epoch > before.epoch)
        assert heard.body["key"]["id"] == row and heard.seq == 1 and heard.lsn < before.lsn
        assert scene.gaps["acme"].all[0].body["reason"] == "cluster_changed"


# ---- at rest


def test_an_instance_that_speaks_messagepack(scene: Scene) -> None:
    """Also to tenants that do not ask for it."""
    scene.broker = scene.further(encoding="msgpack")
    heads = scene.rig.ear("evt._.head")
    scene.broker.start()
    heard = scene.flows()
    assert heard.data[:1] != b"{" and heard.body["new"]["tenant_id"] == "acme"
    assert heads.wait_for(lambda h: f"cdc.{scene.source}.public.orders" in h.body).data[:1] != b"{"


def test_an_idle_table_in_a_busy_database_holds_no_log(scene: Scene) -> None:
    scene.broker.start()
    scene.flows()
    scene.rig.sql("CREATE TABLE busy (v text)")
    for _ in range(2):
        scene.rig.sql("INSERT INTO busy SELECT repeat('x', 100) FROM generate_series(1, 1000)", "SELECT pg_logical_emit_message(true, 'x', 'y')")
        target = int(scene.rig.sql("SELECT pg_current_wal_lsn() - '0/0'")[0][0])
        wait_until(lambda: scene.confirmed() >= target, 5, "what other tables wrote to be confirmed")
    wait_until(lambda: scene.broker.metric("muster_cdc_unconfirmed_bytes", f'instance="{scene.source}"') < 1_000_000, 12, "the lag to be small")
    scene.rig.sql("DROP TABLE busy")
