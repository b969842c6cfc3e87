"""What an agent cannot do: change a stream, reach another tenant, speak under another name, listen where it may not.

The server's permissions stop what an agent publishes itself. A reply subject is the way around them: whoever answers writes there with
rights of its own, and a stream that acknowledges is such a one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from client import Client, Subscription
from harness import Site, wait_until
from oracle import Watcher

Connect = Callable[..., Client]
ROWS = "INSERT INTO public.orders (tenant_id, id, item) SELECT t, n, 'x' FROM unnest(ARRAY['acme', 'zeta']) t, generate_series(1, 5) n"
OWN = ("mst.acme.rpc.mallory.presence.list", "mst.acme.rpc.mallory.no_such.verb", "mst.acme.all.mallory.x", "mst.acme.to.planner.mallory.x",
       "mst.acme.grp.g.mallory.x")


def replies(streams: list[str]) -> list[str]:
    api = [f"$JS.API.STREAM.{verb}.{stream}" for stream in streams for verb in ("PURGE", "DELETE", "MSG.DELETE")]
    keys = [f"$KV.{stream.removeprefix('KV_')}.forged" for stream in streams if stream.startswith("KV_")]
    others = ["mst.zeta.all.mallory.x", "mst.zeta.to.zed.mallory.x", "mst.zeta.box.zed.1", "mst._in.zeta.cdc.main.public.orders.insert._",
              "mst._in.acme.cdc.main.public.orders.insert._", "mst.acme.box.planner.1", "mst.acme.cdc.main.public.orders.insert._"]
    return [*api, *keys, *others]


@pytest.fixture
def running(site: Site, watch: Callable[[str], Watcher]) -> Site:
    """A broker that has stored changes of both tenants."""
    site.broker().start()
    watcher = watch("zeta")
    site.postgres.query(ROWS)
    watcher.wait_for("orders", {"tenant_id": "zeta", "id": 5})
    return site


def passed_by(sender: Client, listener: Subscription, subject: str) -> None:
    """Everything that sender sent before has been handled by the server: its mark comes through."""
    sender.publish(subject, b"mark")
    wait_until(lambda: any(m.data == b"mark" for m in listener.messages), 10, "the mark")


def kept(broker: Client) -> dict[str, Any]:
    """What no agent may change: where agents' own messages are stored, their beginning; in a bucket, which the broker writes all the
    time, its keys; of the audit, which grows by each refusal, that nothing is missing; of every other stream, everything."""
    found: dict[str, Any] = {}
    for name, state in broker.streams().items():
        if name.startswith("MSG_"):
            found[name] = state.first_seq
        elif name.startswith("KV_"):
            found[name] = sorted(message.subject for message in broker.read_stream(name))
        elif name == "AUDIT":
            found[name] = state.last_seq - state.messages
        else:
            found[name] = (state.first_seq, state.last_seq, state.messages)
    return found


def test_reply_subjects_change_and_reach_nothing(running: Site, connect: Connect) -> None:
    broker, mallory = connect(), connect("acme", "mallory")
    planner, zed = connect("acme", "planner"), connect("zeta", "zed")
    in_acme, in_zeta = planner.subscribe("mst.acme.all.>"), zed.subscribe("mst.zeta.all.>")
    heard = [zed.subscribe("mst.zeta.to.zed.>"), zed.subscribe("mst.zeta.box.zed.>"), zed.subscribe("mst.zeta.cdc.>"),
             planner.subscribe("mst.acme.box.planner.>"), planner.subscribe("mst.acme.cdc.>")]
    mallory.publish("mst.acme.all.mallory.first", b"{}")  # so that MSG_acme holds something that could be purged
    wait_until(lambda: broker.streams()["MSG_acme"].messages, 10, "history of acme")
    before, audited = kept(broker), broker.streams()["AUDIT"].last_seq
    attempts = [(own, reply) for own in OWN for reply in replies(sorted(before))]
    for own, reply in attempts:
        mallory.publish(own, b"{}", reply=reply)
    passed_by(mallory, in_acme, "mst.acme.all.mallory.mark")
    asked = sum(own.startswith("mst.acme.rpc.") for own, _ in attempts)
    wait_until(lambda: running.brokers[0].metric("muster_refused_total", 'reason="reply_subject"') == asked, 10,
               "every request with a foreign reply subject to be refused and counted")
    wait_until(lambda: broker.streams()["AUDIT"].last_seq > audited, 10, "the refusals to be audited")
    assert kept(broker) == before
    assert broker.streams()["AUDIT"].last_seq - audited <= asked
    assert in_zeta.messages == [] and all(s.messages == [] for s in heard)


FOREIGN = (
    "$JS.API.STREAM.PURGE.CDC_main", "$JS.API.STREAM.DELETE.EVT", "$JS.API.STREAM.INFO.CDC_main", "$SYS.REQ.SERVER.PING",
    "$KV.muster_cdc.x", "mst._in.acme.cdc.main.public.orders.insert._", "mst._in.acme.evt.task.done.1",
    "mst.acme.cdc.main.public.orders.insert._", "mst.acme.evt.task.done.1", "mst.acme.all.planner.x", "mst.acme.all._muster.x",
    "mst.acme.to.planner.planner.x", "mst.acme.msg.planner", "mst.acme.box.planner.1", "mst.zeta.all.mallory.x",
    "mst.zeta.rpc.mallory.presence.list", "mst.acme.log.all.planner.x")


def settled(broker: Client) -> int:
    """What AUDIT has when the refusals of the test before are in it."""
    last = -1
    while last != (last := broker.streams()["AUDIT"].last_seq):
        time.sleep(0.5)
    return last


def test_an_agent_may_not_publish_elsewhere(running: Site, connect: Connect) -> None:
    broker, mallory, spy = connect(), connect("acme", "mallory"), connect()
    before, audited, heard = kept(broker), settled(broker), [spy.subscribe(subject) for subject in FOREIGN]
    for n, subject in enumerate(FOREIGN):
        mallory.publish(subject, b"{}")
        refused(mallory, n, subject)
    assert all(s.messages == [] for s in heard) and kept(broker) == before
    assert broker.streams()["AUDIT"].last_seq == audited, "what the server refuses reaches no broker"


@pytest.mark.parametrize("queue", ["", "workers"])
def test_an_agent_may_not_listen_elsewhere(running: Site, connect: Connect, queue: str) -> None:
    mallory = connect("acme", "mallory")
    for n, subject in enumerate((
            ">", "*.>", "mst.>", "mst.zeta.>", "mst.*.cdc.>", "mst.acme.>", "mst.acme.rpc.>", "mst.acme.to.planner.>",
            "mst.acme.msg.planner", "mst.acme.box.planner.>", "mst._in.>", "$JS.>", "$KV.>", "$SYS.>", "_INBOX.>")):
        mallory.subscribe(subject, queue)
        refused(mallory, n, subject)


def refused(client: Client, n: int, subject: str) -> None:
    """The server has answered attempt n with a violation that names the subject."""
    wait_until(lambda: len(client.errors) > n, 5, f"a permissions violation for {subject}")
    assert "permissions violation" in client.errors[n].lower() and f'"{subject.lower()}"' in client.errors[n].lower()
