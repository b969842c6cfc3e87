"""Watches: what matches comes, in order, once; what leaves is told; nothing is missed by a slow watcher, a late one, or the death of a broker."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from agent import Agent
from client import Client, Subscription
from harness import LONG, Musterd, Site, wait_until
from pack import unpack
from pluginrig import Agents, asking, own_broker, serving

PLUGINS = [{"name": "fanout", "config": {"watch_linger": "1s"}}, {"name": "presence", "config": {"grace": "200ms"}}]
TABLE = {"schema": "public", "table": "orders"}
IDS = iter(range(1000, 1 << 30))


@pytest.fixture(scope="module")
def site() -> Generator[Site, None, None]:
    site = Site()
    try:
        site.start("acme", "zeta", "theta")
        site.postgres.query("CREATE TABLE public.orders (tenant_id text, id int, status text, total numeric, owner text, note text, doc jsonb,"
                            " PRIMARY KEY (tenant_id, id))")
        site.postgres.query("ALTER TABLE public.orders REPLICA IDENTITY FULL")
        site.postgres.query("CREATE TABLE public.plain (tenant_id text, id int, status text, raw bytea, PRIMARY KEY (tenant_id, id))")
        site.postgres.query("CREATE TABLE public.secret (tenant_id text, id int, PRIMARY KEY (tenant_id, id))")
        site.cli("publish", "public.orders", "--owner-column", "owner")
        site.cli("publish", "public.plain")
        yield site
    finally:
        site.close()


@pytest.fixture(scope="module")
def broker(site: Site, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    with serving(site, *PLUGINS, cdc=True, session=request.session) as broker:
        yield broker


@pytest.fixture(scope="module")
def agents(site: Site, broker: Musterd) -> Generator[Agents, None, None]:
    with asking(site) as agents:
        yield agents


@pytest.fixture
def names() -> Callable[[], int]:
    """Ids that no other test uses."""
    return lambda: next(IDS)


class Watch:
    def __init__(self, agent: Agent, **spec: Any) -> None:
        self.agent = agent
        self.answer = agent.ask("watch", "open", spec or TABLE)
        assert "error" not in self.answer.body, self.answer.body
        self.id = str(self.answer.body["watch"])
        self.heard: Subscription = agent.client.subscribe(self.answer.body["subject"])

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(message.data) for message in self.heard.messages]

    @property
    def changes(self) -> list[tuple[str, Any]]:
        """(op, id of the row) of each change, from batches too."""
        return [(body["op"], body["key"].get("id")) for body in self.all()]

    def all(self) -> list[dict[str, Any]]:
        found = []
        for body in self.bodies:
            found += [message["body"] for message in body["messages"]] if "messages" in body else [body]
        return found

    def wait(self, n: int, what: str = "changes") -> list[dict[str, Any]]:
        wait_until(lambda: len(self.all()) >= n, 10, f"{n} {what}, {self.all()} came")
        return self.all()

    def counts(self) -> dict[str, Any]:
        watches = self.agent.ask("watch", "list").body["watches"]
        return next(dict(watch) for watch in watches if watch["watch"] == self.id)

    def close(self) -> None:
        assert self.agent.ask("watch", "close", {"watch": self.id}).body == {}


def refused(agent: Agent, spec: dict[str, Any]) -> tuple[str, str, str]:
    error = agent.ask("watch", "open", spec).error
    return error["code"], error.get("field", ""), error["message"]


def insert(site: Site, n: int, tenant: str = "acme", status: str = "open", owner: str = "ann", total: float = 1, note: str = "") -> None:
    site.postgres.query("INSERT INTO public.orders VALUES (%s, %s, %s, %s, %s, %s, '{\"a\": 1.50}')", (tenant, n, status, total, owner, note))


def test_what_matches_comes_and_what_leaves_is_told(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, a, b, c = agents("acme", "ann"), names(), names(), names()
    watch = Watch(ann, **TABLE, filter=f"status=in.(open,late),id=gte.{a},id=lte.{c},total=gt.0.5")
    insert(site, a, "zeta")
    insert(site, a)
    insert(site, b, status="done")
    insert(site, c, total=0.25)
    site.postgres.query("UPDATE public.orders SET status = 'open' WHERE id = %s", (b,))
    site.postgres.query("UPDATE public.orders SET status = 'late' WHERE id = %s AND tenant_id = 'acme'", (a,))
    site.postgres.query("UPDATE public.orders SET status = 'done' WHERE id = %s AND tenant_id = 'acme'", (a,))
    site.postgres.query("DELETE FROM public.orders WHERE id = %s", (b,))
    changes = watch.wait(5)
    assert watch.changes == [("insert", a), ("update", b), ("update", a), ("delete", a), ("delete", b)]
    left = changes[3]
    assert left["left"] is True and left["new"] is None and left["old"]["status"] == "late"
    assert "left" not in changes[4]
    first = watch.heard.messages[0]
    assert first.headers["Muster-Subject"] == "mst.acme.cdc.main.public.orders.insert._"
    assert first.reply.startswith("mst.acme.to._muster.ann."), "where an agent may answer"
    assert b'1.50' in first.data.split(b'"doc":')[1], "digits are kept"
    seqs = [int(message.headers["Muster-Seq"]) for message in watch.heard.messages]
    assert seqs == sorted(seqs) and seqs[0] > watch.answer.body["seq"]
    assert int(first.headers["Muster-Epoch"]) == watch.answer.body["epoch"] or watch.answer.body["epoch"] == 0
    watch.close()
    assert ann.ask("watch", "close", {"watch": watch.id}).error["code"] == "not_found"


def test_errors_say_what_came_and_what_was_expected(site: Site, agents: Agents) -> None:
    ann = agents("acme", "ann")
    code, field, message = refused(ann, TABLE | {"filter": "total=like.1%"})
    assert (code, field) == ("invalid_argument", "filter") and "operator like does not fit its type numeric" in message
    assert refused(ann, TABLE | {"filter": "nope=eq.1"})[0] == "invalid_argument"
    assert refused(ann, TABLE | {"columns": ["id", "nope"]})[:2] == ("invalid_argument", "columns")
    memories = {"schema": "public", "table": "agent_memories"}  # published without its embedding
    assert refused(ann, memories | {"columns": ["id", "embedding"]})[:2] == ("invalid_argument", "columns")
    assert refused(ann, TABLE | {"conflate_by": "nope"})[:2] == ("invalid_argument", "conflate_by")
    assert refused(ann, TABLE | {"events": ["upsert"]})[:2] == ("invalid_argument", "events")
    assert refused(ann, {"schema": "public"})[:2] == ("invalid_argument", "table")
    for table in ("secret", "nothing", "credentials"):
        assert refused(ann, {"schema": "public", "table": table})[:2] == ("not_found", "table")
    code, field, message = refused(ann, {"schema": "public", "table": "plain", "filter": "status=eq.open"})
    assert code == "failed_precondition" and 'ALTER TABLE "public"."plain" REPLICA IDENTITY FULL' in message
    assert refused(ann, {"schema": "public", "table": "orders", "source": "other"})[:2] == ("not_found", "source")
    assert refused(ann, {"sources": ["mst.acme.cdc.other.>"]})[:2] == ("not_found", "sources")
    assert refused(ann, {"sources": ["mst.zeta.evt.>"]})[0] == "permission_denied"
    assert refused(ann, {"sources": ["mst.acme.to.bob.>"]})[0] == "permission_denied"
    assert refused(ann, {"sources": ["mst.acme.audit.>"]})[0] == "permission_denied"
    for pattern in ("mst.acme.evt._.head", "mst.acme.evt._.>", "mst.acme.evt..shop", "mst.acme.evt.>.shop", "mst.acme.evt.a b", "mst.acme."):
        assert refused(ann, {"sources": [pattern]})[:2] == ("invalid_argument", "sources")
    assert refused(ann, {"sources": ["mst.acme.evt.>"], "after": {"epoch": 1, "seq": 1}})[0] == "invalid_argument"
    watch = Watch(ann, schema="public", table="plain", filter="status=eq.open", events=["insert"])
    watch.close()


def test_the_first_message_waits_for_its_hearer(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, a = agents("acme", "ann"), names()
    answer = ann.ask("watch", "open", TABLE | {"filter": f"id=gte.{a}"}).body
    for n in (a, names(), names()):
        insert(site, n)
    beside = Watch(ann, **TABLE, filter=f"id=gte.{a}", after={"epoch": answer["epoch"], "seq": answer["seq"]})
    beside.wait(3)
    heard = ann.client.subscribe(answer["subject"])
    wait_until(lambda: len(heard.messages) == 3, 10, "what came before somebody subscribed")
    assert [json.loads(message.data)["key"]["id"] for message in heard.messages][0] == a
    beside.close()
    ann.ask("watch", "close", {"watch": answer["watch"]})


def test_a_user_sees_its_own_rows(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    site.agent("acme", "uma", role="user")
    uma, a, b = agents("acme", "uma"), names(), names()
    watch = Watch(uma, **TABLE, filter=f"id=gte.{a}")
    insert(site, a, owner="uma")
    insert(site, b, owner="bob", note="bobs own")
    site.postgres.query("UPDATE public.orders SET owner = 'uma' WHERE id = %s", (b,))
    site.postgres.query("UPDATE public.orders SET owner = 'bob', note = 'of bob' WHERE id = %s", (a,))
    changes = watch.wait(3)
    assert watch.changes == [("insert", a), ("update", b), ("delete", a)]
    assert changes[1]["old"] is None, "the row was another's before"
    assert changes[2]["left"] is True and changes[2]["new"] is None and "of bob" not in watch.heard.messages[2].data.decode()
    assert refused(uma, {"schema": "public", "table": "plain"})[0] == "permission_denied"
    assert refused(uma, {"sources": ["mst.acme.evt.>"]})[0] == "permission_denied"
    watch.close()


def test_a_key_that_changes_with_the_owner_is_not_told(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    site.agent("acme", "una", "user")
    una, a, b = agents("acme", "una"), names(), names()
    watch = Watch(una, **TABLE)
    insert(site, a, owner="una")
    site.postgres.query("UPDATE public.orders SET id = %s, owner = 'else' WHERE id = %s", (b, a))
    assert [(body["op"], body["key"]["id"]) for body in watch.wait(2)] == [("insert", a), ("delete", a)]
    assert watch.heard.messages[0].headers["Muster-Key"] == f'["acme",{a}]' and "Muster-Key" not in watch.heard.messages[1].headers
    watch.close()


def test_a_key_in_the_subject_is_the_one_the_watcher_knows(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    site.postgres.query("CREATE TABLE public.keyed (tenant_id text, id text PRIMARY KEY, status text)")
    site.postgres.query("ALTER TABLE public.keyed REPLICA IDENTITY FULL")
    site.cli("publish", "public.keyed", "--subject-key")
    watch = Watch(agents("acme", "ann"), schema="public", table="keyed", filter="status=eq.open")
    site.postgres.query("INSERT INTO public.keyed VALUES ('acme', 'old', 'open')")
    site.postgres.query("UPDATE public.keyed SET id = 'new', status = 'done'")
    watch.wait(2)
    assert [message.headers["Muster-Subject"].split(".", 5)[5] for message in watch.heard.messages] == ["keyed.insert.old", "keyed.update.old"]
    watch.close()


def test_numbers_have_exponents(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, a, b = agents("acme", "ann"), names(), names()
    watch = Watch(ann, **TABLE, filter=f"total=lt.1e1,id=gte.{a}")
    insert(site, a, total=10)
    insert(site, b, total=9.99)
    watch.wait(1)
    assert watch.changes == [("insert", b)]
    watch.close()


def test_columns_and_encoding(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, a = agents("acme", "ann"), names()
    few = Watch(ann, **TABLE, filter=f"id=eq.{a}", columns=["status"])
    packed = Watch(ann, **TABLE, filter=f"id=eq.{a}", columns=["status", "doc"], encoding="msgpack")
    insert(site, a)
    site.postgres.query("UPDATE public.orders SET status = 'late' WHERE id = %s", (a,))
    insertion, update = few.wait(2)
    assert insertion["new"] == {"status": "open"} and insertion["key"] == {"tenant_id": "acme", "id": a}
    assert update["new"] == {"status": "late"} and update["old"] == {"status": "open"}
    wait_until(lambda: len(packed.heard.messages) == 2, 10, "MessagePack")
    assert unpack(packed.heard.messages[0].data)["new"] == {"status": "open", "doc": {"a": 1.5}}
    few.close()
    packed.close()


def test_a_message_too_large_for_a_batch_holds_up_none(site: Site, agents: Agents) -> None:
    """In base64 it is more than a message may be, and what came behind it waits for it to go."""
    ann, bob = agents("acme", "ann"), agents("acme", "bob")
    watch = Watch(ann, sources=["mst.acme.all.bob.>"], interval_ms=50)
    bob.client.publish_each([("mst.acme.all.bob.large", b"\xff" * 900_000, ""), ("mst.acme.all.bob.small", b"1", "")])
    assert watch.wait(1) == [1] and watch.bodies[0]["dropped"] == {"too_large": 1}
    bob.client.publish("mst.acme.all.bob.small", b"2")
    assert watch.wait(2) == [1, 2]
    counts = watch.counts()
    assert (counts["sent"], counts["delivered"], counts["waiting"], counts["dropped"]) == (3, 2, 0, {"too_large": 1})
    watch.close()


def test_bytes_are_binary_in_messagepack(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, table = agents("acme", "ann"), {"schema": "public", "table": "plain"}
    text, packed = Watch(ann, **table), Watch(ann, **table, encoding="msgpack")
    batched = Watch(ann, **table, columns=["raw"], encoding="msgpack", interval_ms=50)
    raws = [b"\xfb\xff\x00", b"", None]
    for raw in raws:
        site.postgres.query("INSERT INTO public.plain VALUES ('acme', %s, 'AP8=', %s)", (names(), raw))
    assert [body["new"]["raw"] for body in text.wait(3)] == ["+/8A", "", None]
    wait_until(lambda: len(packed.heard.messages) == 3, 10, "MessagePack")
    assert [unpack(m.data)["new"]["raw"] for m in packed.heard.messages] == raws
    assert unpack(packed.heard.messages[0].data)["new"]["status"] == "AP8=", "text stays text"
    many = lambda: [m["body"]["new"]["raw"] for b in batched.heard.messages for m in unpack(b.data)["messages"]]  # noqa: E731
    wait_until(lambda: many() == raws, 10, "batches")
    for watch in (text, packed, batched):
        watch.close()


def test_batches_keep_the_count(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    """sent = delivered + dropped, and each batch says what is missing before it."""
    ann, a = agents("acme", "ann"), names()
    spec = TABLE | {"filter": f"id=gte.{a},note=like.row%", "interval_ms": 50, "max_bytes": 3000}
    slow = {way: Watch(ann, **spec, slow=way) for way in ("pause", "drop_old", "conflate", "cut")}
    latest = Watch(ann, **spec, conflate_by="status")
    with site.postgres.connect() as connection:
        for n in range(60):
            connection.execute("INSERT INTO public.orders VALUES ('acme', %s, %s, 1, 'ann', %s)", (names(), f"s{n % 3}", f"row {n}"))
    slow["pause"].wait(60)
    assert [body["new"]["note"] for body in slow["pause"].all()] == [f"row {n}" for n in range(60)], "nothing is lost, in order"
    assert all(body["dropped"] == {} for body in slow["pause"].bodies)
    assert all(len(message.data) < 3200 for message in slow["pause"].heard.messages)
    for way in ("drop_old", "conflate"):
        watch = slow[way]
        wait_until(lambda watch=watch: watch.counts()["sent"] == 60 and watch.counts()["waiting"] == 0, 10, "the last batch")
        counts = watch.counts()
        assert sum(counts["dropped"].values()) > 0 and counts["sent"] == counts["delivered"] + sum(counts["dropped"].values())
        told = sum(sum(body["dropped"].values()) for body in watch.bodies)
        assert len(watch.all()) == counts["delivered"] and told == sum(counts["dropped"].values())
        assert watch.all()[-1]["new"]["note"] == "row 59", "the newest stay"
    wait_until(lambda: any("ended" in body for body in slow["cut"].bodies), 10, "the end of the watch that is cut")
    assert slow["cut"].bodies[-1]["ended"] == "cut"
    wait_until(lambda: latest.all() and latest.counts()["waiting"] == 0, 10, "the latest")
    assert {body["new"]["status"]: body["new"]["note"] for body in latest.all()} == {"s0": "row 57", "s1": "row 58", "s2": "row 59"}
    for watch in (slow["pause"], slow["drop_old"], slow["conflate"], latest):
        watch.close()


def test_sources(site: Site, agents: Agents) -> None:
    ann, bob = agents("acme", "ann"), agents("acme", "bob")
    events = Watch(ann, sources=["mst.acme.evt.shop.>"])
    both = Watch(ann, sources=["mst.acme.evt.shop.sold.*", "mst.acme.all.>", "mst.acme.evt.shop.>"], interval_ms=50)
    site.postgres.query("SELECT muster.emit('acme', 'shop', 'sold', 'x1', '{\"n\": 1}')")
    bob.client.publish("mst.acme.all.bob.hello", b"\xff\xfenot json", headers={"traceparent": "00-11-22-01"})
    wait_until(lambda: events.bodies == [{"n": 1}], 10, "the event")
    assert events.heard.messages[0].headers["Muster-Subject"] == "mst.acme.evt.shop.sold.x1"
    wait_until(lambda: len(both.all()) == 2, 10, "both, and neither of them twice")
    found = {message["subject"]: message for body in both.bodies for message in body["messages"]}
    assert found["mst.acme.evt.shop.sold.x1"]["body"] == {"n": 1} and found["mst.acme.evt.shop.sold.x1"]["seq"] == 1
    assert found["mst.acme.all.bob.hello"]["body"] == {"base64": "//5ub3QganNvbg=="}
    assert found["mst.acme.all.bob.hello"]["headers"]["traceparent"] == "00-11-22-01"
    again = Watch(ann, sources=["mst.acme.evt.shop.>"], after={"epoch": int(events.heard.messages[0].headers["Muster-Epoch"]), "seq": 0})
    wait_until(lambda: again.bodies == [{"n": 1}], 10, "the event once more")
    for watch in (events, both, again):
        watch.close()


def test_what_brokers_say_is_said_by_no_agent(site: Site, agents: Agents) -> None:
    """The subject, the position and the notices of a watch are the broker's, whatever headers a message has."""
    ann, bob = agents("acme", "ann"), agents("acme", "bob")
    ones, many = Watch(ann, sources=["mst.acme.all.>"]), Watch(ann, sources=["mst.acme.all.>"], interval_ms=50)
    forged = {"Muster-Subject": "mst.acme.all.boss.order", "Muster-Seq": "7", "Muster-Epoch": "7", "Muster-Watch": "ended", "Muster-Dropped": "cut=1"}
    bob.client.publish("mst.acme.all.bob.plain", b"{}", headers={**forged, "Muster-Id": "kept"})
    wait_until(lambda: ones.heard.messages and many.all(), 10, "the message in both forms")
    seq = ones.answer.body["seq"] + 1
    assert ones.heard.messages[0].headers == {"Muster-Subject": "mst.acme.all.bob.plain", "Muster-Seq": str(seq), "Muster-Id": "kept"}
    message = many.bodies[0]["messages"][0]
    assert (message["subject"], message["seq"], message["headers"]) == ("mst.acme.all.bob.plain", seq, {"Muster-Id": "kept"})
    again = Watch(ann, sources=["mst.acme.all.>"], after={"epoch": ones.answer.body["epoch"], "seq": seq - 1})
    wait_until(lambda: again.heard.messages, 10, "the message from the position before it")
    for watch in (ones, many, again):
        watch.close()


def test_after_reads_what_was_and_tells_what_is_gone(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, a = agents("acme", "ann"), names()
    first = Watch(ann, **TABLE, filter=f"id=gte.{a}")
    rows = [a, *(names() for _ in range(20))]
    for n in rows:
        insert(site, n)
    first.wait(21)
    place = first.heard.messages[9].headers
    late = Watch(ann, **TABLE, filter=f"id=gte.{a}", after={"epoch": int(place["Muster-Epoch"]), "seq": int(place["Muster-Seq"])})
    late.wait(11)
    insert(site, names())
    late.wait(12)
    assert [n for _, n in late.changes][:11] == rows[10:]
    lost = Watch(ann, **TABLE, filter=f"id=gte.{a}", after={"epoch": 1, "seq": 1})
    wait_until(lambda: len(lost.bodies) == 23, 10, "everything that is stored")
    assert lost.bodies[0]["gap"]["reason"] == "retention" and lost.heard.messages[0].headers["Muster-Watch"] == "gap"
    for watch in (first, late, lost):
        watch.close()


def test_a_position_that_the_stream_has_not_reached_is_a_gap(agents: Agents) -> None:
    """Whoever has it read another stream: it is told so, and hears what comes from now on."""
    ann = agents("acme", "ann")
    now = Watch(ann, sources=["mst.acme.grp.far.>"]).answer.body
    watch = Watch(ann, sources=["mst.acme.grp.far.>"], after={"epoch": now["epoch"], "seq": 1 << 40})
    ann.client.publish("mst.acme.grp.far.ann.note", b'{"n": 1}')
    wait_until(lambda: len(watch.bodies) == 2, 10, f"the gap and the message, {watch.bodies} came")
    assert watch.bodies[0]["gap"]["reason"] == "retention" and watch.bodies[1] == {"n": 1}
    assert watch.answer.body["epoch"] == now["epoch"] and watch.answer.body["seq"] < 1 << 40
    for each in (now["watch"], watch.id):
        assert ann.ask("watch", "close", {"watch": each}).body == {}


def test_the_same_request_opens_one_watch(site: Site, agents: Agents) -> None:
    ann = agents("acme", "ann")
    one = ann.ask("watch", "open", TABLE | {"request_id": "r1"}).body
    assert ann.ask("watch", "open", TABLE | {"request_id": "r1"}).body == one
    assert [watch["watch"] for watch in ann.ask("watch", "list").body["watches"]] == [one["watch"]]
    assert ann.ask("watch", "open", {"request_id": "r1", "schema": "public", "table": "plain"}).error["code"] == "already_exists"
    assert agents("acme", "bob").ask("watch", "close", {"watch": one["watch"]}).error["code"] == "not_found"
    assert agents("acme", "bob").ask("watch", "list").body == {"watches": [], "epoch": 0, "seq": 0}
    ann.ask("watch", "close", {"watch": one["watch"]})


def test_a_tenant_has_so_many(site: Site, agents: Agents) -> None:
    site.cli("tenant", "limits", "zeta", "watches=1")
    zoe = agents("zeta", "zoe")
    answers = [zoe.ask("watch", "open", TABLE) for _ in range(3)]
    assert "watch" in answers[0].body and answers[2].error["field"] == "watches" and answers[2].error["code"] == "resource_exhausted"


def test_a_limit_is_exact_however_many_ask_at_once(site: Site) -> None:
    """In as many transactions; and what goes, in whatever way, makes room."""
    names = [f"m{n}" for n in range(24)]
    site.postgres.query("INSERT INTO muster.credentials (tenant, agent, role, public_key) SELECT 'zeta', unnest(%s::text[]), 'agent', 'U' || repeat('A', 55)", (names,))
    site.cli("tenant", "limits", "zeta", "group.members=10")

    def counted() -> tuple[int, int]:
        found = site.postgres.query("SELECT members, (SELECT count(*) FROM muster.groups WHERE tenant = 'zeta') FROM muster.fanout_counts WHERE tenant = 'zeta'")
        return found[0][0], found[0][1]

    def join(name: str) -> dict[str, Any]:
        with site.postgres.connect() as connection:
            row = connection.execute("SELECT muster.group_join('zeta', %s, '{\"group\": \"many\"}')", (name,)).fetchone()
            connection.execute("SELECT pg_sleep(0.02)")
        return dict(row[0])

    with ThreadPoolExecutor(len(names)) as pool:
        answers = list(pool.map(join, names))
    assert sum("ok" in answer for answer in answers) == 10 and counted() == (10, 10)
    assert {answer["error"]["code"] for answer in answers if "error" in answer} == {"resource_exhausted"}
    member = next(name for name, answer in zip(names, answers) if "ok" in answer)
    assert "ok" in join(member), "who is in joins again"
    site.postgres.query("DELETE FROM muster.credentials WHERE tenant = 'zeta' AND agent = %s", (member,))
    assert counted() == (9, 9)


def test_a_changed_column_ends_the_watch_in_words(site: Site, agents: Agents) -> None:
    ann = agents("acme", "ann")
    site.postgres.query("CREATE TABLE public.shaky (tenant_id text, id int PRIMARY KEY, kind int)")
    site.postgres.query("ALTER TABLE public.shaky REPLICA IDENTITY FULL")
    site.cli("publish", "public.shaky")
    watch, beside = Watch(ann, schema="public", table="shaky", filter="kind=eq.1"), Watch(ann, schema="public", table="shaky", filter="id=gt.0")
    site.postgres.query("INSERT INTO public.shaky VALUES ('acme', 1, 1)")
    watch.wait(1)
    site.postgres.query("ALTER TABLE public.shaky ALTER COLUMN kind TYPE text")
    site.postgres.query("INSERT INTO public.shaky VALUES ('acme', 2, '1')")
    beside.wait(2)
    wait_until(lambda: watch.bodies[-1].get("ended") == "table_changed", 10, "the end")
    beside.close()


def test_a_stream_made_anew_is_told(site: Site, agents: Agents, names: Callable[[], int]) -> None:
    ann, a = agents("acme", "ann"), names()
    watch = Watch(ann, **TABLE, filter=f"id=gte.{a}")
    insert(site, a)
    watch.wait(1)
    operator = Client(site.nats.url, site.nats.folder / "broker.creds")
    operator.delete_stream("CDC_main")
    operator.close()
    wait_until(lambda: any(body.get("gap", {}).get("reason") == "stream" for body in watch.bodies), 20, "the gap")
    behind = names()
    insert(site, behind)  # the row before it may come again, as the slot had not confirmed it
    wait_until(lambda: behind in [body["key"]["id"] for body in watch.bodies if "op" in body], 20, f"the row behind it, {watch.bodies} came")
    watch.close()


def test_a_watch_ends_when_its_agent_has_gone(site: Site, agents: Agents) -> None:
    """It never said hello: the servers know whether it is connected."""
    eve = Agent(site, "acme", "eve")
    watch = Watch(eve)
    rows = "SELECT id FROM muster.watches WHERE agent = 'eve'"
    assert [row[0] for row in site.postgres.query(rows)] == [watch.id]
    eve.close()
    wait_until(lambda: site.postgres.query(rows) == [], 20, "the end of the watch")


def test_presence_and_inbox_as_sources(site: Site, agents: Agents) -> None:
    """What presence stores as pres.<n> agents hear as evt.presence; who has left after it said hello needs no listing of connections."""
    ann, pat = agents("acme", "ann"), Agent(site, "acme", "pat")
    joins = Watch(ann, sources=["mst.acme.evt.presence.>"])
    everything = Watch(ann, sources=["mst.acme.evt.>", "mst.acme.msg.ann"], interval_ms=20)
    wait_until(lambda: "session" in pat.ask("presence", "hello").body, 10, "a session")
    own = Watch(pat, **TABLE)
    pat.ask("message", "send", {"to": "ann", "type": "note", "payload": {"n": 1}})
    joined = "mst.acme.evt.presence.join.pat"
    wait_until(lambda: joined in [message.headers.get("Muster-Subject") for message in joins.heard.messages], 10, "the join")

    def subjects() -> set[str]:
        return {message["subject"] for body in everything.bodies for message in body["messages"]}

    wait_until(lambda: {joined, "mst.acme.msg.ann"} <= subjects(), 10, "the join and the note")
    joins_once = Watch(ann, sources=["mst.acme.evt.presence.>"],
                       after={"epoch": int(joins.heard.messages[0].headers["Muster-Epoch"]), "seq": 0})
    wait_until(lambda: joined in [message.headers.get("Muster-Subject") for message in joins_once.heard.messages], 10, "the join once more")
    pat.ask("presence", "bye")
    wait_until(lambda: site.postgres.query("SELECT id FROM muster.watches WHERE id = %s", (own.id,)) == [], 15, "the end of who left")
    pat.close()
    for watch in (joins, joins_once, everything):
        watch.close()


@pytest.fixture(scope="module")
def other(site: Site, broker: Musterd, request: pytest.FixtureRequest) -> Generator[Musterd, None, None]:
    """A second broker, which comes when the first has been at work for a while."""
    with serving(site, *PLUGINS, cdc=True, env={"FEDERATION_BROADCAST_LATENCY": "high"}, session=request.session) as other:
        yield other


def held(broker: Musterd) -> float:
    return broker.metric("muster_fanout_watch_shards")


def test_a_broker_that_comes_gets_its_part(site: Site, agents: Agents, names: Callable[[], int], broker: Musterd, request: pytest.FixtureRequest) -> None:
    """The shard of theta is one that is let go: nothing is missed, nothing comes twice, and requests go to its new holder."""
    ann, rows = agents("theta", "ann"), [names()]
    watch = Watch(ann, **TABLE, filter=f"id=gte.{rows[0]}")
    insert(site, rows[0], "theta")
    other: Musterd = request.getfixturevalue("other")

    def shared() -> bool:
        rows.append(names())
        insert(site, rows[-1], "theta")
        return held(broker) == held(other) == 8

    wait_until(shared, 20, "both to serve eight shards")
    rows.append(names())
    insert(site, rows[-1], "theta")
    watch.wait(len(rows))
    assert [n for _, n in watch.changes] == rows
    assert not [body for body in watch.bodies if "messages" in body], "as it was opened, wherever it is served"
    watch.close()


def test_latency_may_be_high_where_nothing_is_said(site: Site, agents: Agents, names: Callable[[], int], other: Musterd) -> None:
    """FEDERATION_BROADCAST_LATENCY of the second broker, which serves theta: batches, but for who wants them otherwise."""
    ann, rows = agents("theta", "ann"), [names() for _ in range(20)]
    spec = {**TABLE, "filter": f"id=gte.{rows[0]}"}
    watch, quick, began = Watch(ann, **spec), Watch(ann, **spec, interval_ms=1), time.monotonic()
    for n, row in enumerate(rows):
        insert(site, row, "theta")
        quick.wait(n + 1)
    watch.wait(20)
    assert all("messages" in body for body in watch.bodies) and [n for _, n in watch.changes] == rows
    assert len(watch.bodies) <= (time.monotonic() - began) / 0.5 + 2
    assert len(quick.bodies) == 20
    watch.close()
    quick.close()


def test_an_unknown_latency_is_refused(site: Site) -> None:
    lost = own_broker(site, {"name": "fanout", "config": {}})
    lost.start(ready=False, env={"FEDERATION_BROADCAST_LATENCY": "soon"})
    wait_until(lambda: not lost.alive, 10, "its end")
    assert 'FEDERATION_BROADCAST_LATENCY is "soon", expected low or high' in lost.log()


def test_a_broker_that_dies_takes_nothing_with_it(site: Site, broker: Musterd, other: Musterd, agents: Agents, names: Callable[[], int]) -> None:
    """Killed under load: the other broker goes on with the watch, and every row comes; what comes again says so by its position."""
    ann, a = agents("theta", "ann"), names()
    plain, batched = (Watch(ann, **TABLE, filter=f"id=gte.{a}", interval_ms=ms) for ms in (1, 100))
    slow = Watch(ann, **TABLE, filter=f"id=gte.{a}", interval_ms=300, max_bytes=1000)
    unheard = ann.ask("watch", "open", {**TABLE, "filter": f"id=eq.{a}"}).body
    untold = [ann.ask("watch", "open", {**TABLE, "filter": "id=eq.-1", "after": {"epoch": 1, "seq": 1}, **form}).body for form in ({}, {"interval_ms": 50})]
    rows = [a, *(names() for _ in range(30))]
    site.postgres.query("INSERT INTO public.orders SELECT 'theta', n, 'open', 1, 'ann', '', NULL FROM unnest(%s::int[]) AS n", (rows,))
    plain.wait(31)
    time.sleep(2.5)  # positions are kept once a second: of the slow one, that it is behind
    assert len(slow.all()) < 31
    other.kill()
    for _ in range(10):
        rows.append(names())
        insert(site, rows[-1], "theta")
    for watch in (plain, batched, slow):
        wait_until(lambda watch=watch: {n for _, n in watch.changes} >= set(rows), 30, "every row")
    seen = [message["seq"] for body in plain.bodies for message in body["messages"]]
    first = list(dict.fromkeys(seen))
    assert first == sorted(first), "in order, but for what came again"
    assert len(seen) < len(rows) + 31, "the fast one did not go back to where the slow one was"
    late = ann.client.subscribe(unheard["subject"])
    wait_until(lambda: late.messages, 5, "what nobody had heard yet when its broker died")
    assert b'"op"' in late.messages[0].data, late.messages[0].data
    for lost in untold:
        told = ann.client.subscribe(lost["subject"])
        wait_until(lambda told=told: told.messages, 5, "the gap that nobody had heard of when its broker died")
        body = json.loads(told.messages[0].data)
        assert [gap["reason"] for gap in body.get("gaps", [body.get("gap")])] == ["retention"], body
    for watch in (plain, batched, slow):
        watch.close()
    assert held(broker) == 16
    other.start(env={"FEDERATION_BROADCAST_LATENCY": "high"})


def test_holders_come_and_go_while_messages_flow(site: Site, broker: Musterd, other: Musterd, agents: Agents, names: Callable[[], int]) -> None:
    """Streams of all tenants and of one: by whoever a shard is taken over, and however, each message comes, or that some are lost is told."""
    ann, bob = agents("acme", "ann"), agents("acme", "bob")
    shard = 'lease="watch.15"'
    wait_until(lambda: other.metric("muster_lease_held", shard) == 1, 30, "the shard of acme to be there")
    watches = [Watch(ann, sources=sources) for sources in (["mst.acme.all.>"], ["mst.acme.all.bob.flow"], ["mst.acme.all.>", "mst.acme.evt.shop.>"])]
    sent: list[int] = []

    def send(n: int) -> None:
        for _ in range(n):
            sent.append(names())
            bob.client.publish("mst.acme.all.bob.flow", json.dumps({"n": sent[-1]}).encode())

    def heard(watch: Watch) -> set[int]:
        return {body["n"] for body in watch.all() if "n" in body}

    def all_heard(who: str) -> None:
        for watch in watches:
            wait_until(lambda watch=watch: heard(watch) == set(sent), 20, f"all that was sent, with {who} as the holder")

    send(5)
    all_heard("the first")
    other.kill()
    send(20)
    wait_until(lambda: broker.metric("muster_lease_held", shard) == 1, 20, "it to be taken over")
    send(5)
    all_heard("the second")
    other.start(env={"FEDERATION_BROADCAST_LATENCY": "high"})
    wait_until(lambda: send(1) or other.metric("muster_lease_held", shard) == 1, 30, "it to be handed over")
    send(5)
    all_heard("who has come back")
    send(20)
    assert other.stop() == 0
    send(5)
    all_heard("who is left")
    for watch in watches:
        assert not [body for body in watch.bodies if "gap" in body or "gaps" in body], "nothing was lost"
        watch.close()
    other.start(env={"FEDERATION_BROADCAST_LATENCY": "high"})


def test_a_watch_is_known_before_it_is_answered(site: Site, broker: Musterd, other: Musterd, agents: Agents, names: Callable[[], int]) -> None:
    """Its broker dies at once, before it has kept where the watch is: what came after its position comes, and that some is lost is told."""
    ann, rows = agents("theta", "ann"), [names() for _ in range(10)]
    wait_until(lambda: held(broker) == held(other) == 8, 60, "both to serve eight shards")
    spec = {**TABLE, "filter": f"id=gte.{rows[0]}", "interval_ms": 1}
    first = Watch(ann, **spec)
    for row in rows:
        insert(site, row, "theta")
    first.wait(10)
    time.sleep(2)  # how far the shard is has been kept
    after = {name: first.answer.body[name] for name in ("epoch", "seq")}
    answers = [ann.ask("watch", "open", {**spec, "after": position}).body for position in (after, {**after, "epoch": 1})]
    other.kill()
    late, cut = (ann.client.subscribe(answer["subject"]) for answer in answers)
    wait_until(lambda: late.messages and cut.messages, 20, "both to be told")
    wait_until(lambda: len(told(late)) >= 10, 10, "all that came after its position")
    assert told(late) == rows
    assert [gap["reason"] for message in cut.messages for gap in json.loads(message.data).get("gaps", [])] == ["retention"], cut.messages[:3]
    for answer in (first.answer.body, *answers):
        assert ann.ask("watch", "close", {"watch": answer["watch"]}).body == {}
    other.start(env={"FEDERATION_BROADCAST_LATENCY": "high"})


def told(heard: Subscription) -> list[int]:
    return [message["body"]["key"]["id"] for batch in heard.messages for message in json.loads(batch.data)["messages"]]


@pytest.mark.skipif(not LONG, reason="sleeps for longer than a lease lasts: MUSTER_TEST_LONG=1")
def test_a_broker_that_sleeps(site: Site, broker: Musterd, other: Musterd, agents: Agents, names: Callable[[], int]) -> None:
    """Stopped for longer than its lease lasts: another goes on, nothing is missed, and the one that wakes delivers nothing that was delivered."""
    ann, bob = agents("theta", "ann"), agents("theta", "bob")
    wait_until(lambda: held(broker) == held(other) == 8, 20, "both to serve eight shards")
    a = names()
    filter = f"id=gte.{a}"
    watches = [Watch(ann, **TABLE, filter=filter, interval_ms=1), Watch(ann, **TABLE, filter=filter, interval_ms=2000), Watch(bob, **TABLE, filter=filter)]
    rows = [a]
    insert(site, a, "theta")
    for watch in watches:
        watch.wait(1)
    for _ in range(20):
        rows.append(names())
        insert(site, rows[-1], "theta")
    watches[0].wait(21)  # the batch of the second is waiting for its time
    sleeper, awake = (other, broker) if other.metric("muster_fanout_watches") >= 3 else (broker, other)
    sleeper.pause()
    began = time.monotonic()
    while time.monotonic() - began < 20:
        rows.append(names())
        insert(site, rows[-1], "theta")
        time.sleep(0.1)
    for watch in watches:
        wait_until(lambda watch=watch: {n for _, n in watch.changes} >= set(rows), 30, "every row")
    assert held(awake) == 16
    came = [len(watch.all()) for watch in watches]
    sleeper.resume()
    wait_until(lambda: held(sleeper) == 0, 10, "it to know")
    time.sleep(3)  # longer than the interval of its batches
    assert [len(watch.all()) for watch in watches] == came
    more = names()
    insert(site, more, "theta")
    for watch, n in zip(watches, came, strict=True):
        watch.wait(n + 1)
        assert watch.changes[-1] == ("insert", more) and len(watch.changes) == n + 1
        watch.close()
