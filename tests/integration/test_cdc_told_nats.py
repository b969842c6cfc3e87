"""Faults of NATS's side told apart: told once, seen in /readyz and metrics, tried again at leisure, healed by themselves."""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Generator

import pytest

from cdcrig import Rig, Scene, component, own_scene, told_site
from harness import wait_until


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


def test_stream_deleted_while_running(scene: Scene) -> None:
    """Seen by the next change at the latest; what was under way is sent again into the new stream."""
    scene.broker.start()
    before = scene.flows()
    scene.rig.client().delete_stream(f"CDC_{scene.source}")
    assert scene.flows().epoch > before.epoch
    scene.wait_code("ok", 10)
    scene.check_gap("stream_recreated", before)
    assert scene.restarts() <= 3 and scene.told("stream_missing") == 1


def test_stream_deleted_while_nothing_changes(scene: Scene) -> None:
    """Noticed within seconds all the same, because its history is gone."""
    scene.broker.start()
    before = scene.flows()
    scene.rig.client().delete_stream(f"CDC_{scene.source}")
    scene.gaps["acme"].wait(1, 8)
    scene.wait_code("ok", 10)
    scene.check_gap("stream_recreated", before)


def test_stream_deleted_while_the_broker_is_down(scene: Scene) -> None:
    scene.broker.start()
    before = scene.flows()
    scene.broker.kill()
    scene.rig.client().delete_stream(f"CDC_{scene.source}")
    row = scene.row()
    scene.broker.start()
    assert scene.hear(row).epoch > before.epoch, "the log has it still"
    scene.check_gap("stream_recreated", before)


def test_stream_purged(scene: Scene) -> None:
    """History is less, and nothing else: positions go on."""
    scene.broker.start()
    first = scene.flows()
    client = scene.rig.client()
    client.purge(f"CDC_{scene.source}")
    assert (second := scene.flows()).seq == 2
    client.purge(f"CDC_{scene.source}")
    threading.Event().wait(6)  # the watch over the stream comes by
    third = scene.flows()
    assert third.seq == 3 and first.epoch == second.epoch == third.epoch
    assert scene.restarts() == 0 and not scene.gaps["acme"].all and component(scene.broker, f"cdc.{scene.source}")["code"] == "ok"


def test_a_purge_makes_nothing_come_twice(scene: Scene) -> None:
    """The log is confirmed after the stream has it: what lies between is not sent again when the stream's tail is gone."""
    scene.broker.start()
    for _ in range(3):
        row = scene.row()
        scene.hear(row)
        wait_until(lambda: scene.confirmed() > scene.hear(row).lsn[0], 5, "the row to be confirmed")
        scene.broker.kill()
        scene.rig.client().purge(f"CDC_{scene.source}")
        scene.broker.start()
    scene.flows()
    ids = [h.body["key"]["id"] for h in scene.ears["acme"].all]
    assert len(ids) == len(set(ids)) == 4


def test_stream_of_somebody_else(scene: Scene) -> None:
    client = scene.rig.client()
    client.add_stream(f"CDC_{scene.source}", ["elsewhere.>"])
    scene.broker.start(ready=False)
    said = scene.wait_code("stream_conflict")
    assert said["state"] == "down"
    scene.check_leisure("stream_conflict")
    client.delete_stream(f"CDC_{scene.source}")
    scene.wait_code("ok", 10)
    assert scene.flows().seq == 1


def test_message_of_somebody_else(scene: Scene) -> None:
    """Refused by the fence, told, and not taken for a tail: removing it is enough."""
    scene.broker.start()
    first = scene.flows()
    client = scene.rig.client()
    client.publish(f"mst._in.acme.cdc.{scene.source}.x.y.insert._", b"{}")
    row = scene.row()
    scene.wait_code("stream_foreign")
    scene.check_leisure("stream_foreign")
    client.delete_message(f"CDC_{scene.source}", client.stream_info(f"CDC_{scene.source}").state.last_seq)
    scene.wait_code("ok", 10)
    heard = scene.hear(row)
    assert heard.seq == first.seq + 1 and heard.epoch == first.epoch


def test_bucket_deleted_while_running(scene: Scene) -> None:
    """Without the record nobody can say that the chain is whole."""
    scene.broker.start()
    before = scene.flows()
    scene.rig.client().delete_stream("KV_muster_cdc")
    scene.flows()
    scene.gaps["acme"].wait(1, 45)  # the reader of events has to see it, too; it is waited for for 30 s
    scene.wait_code("ok", 10)
    scene.check_gap("position_unknown", before)


def test_nats_away_at_start_and_later() -> None:
    with own_scene() as scene:
        nats = scene.rig.site.nats
        nats.stop()
        scene.broker.start(ready=False)
        scene.wait_code("nats_away")
        assert scene.broker.get("/readyz")[0] == 503 and scene.restarts() == 0
        nats.start()
        scene.broker.wait_ready()
        assert scene.flows().seq == 1
        nats.stop()
        scene.wait_code("nats_away")
        lines, before = scene.told("nats_away"), scene.restarts()
        row = scene.row()
        threading.Event().wait(3)
        assert scene.restarts() - before <= 2 and scene.told("nats_away") == lines
        nats.start()
        scene.broker.wait_ready()
        assert scene.hear(row).seq == 2 and not scene.gaps["acme"].all


@pytest.mark.parametrize("part", ["all", "stream"])
def test_stream_restored_from_an_older_copy(part: str) -> None:
    """The whole store, record and all, or the one stream: what was stored in between is missed, and told."""
    with own_scene() as scene:
        nats = scene.rig.site.nats
        store = nats.folder / "store"
        scene.broker.start()
        scene.flows()
        wait_until(lambda: scene.confirmed() > scene.ears["acme"].all[-1].lsn[0], 10, "the first row to be confirmed")
        scene.wait_code("ok")
        nats.stop()
        shutil.copytree(store, nats.folder / "older")
        nats.start()
        scene.broker.wait_ready()
        for _ in range(5):
            before = scene.flows()
        wait_until(lambda: scene.confirmed() > before.lsn[0], 10, "the rows to be confirmed")
        nats.stop()
        if part == "all":
            shutil.rmtree(store)
            (nats.folder / "older").rename(store)
        else:
            newer = next(store.rglob("CDC_main"))
            shutil.rmtree(newer)
            shutil.copytree(next((nats.folder / "older").rglob("CDC_main")), newer)
        nats.start()
        scene.broker.wait_ready()
        # With the older record the slot looks moved; without it the stream looks short.
        scene.check_gap("slot_advanced" if part == "all" else "stream_rewound", before)


def test_storage_full() -> None:
    with own_scene() as scene:
        nats = scene.rig.site.nats
        nats.stop()
        conf = nats.config.read_text()
        nats.config.write_text(conf.replace("jetstream: {", "jetstream: {max_file_store: 12MB, "))
        assert "12MB" in nats.config.read_text()
        nats.start()
        scene.broker.start()
        first = scene.flows()
        scene.rig.sql("INSERT INTO orders (tenant_id, v) SELECT 'acme', repeat('x', 500000) FROM generate_series(1, 40)")
        said = scene.wait_code("stream_full", 30)
        assert said["state"] == "down" and "JetStream" in said["text"]
        scene.check_leisure("stream_full")
        nats.config.write_text(conf)
        nats.signal(signal.SIGHUP)
        if not wait_reloaded(scene):
            nats.stop()
            nats.start()
        scene.wait_code("ok", 20)
        last = scene.flows()
        assert [h.seq for h in scene.ears["acme"].all] == list(range(1, 43)) and last.epoch == first.epoch


def wait_reloaded(scene: Scene) -> bool:
    """Whether this nats-server takes a larger store while it runs."""
    nats = scene.rig.site.nats
    wait_until(lambda: "Reloaded" in nats.log() or "reload" in nats.log().lower(), 5, "the server to answer SIGHUP")
    return "not supported" not in nats.log()


def test_the_log_that_piles_up_while_nats_is_away_shows() -> None:
    """Nothing is read then, so nothing that is read can tell."""
    with own_scene() as scene:
        scene.broker.start()
        scene.flows()
        scene.rig.site.nats.stop()
        scene.wait_code("nats_away")
        scene.rig.sql("INSERT INTO orders (tenant_id, v) SELECT 'acme', repeat(md5(n::text), 30) FROM generate_series(1, 20000) n")

        def lag() -> float:
            return min(scene.broker.metric(f"muster_cdc_{name}_bytes", 'instance="main"') for name in ("lag", "unconfirmed"))

        wait_until(lambda: lag() > 15_000_000, 12, "the lag to be told")
        scene.rig.site.nats.start()
        scene.flows(40)
        wait_until(lambda: lag() < 1_000_000, 12, "the lag to be gone")
