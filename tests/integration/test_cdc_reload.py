"""The cdc plugin takes over changed settings while rows stream: none is lost, none comes twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client import Client
from harness import Site, wait_until
from load import KEY, TABLE, Load
from oracle import Watcher, check_heard, check_order, read_stream, replay, same_rows, table_rows
from pluginrig import reload

INSERT = "INSERT INTO public.orders (tenant_id, id, item, qty, price) VALUES (%s, %s, 'bolt', 3, 1.50)"


def settings(**changed: Any) -> Callable[[list[Any]], None]:
    """For the instance main, which is the first."""
    return lambda plugins: plugins[0]["config"].update(changed)


def test_settings_change_under_load(site: Site, watch: Callable[[str], Watcher], connect: Callable[..., Client]) -> None:
    broker = site.broker()
    broker.start()
    acme = watch("acme")
    with Load(site.postgres, ("acme",), seed=7) as load:
        for change in ({"window_msgs": 1}, {"window_msgs": 8192, "window_bytes": "64KiB"}, {"retention": "5d"},
                       {"max_bytes": "1GiB", "window_msgs": 20}):
            seen, commits = len(acme.changes), load.commits
            wait_until(lambda seen=seen, commits=commits: load.commits > commits + 30 and len(acme.changes) > seen + 30, 60, "load to flow")
            told = reload(broker, settings(**change))
            assert told[-1] == f"done; {len(told) - 1} settings taken over, 0 wait for a restart", told
    assert broker.metric("muster_cdc_restarts_total", 'instance="main"') >= 2, "a change in a pause needs none"
    site.postgres.query(INSERT, ("acme", 0))
    acme.wait_for("orders", {"tenant_id": "acme", "id": 0})
    stored = read_stream(connect())
    check_order(stored)
    check_heard(stored, acme.changes, "acme")
    same_rows(replay(stored, "acme").get(TABLE, {}), table_rows(site.postgres, TABLE, KEY))
    assert broker.stop() == 0


def test_a_table_gets_another_tenant_and_the_stream_another_age(site: Site, watch: Callable[[str], Watcher],
                                                                connect: Callable[..., Client]) -> None:
    broker = site.broker(cdc={"retention": "2d"})
    broker.start()
    acme, zeta = watch("acme"), watch("zeta")
    site.postgres.query(INSERT, ("acme", 1))
    acme.wait_for("orders", {"tenant_id": "acme", "id": 1})
    told = reload(broker, settings(retention="3d", tables={"public.orders": {"tenant": "zeta"}}))
    assert told == ["plugins.main.tables.public.orders: added; taken over", "plugins.main.retention: 2d -> 3d; taken over",
                    "done; 2 settings taken over, 0 wait for a restart"]
    site.postgres.query(INSERT, ("acme", 2))
    zeta.wait_for("orders", {"tenant_id": "acme", "id": 2})
    assert len(acme.changes) == 1
    assert connect().stream_info("CDC_main").config.max_age == 3 * 86400
    assert broker.get("/readyz")[0] == 200


def test_what_the_slot_is_made_for_waits(site: Site) -> None:
    broker = site.broker()
    broker.start()
    before = broker.metric("muster_cdc_restarts_total", 'instance="main"')
    assert reload(broker, settings(origin="none", window_msgs=5)) == [
        "plugins.main.origin: any -> none; waits for a restart", "plugins.main.window_msgs: 8192 -> 5; waits for a restart",
        "done; 2 settings wait for a restart"]
    told = reload(broker, settings(tables={"public.orders": {"tenant": "_bad"}}), end="nothing was changed")
    assert "plugins.main.tables.public.orders.tenant" in told[0]
    assert broker.metric("muster_cdc_restarts_total", 'instance="main"') == before
