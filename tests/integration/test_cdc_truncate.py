"""A TRUNCATE of a table of many tenants, cut off in the middle by a kill -9, while tenants come and go."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from cdcrig import Rig, installation
from ear import Ear
from harness import wait_until

N = 400


@pytest.fixture(scope="module")
def rig() -> Generator[Rig, None, None]:
    with installation() as rig:
        rig.sql("INSERT INTO muster.tenants (name, history) SELECT 'm' || lpad(n::text, 3, '0'), 'off' FROM generate_series(1, 400) n")
        rig.site.broker(cdc={"window_msgs": 16}).start()
        yield rig


def test_the_next_reader_goes_on_behind_the_last_tenant_told(rig: Rig) -> None:
    """By name, not by number: with tenants added in front and taken away there, every other one is told once."""
    table, broker = rig.table("tenant_id text, id int, PRIMARY KEY (tenant_id, id)"), rig.site.brokers[0]
    every = Ear(rig.client(), "*", f"cdc.main.public.{table}.>")
    rig.sql(f"INSERT INTO {table} VALUES ('m{N}', 1)")
    every.wait(1)
    cut = 0
    for turn in range(8):
        before = len(every.all)
        rig.sql(f"TRUNCATE {table}")
        wait_until(lambda: len(every.all) > before + 20, 20, "the first tenants to be told")
        broker.kill()
        wait_until(lambda: rig.client().stream_info("CDC_main").state.messages == len(every.all), 10, "all that is stored to be heard")
        cut += 20 < len(every.all) - before < N - turn
        rig.sql(f"INSERT INTO muster.tenants (name, history) VALUES ('a{turn}', 'off'), ('b{turn}', 'off')",
                f"DELETE FROM muster.tenants WHERE name = 'm{turn + 1:03}'")
        broker.start()
        every.wait_for(lambda h: h in every.all[before:] and h.subject.split(".")[1] == f"m{N}")
        rig.sql(f"INSERT INTO {table} VALUES ('m{N}', {turn + 2})")
        every.wait_for(lambda h: h.body["key"].get("id") == turn + 2)
        told = [(h.subject.split(".")[1], h.lsn) for h in every.all[before:] if h.body["op"] == "truncate"]
        names = [name for name, _ in told]
        assert names == sorted(set(names)), f"turn {turn}: a tenant was told twice: {names}"
        assert {f"m{n:03}" for n in range(turn + 2, N + 1)} <= set(names), f"turn {turn}: a tenant was not told"
        assert [lsn[2] for _, lsn in told] == list(range(len(told))), "the parts count without a hole"
        if cut >= 3:
            break
    assert cut >= 2, "no truncate was cut off in the middle"
    assert broker.stop() == 0


def test_nats_killed_in_the_middle(rig: Rig) -> None:
    """A link that falls between two tenants ends the life of the instance, and nothing of it is touched afterwards."""
    table, broker = rig.table("tenant_id text, id int, PRIMARY KEY (tenant_id, id)"), rig.site.brokers[0]
    if not broker.alive:
        broker.start()
    every = Ear(rig.client(), "*", f"cdc.main.public.{table}.>")
    for turn in range(3):
        rig.sql("DO $$ BEGIN FOR i IN 1..10 LOOP TRUNCATE " + table + "; END LOOP; END $$")
        before = len(every.all)
        wait_until(lambda: len(every.all) > before + 50, 20, "the first tenants to be told")
        rig.site.nats.kill()
        wait_until(lambda: broker.get("/readyz")[0] == 503, 20, "/readyz to tell that NATS is away")
        assert broker.alive
        rig.site.nats.start()
        broker.wait_ready(60)
    assert broker.stop() == 0
