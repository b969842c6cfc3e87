"""Rows reach their tenant's subjects, once, with the body that INTERFACE 4 promises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from client import Client
from harness import Site, wait_until
from load import KEY, TABLE, Load
from oracle import Watcher, check_heard, check_order, read_stream, replay, same_rows, table_rows

INSERT = "INSERT INTO public.orders (tenant_id, id, item, qty, price) VALUES (%s, %s, 'bolt', 3, 1.50)"


def test_insert_update_delete(site: Site, watch: Callable[[str], Watcher]) -> None:
    site.broker().start()
    acme, zeta = watch("acme"), watch("zeta")
    site.postgres.query(INSERT, ("acme", 1))
    site.postgres.query("UPDATE public.orders SET qty = 4 WHERE id = 1")
    site.postgres.query("DELETE FROM public.orders WHERE id = 1")
    site.postgres.query(INSERT, ("zeta", 2))
    zeta.wait_for("orders", {"tenant_id": "zeta", "id": 2})
    wait_until(lambda: len(acme.changes) >= 3, 10, "three changes of acme")

    insert, update, delete = acme.changes
    assert insert.subject == "mst.acme.cdc.main.public.orders.insert._"
    assert insert.body["op"] == "insert" and insert.body["old"] is None
    assert insert.body["key"] == {"tenant_id": "acme", "id": 1}
    assert insert.body["new"]["item"] == "bolt" and insert.body["new"]["qty"] == 3
    assert insert.body["new"]["price"] == "1.50" and insert.body["new"]["data"] is None
    assert {"name": "qty", "type": "int4"} in insert.body["columns"]
    assert update.subject == "mst.acme.cdc.main.public.orders.update._"
    assert update.body["new"]["qty"] == 4 and "columns" not in update.body
    assert delete.subject == "mst.acme.cdc.main.public.orders.delete._"
    assert delete.body["new"] is None and delete.body["key"] == {"tenant_id": "acme", "id": 1}
    assert "qty" not in delete.body["old"], "a key-only old row must not show its other columns as NULL"
    assert [change.seq for change in acme.changes] == [1, 2, 3]
    assert [change.seq for change in zeta.changes] == [1], "zeta hears its own rows only"


def test_a_tenant_move_is_delete_and_insert(site: Site, watch: Callable[[str], Watcher]) -> None:
    site.broker().start()
    acme, zeta = watch("acme"), watch("zeta")
    site.postgres.query(INSERT, ("acme", 1))
    site.postgres.query("UPDATE public.orders SET tenant_id = 'zeta' WHERE id = 1")
    zeta.wait_for("orders", {"tenant_id": "zeta", "id": 1})
    wait_until(lambda: len(acme.changes) == 2, 10, "acme to hear the row leave")
    assert acme.changes[1].body["op"] == "delete" and zeta.changes[0].body["op"] == "insert"
    assert acme.changes[1].lsn[:2] == zeta.changes[0].lsn[:2], "one change, two parts"
    assert acme.changes[1].lsn[2] < zeta.changes[0].lsn[2], "delete before insert"


@pytest.mark.parametrize("where", ["dsn", "PGOPTIONS"])
def test_options_of_the_connection_string_hold_beside_ours(site: Site, watch: Callable[[str], Watcher], where: str) -> None:
    """A table's name is told with its schema where search_path does not lead to it; a date is told as ours say, whatever theirs do."""
    site.postgres.query("CREATE TABLE public.odd (tenant_id text, id int, which regclass, day date, PRIMARY KEY (tenant_id, id))")
    site.cli("publish", "public.odd")
    broker = site.broker()
    options = "-csearch_path=elsewhere -cdatestyle=German"
    if where == "dsn":
        broker.config["postgres"]["dsn"] += "?options=" + options.replace(" ", "%20").replace("=", "%3D")
    broker.start(env={where: options})
    acme = watch("acme")
    site.postgres.query("INSERT INTO public.odd VALUES ('acme', 1, 'public.odd', '2026-11-22')")
    wait_until(lambda: acme.changes, 10, "the row")
    assert acme.changes[0].body["new"]["which"] == "public.odd" and acme.changes[0].body["new"]["day"] == "2026-11-22"


def test_kill_9_loses_nothing_and_repeats_nothing(
        site: Site, watch: Callable[[str], Watcher], connect: Callable[..., Client]) -> None:
    broker = site.broker()
    broker.start()
    acme = watch("acme")
    with Load(site.postgres, ("acme",), seed=1) as load:
        wait_until(lambda: load.commits > 50 and len(acme.changes) > 50, 30, "load to flow")
        broker.kill()
        killed_at = load.commits
        wait_until(lambda: load.commits > killed_at + 50, 30, "commits while no broker runs")
        broker.start()
    site.postgres.query(INSERT, ("acme", 0))
    acme.wait_for("orders", {"tenant_id": "acme", "id": 0})

    stored = read_stream(connect())
    check_order(stored)
    check_heard(stored, acme.changes, "acme")
    same_rows(replay(stored, "acme").get(TABLE, {}), table_rows(site.postgres, TABLE, KEY))
