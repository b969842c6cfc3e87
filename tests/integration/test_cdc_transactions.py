"""What transactions do arrives in the order of commits, with positions that count without a hole; events go the same way."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import pytest

from cdcrig import Rig, installation
from ear import Ear, Heard, exact
from harness import LONG, Musterd, wait_until

ROWS = "tenant_id text, id int, v text, PRIMARY KEY (tenant_id, id)"


@pytest.fixture(scope="module")
def rig() -> Generator[Rig, None, None]:
    with installation("acme", "zeta") as rig:
        rig.site.cli("tenant", "add", "packed", "--encoding", "msgpack")
        rig.sql("ALTER SYSTEM SET max_prepared_transactions = 5")
        rig.site.postgres.stop()
        rig.site.postgres.start()
        broker = rig.site.broker()
        broker.config["plugins"].append({"name": "cdc", "instance": "local", "config": {"slot": "muster_local", "origin": "none"}})
        broker.start(env={"ASAN_OPTIONS": "quarantine_size_mb=16"})
        yield rig


@pytest.fixture
def broker(rig: Rig) -> Musterd:
    return rig.site.brokers[0]


def brief(heard: list[Heard]) -> list[Any]:
    return [(h.body["op"], h.body["key"].get("id")) for h in heard]


# ---- transactions


def test_savepoints_that_are_rolled_back_are_never_seen(rig: Rig) -> None:
    table = rig.table(ROWS)
    ear = rig.changes(table)
    rig.transaction(f"INSERT INTO {table} VALUES ('acme', 1)", "SAVEPOINT a", f"INSERT INTO {table} VALUES ('acme', 2)", "SAVEPOINT b",
                    f"INSERT INTO {table} VALUES ('acme', 3)", "ROLLBACK TO b", "RELEASE a", "SAVEPOINT c",
                    f"DELETE FROM {table} WHERE id = 1", "ROLLBACK TO c", f"INSERT INTO {table} VALUES ('acme', 4)")
    with rig.site.postgres.connect() as connection:
        connection.execute(f"INSERT INTO {table} VALUES ('acme', 5)")
        connection.rollback()
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 6)")
    assert brief(ear.wait(4)) == [("insert", 1), ("insert", 2), ("insert", 4), ("insert", 6)]
    assert [h.lsn[1] for h in ear.all] == [0, 1, 2, 0], "what was rolled back has no ordinal"
    assert len({h.lsn[0] for h in ear.all[:3]}) == 1 and len({h.body["xid"] for h in ear.all[:3]}) == 1


def test_commit_order_not_the_order_of_writing(rig: Rig) -> None:
    table = rig.table(ROWS)
    ear = rig.changes(table)
    with rig.site.postgres.connect() as early, rig.site.postgres.connect() as late:
        early.execute(f"INSERT INTO {table} VALUES ('acme', 1)")
        late.execute(f"INSERT INTO {table} VALUES ('acme', 2)")
        late.commit()
        early.execute(f"INSERT INTO {table} VALUES ('acme', 3)")
        early.commit()
    assert brief(ear.wait(3)) == [("insert", 2), ("insert", 1), ("insert", 3)]
    assert [h.seq for h in ear.all] == [1, 2, 3]


def test_prepared_transactions_are_heard_when_they_are_committed(rig: Rig) -> None:
    table = rig.table(ROWS)
    ear = rig.changes(table)
    for number, end in ((1, "COMMIT"), (2, "ROLLBACK"), (3, "COMMIT")):
        with rig.site.postgres.connect(autocommit=True) as connection:
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO {table} VALUES ('acme', {number})")
            connection.execute(f"PREPARE TRANSACTION 'p{number}'")
            connection.execute(f"INSERT INTO {table} VALUES ('acme', {number + 10})")
            connection.execute(f"{end} PREPARED 'p{number}'")
    assert brief(ear.wait(5)) == [("insert", n) for n in (11, 1, 12, 13, 3)]


def test_a_large_transaction(rig: Rig, broker: Musterd) -> None:
    """Read from the stream: a subscriber in Python would be cut off as too slow."""
    count = 200_000 if LONG else 40_000
    table = rig.table(ROWS)
    last = rig.changes(table, "zeta")
    resident = broker.metric("process_resident_memory_bytes")
    rig.sql(f"INSERT INTO {table} SELECT 'acme', n, repeat('x', 100) FROM generate_series(1, {count}) n",
            f"INSERT INTO {table} VALUES ('acme', 0), ('zeta', 0)")
    last.wait(1, 120)
    assert broker.metric("process_resident_memory_bytes") < resident + 200e6, "a transaction must not be gathered in memory"
    stored = [Heard(m.subject, m.headers, m.data) for m in rig.client().read_stream("CDC_main", f"mst._in.acme.cdc.main.public.{table}.>")]
    numbers, wanted = [h.seq for h in stored], list(range(1, count + 2))
    holes, ends = sorted(set(wanted) - set(numbers)), [(a, b) for a, b in pairwise(numbers) if b != a + 1]
    assert numbers == wanted, f"{len(numbers)} messages, {len(set(numbers))} numbers, {len(holes)} missing {holes[:3]}, breaks {ends[:5]}, " \
                              f"epochs {({h.epoch for h in stored})}; {broker.log()[-2000:]}"
    assert [h.lsn[1] for h in stored] == [*range(count), 0]
    assert stored[count - 1].body["key"]["id"] == count and stored[count].body["key"]["id"] == 0


def test_origin_none_leaves_out_what_replication_brought(rig: Rig) -> None:
    table = rig.table(ROWS)
    every, local = rig.changes(table), rig.changes(table, source="local")
    rig.sql("SELECT pg_replication_origin_create('elsewhere')")
    with rig.site.postgres.connect(autocommit=True) as connection:
        connection.execute("SELECT pg_replication_origin_session_setup('elsewhere')")
        connection.execute(f"INSERT INTO {table} VALUES ('acme', 1)")
        connection.execute(f"TRUNCATE {table}")
        connection.execute("SELECT pg_replication_origin_session_reset()")
        connection.execute(f"INSERT INTO {table} VALUES ('acme', 2)")
    assert brief(every.wait(3)) == [("insert", 1), ("truncate", None), ("insert", 2)]
    assert brief(local.wait(1)) == [("insert", 2)]
    assert local.all[0].seq == 1 and "columns" in local.all[0].body


def test_truncate(rig: Rig) -> None:
    """Of a mapped table to its tenant, of any other to all, one event a table; the parts in the order of tenants' names."""
    first, second = rig.table(ROWS), rig.table(ROWS)
    mapped = rig.table("id int PRIMARY KEY", "--tenant", "zeta")
    hidden = rig.table(ROWS, after="ALTER TABLE {} REPLICA IDENTITY FULL")
    rig.sql(f"ALTER PUBLICATION muster DROP TABLE {hidden}")
    acme, zeta, packed = (rig.ear("cdc.main.public.>", tenant) for tenant in ("acme", "zeta", "packed"))
    rig.sql(f"INSERT INTO {first} VALUES ('acme', 1)", f"TRUNCATE {first}, {second}, {mapped}, {hidden}", f"TRUNCATE {mapped} CASCADE",
            f"INSERT INTO {first} VALUES ('acme', 1)")

    def told(ear: Ear, count: int) -> list[Any]:
        return [(h.subject.split(".")[-2:], h.body["table"], h.body["key"], h.body["new"], h.body["old"], h.lsn[1:])
                for h in ear.wait(count) if h.body["op"] == "truncate"]

    def one(table: str, part: int) -> Any:
        return ["truncate", "_"], table, {}, None, None, (0, part)

    assert told(acme, 4) == [one(first, 0), one(second, 3)]
    assert told(packed, 2) == [one(first, 1), one(second, 4)]
    assert told(zeta, 4) == [one(first, 2), one(second, 5), one(mapped, 6), one(mapped, 0)]
    assert all("Muster-Key" not in h.headers for h in zeta.all)
    assert brief(acme.all) == [("insert", 1), ("truncate", None), ("truncate", None), ("insert", 1)]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_tenant_move(rig: Rig, identity: str) -> None:
    table = rig.table("tenant_id text, id int, v text, big text, PRIMARY KEY (tenant_id, id)",
                      after=f"ALTER TABLE {{}} REPLICA IDENTITY {identity};ALTER TABLE {{}} ALTER big SET STORAGE EXTERNAL")
    acme, zeta = rig.changes(table), rig.changes(table, "zeta")
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 1, 'a', repeat('x', 9000))", f"UPDATE {table} SET tenant_id = 'zeta', v = 'b'",
            f"UPDATE {table} SET tenant_id = 'nobody'", f"UPDATE {table} SET tenant_id = 'acme', id = 2")
    assert brief(acme.wait(3)) == [("insert", 1), ("delete", 1), ("insert", 2)]
    assert brief(zeta.wait(2)) == [("insert", 1), ("delete", 1)]
    leave, arrive = acme.all[1], zeta.all[0]
    assert leave.lsn[:2] == arrive.lsn[:2] and (leave.lsn[2], arrive.lsn[2]) == (0, 1)
    assert leave.body["key"] == {"tenant_id": "acme", "id": 1} and leave.body["new"] is None
    assert arrive.body["key"] == {"tenant_id": "zeta", "id": 1} and arrive.body["old"] is None
    assert "zeta" not in leave.data.decode() and "acme" not in arrive.data.decode(), "neither hears of the other"
    assert arrive.body["new"]["v"] == "b" and arrive.body["unchanged"] == ([] if identity == "FULL" else ["big"])
    assert acme.all[2].body["key"] == {"tenant_id": "acme", "id": 2}


# ---- databases in other encodings


def other_database(rig: Rig, name: str, encoding: str) -> Musterd:
    """A database of another encoding beside the first, with a broker and a source of its own, both called `name`."""
    site = rig.site
    rig.sql(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    site.postgres.database = name
    try:
        site.cli("migrate")
        site.cli("tenant", "add", "acme")
        rig.sql("CREATE TABLE words (tenant_id text, id int, v text, a text[], j json, PRIMARY KEY (tenant_id, id))")
        site.cli("publish", "public.words")
        broker = site.broker(name, cdc={"slot": f"slot_{name}"})
        broker.config["plugins"] = [{**broker.config["plugins"][0], "instance": name}]
        broker.start()
    finally:
        site.postgres.database = "muster"
    return broker


def run_bytes(rig: Rig, database: str, statement: str) -> None:
    with rig.site.postgres.connect(dbname=database, autocommit=True) as connection:
        connection.execute(statement.encode("latin1"))


def test_latin1_database(rig: Rig) -> None:
    broker = other_database(rig, "latin", "LATIN1")
    ear = rig.changes("words", source="latin")
    run_bytes(rig, "latin", "SET client_encoding = 'LATIN1'; INSERT INTO words VALUES ('acme', 1, 'é ß', '{é,ü}', '{\"k\": \"ä\"}')")
    assert ear.wait(1)[0].body["new"] == {"tenant_id": "acme", "id": 1, "v": "é ß", "a": ["é", "ü"], "j": {"k": "ä"}}
    broker.stop()


def test_sql_ascii_database(rig: Rig) -> None:
    """Any bytes may stand there; what is no UTF-8 is {"base64": …}, and the stream goes on behind it."""
    broker = other_database(rig, "bytes", "SQL_ASCII")
    ear = rig.changes("words", source="bytes")
    run_bytes(rig, "bytes", "INSERT INTO words VALUES ('acme', 1, 'caf\xe9', '{\"a\xff\",b}', '{\"k\": \"\xe4\"}');"
                            "INSERT INTO words VALUES ('caf\xe9', 2), ('acme', 3); UPDATE words SET v = 'caf\xc3\xa9' WHERE id = 3")
    odd, _, fine = ear.wait(3)
    assert odd.body["new"] == {"tenant_id": "acme", "id": 1, "v": {"base64": "Y2Fm6Q=="}, "a": [{"base64": "Yf8="}, "b"],
                               "j": {"base64": base64.b64encode(b'{"k": "\xe4"}').decode()}}
    assert fine.body["new"]["v"] == "café" and fine.seq == 3
    broker.stop()


# ---- events


def emit(service: str, event: str, key: str, body: str, tenant: str = "acme") -> str:
    return f"SELECT muster.emit('{tenant}', '{service}', '{event}', $k${key}$k$, $b${body}$b$)"


def message(content: str, transactional: bool = True, prefix: str = "muster.evt") -> str:
    return f"SELECT pg_logical_emit_message({transactional}, '{prefix}', convert_to($c${content}$c$, 'UTF8'))"


def test_events(rig: Rig) -> None:
    ear, packed = rig.ear("evt.task.>"), rig.ear("evt.task.>", "packed")
    body = '{"n": 1.10, "big": 123456789012345678901234567890, "s": "é\\u0001\\n", "l": [null, true, {}], "e": 1e5}'
    for tenant in ("acme", "packed"):
        rig.transaction(emit("task", "queued", "t1", body, tenant), emit("task", "running", "t1", "{}", tenant),
                        emit("other", "x", "1", "{}", tenant), emit("task", "queued", "a b", "{}", tenant),
                        emit("task", "queued", 'c"\\\r\nX: 1', "{}", tenant), emit("task", "queued", "é~", "{}", tenant))
    with rig.site.postgres.connect() as connection:
        connection.execute(emit("task", "queued", "never", "{}"))
        connection.rollback()
    rig.sql(emit("task", "last", "x" * 64, "{}"))
    heard = ear.wait(6)

    def token(text: str) -> str:
        return "~" + base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode().lower()

    assert [h.subject.removeprefix("mst.acme.evt.task.") for h in heard] == [
        "queued.t1", "running.t1", "queued." + token("a b"), "queued." + token('c"\\\r\nX: 1'), "queued." + token("é~"), "last." + "x" * 64]
    assert [h.headers["Muster-Key"] for h in heard] == ["t1", "t1", "a b", '["c\\"\\\\\\r\\nX: 1"]', "é~", "x" * 64]
    assert [h.seq for h in heard] == [1, 2, 3, 4, 5, 6] and [h.lsn[1] for h in heard] == [0, 1, 3, 4, 5, 0]
    # jsonb writes 1e5 as 100000 and orders keys by length; what it holds is told digit by digit.
    assert heard[0].exact == exact('{"n": 1.10, "big": 123456789012345678901234567890, "s": "é\\u0001\\n", "l": [null, true, {}], "e": 100000}')
    first = packed.wait(5)[0].body
    assert first["n"] == 1.1 and first["s"] == "é\x01\n" and first["l"] == [None, True, {}] and first["e"] == 100000


def test_what_emit_takes_arrives_as_it_was(rig: Rig) -> None:
    """Digits, deep trees and wide ones; and a message of somebody else's, whose prefix is longer than any name, is passed over."""
    ear, packed = rig.ear("evt.exact.>"), rig.ear("evt.exact.>", "packed")
    deep = '{"a": ' * 32 + "1" + "}" * 32
    bodies = ['{"n": 12345678901234567890.123, "m": 1.10}', '{"n": 1e400}', deep, '{"a": ' * 100 + "1" + "}" * 100,
              json.dumps({f"k{n}": n for n in range(2000)}), json.dumps({"a": list(range(5000))})]
    rig.sql("SELECT pg_logical_emit_message(true, repeat('x', 5000), 'y')")
    for n, body in enumerate(bodies):
        rig.sql(emit("exact", "e", str(n), body))
    kept = [rig.sql("SELECT ($b$" + body + "$b$::jsonb)::text")[0][0] for body in bodies]
    assert [h.data.decode() for h in ear.wait(len(bodies))] == kept
    rig.sql(emit("exact", "e", "0", bodies[0], "packed"), emit("exact", "e", "2", deep, "packed"))
    assert packed.wait(2)[0].body == {"n": "12345678901234567890.123", "m": 1.1} and packed.all[1].body == json.loads(deep)


def test_head_notices_speak_as_their_tenant_does(rig: Rig) -> None:
    table = rig.table(ROWS)
    heads, packed = rig.ear("evt._.head"), rig.ear("evt._.head", "packed")
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 1), ('packed', 1)")
    channel = f"cdc.main.public.{table}"
    for ear, first in ((heads, b"{"), (packed, b"\x81")):
        found = ear.wait_for(lambda h: channel in h.body)
        assert found.body[channel]["seq"] == 1 and (found.data[:1] == b"{") == (first == b"{")


def test_an_event_as_large_as_emit_takes_arrives(rig: Rig) -> None:
    ear = rig.ear("evt.large.>")
    taken = 0
    for size in (900_000, 999_900, 999_988):
        body = json.dumps({"text": "x" * (size - 12)})
        with rig.site.postgres.connect() as connection:
            try:
                connection.execute(emit("large", "e", "k", body))
                taken += 1
            except Exception as error:  # refused in the transaction, which is the right place
                assert "body" in str(error), error
                connection.rollback()
    assert taken >= 1
    rig.sql(emit("large", "end", "k", "{}"))
    assert [h.subject.split(".")[-2] for h in ear.wait(taken + 1)] == ["e"] * taken + ["end"]


HOSTILE = [
    "", "{", "[]", "null", '"x"', "{}", '{"tenant":"acme"}',
    '{"tenant":"acme","service":"hostile","event":"e","key":"k"}',
    '{"tenant":"acme","service":"hostile","event":"e","key":7,"body":{}}',
    '{"tenant":"acme","service":"hostile","event":"e","key":"","body":{}}',
    '{"tenant":"acme","service":"hostile","event":"e","key":"k","body":[]}',
    '{"tenant":"acme","service":"hostile","event":"e","key":"k","body":"{}"}',
    '{"tenant":"acme","tenant":"zeta","service":"hostile","event":"e","key":"k","body":{}}',
    '{"tenant":"nobody","service":"hostile","event":"e","key":"k","body":{}}',
    '{"tenant":"*","service":"hostile","event":"e","key":"k","body":{}}',
    '{"tenant":"_in","service":"hostile","event":"e","key":"k","body":{}}',
    '{"tenant":"acme","service":"_","event":"head","key":"k","body":{}}',
    '{"tenant":"acme","service":"hostile.x","event":"e","key":"k","body":{}}',
    '{"tenant":"acme","service":">","event":"e","key":"k","body":{}}',
    '{"tenant":"acme","service":"hostile","event":"a b","key":"k","body":{}}',
    '{"tenant":"acme","service":"hostile","event":"","key":"k","body":{}}',
    '{"tenant":"acme","service":"hostile","event":"e","key":"k","body":{' + '"a":{' * 600 + "}" * 600 + "}}",
    '{"tenant":"packed","service":"hostile","event":"e","key":"k","body":{' + '"a":{' * 40 + "}" * 40 + "}}",
    '{"tenant":"acme","service":"hostile","event":"e","key":"' + "k" * 1025 + '","body":{}}',
    '{"tenant":"acme","service":"hostile","event":"e","key":"k","body":{"x":"' + "x" * 1_000_001 + '"}}',
]


def test_hostile_messages_go_to_nobody_and_are_counted(rig: Rig, broker: Musterd) -> None:
    ears = [rig.ear("evt.>", tenant) for tenant in ("acme", "zeta")]
    before, began = broker.metric("muster_cdc_refused_total", 'instance="evt"'), time.monotonic()
    rig.sql(*map(message, HOSTILE))
    rig.sql("SELECT pg_logical_emit_message(true, 'muster.evt', '\\xff00fe'::bytea)",
            message('{"tenant":"acme","service":"hostile","event":"loose","key":"k","body":{}}', transactional=False),
            message('{"tenant":"acme","service":"hostile","event":"e","key":"k","body":{}}', prefix="muster.evt2"),
            message('{"tenant":"acme","service":"hostile","event":"fine","key":"k","body":{}}'))
    ears[0].wait_for(lambda h: h.subject == "mst.acme.evt.hostile.fine.k")
    hostile = [h.subject for ear in ears for h in ear.all if ".evt._.head" not in h.subject]
    assert hostile == ["mst.acme.evt.hostile.fine.k"]
    assert not any("body" in h.body for ear in ears for h in ear.all if ".evt._.head" in h.subject)
    assert broker.metric("muster_cdc_refused_total", 'instance="evt"') - before == len(HOSTILE) + 2
    assert 'there is no tenant "nobody"; it is event e of service hostile' in broker.log()
    if time.monotonic() - began < 5:  # 20 lines in 10 s
        assert broker.log().count("goes to nobody") < 25, "a flood of them must not flood the log"


# ---- positions


def test_positions(rig: Rig) -> None:
    """Contiguous from 1 in each channel, in one epoch, rising over all channels; the heads say how far."""
    one, two = rig.table(ROWS), rig.table(ROWS)
    heads, every = rig.ear("evt._.head"), rig.ear("cdc.main.>")
    for n in range(20):
        rig.transaction(f"INSERT INTO {one} VALUES ('acme', {n}), ('zeta', {n})", f"INSERT INTO {two} VALUES ('acme', {n})")
    heard = every.wait(40)
    assert [[h.seq for h in heard if h.body["table"] == table] for table in (one, two)] == [[*range(1, 21)]] * 2
    assert all(before.lsn < after.lsn for before, after in pairwise(heard)) and len({h.epoch for h in heard}) == 1
    assert [h.lsn[1] for h in heard[:2]] == [0, 2], "the ordinal counts every change, whoever gets it"
    wanted = {f"cdc.main.public.{table}": {"epoch": heard[0].epoch, "seq": 20} for table in (one, two)}
    told: dict[str, Any] = {}
    wait_until(lambda: [told.update(h.body) for h in heads.all] and wanted.items() <= told.items(), 8, "the heads")
    assert wanted.items() <= told.items()


def test_counts_go_on_after_a_restart(rig: Rig, broker: Musterd) -> None:
    table = rig.table(ROWS)
    ear, events = rig.changes(table), rig.ear("evt.again.>")
    for end in (broker.stop, broker.kill, broker.stop):
        for n in range(3):
            rig.sql(f"INSERT INTO {table} VALUES ('acme', (SELECT count(*) FROM {table}))", emit("again", "e", "k", "{}"))
        end()
        rig.sql(f"INSERT INTO {table} VALUES ('acme', (SELECT count(*) FROM {table}))", emit("again", "e", "k", "{}"))
        broker.start()
    assert [h.seq for h in ear.wait(12)] == list(range(1, 13)) and len({h.epoch for h in ear.all}) == 1
    assert [h.seq for h in events.wait(12)] == list(range(1, 13)) and len({h.epoch for h in events.all}) == 1
    assert [h.body["key"]["id"] for h in ear.all] == list(range(12))


@pytest.mark.parametrize("idle", [0, 70] if LONG else [0])
def test_counts_go_on_after_retention_has_cut_a_channel(rig: Rig, broker: Musterd, idle: int) -> None:
    """Nothing of the channel is stored any more and the broker is new: no number is used twice in an epoch."""
    table, quiet = rig.table(ROWS), rig.table(ROWS)
    ear, new = rig.changes(table), rig.changes(quiet)
    rig.sql(f"INSERT INTO {table} SELECT 'acme', n FROM generate_series(1, 5) n")
    before = ear.wait(5)[4]
    threading.Event().wait(idle)
    broker.kill()
    rig.client().purge("CDC_main")
    broker.start()
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 6)", f"INSERT INTO {table} VALUES ('acme', 7)", f"INSERT INTO {quiet} VALUES ('acme', 1)")
    sixth, seventh = ear.wait(7)[5:]
    assert sixth.epoch == before.epoch and seventh.seq == sixth.seq + 1
    # A channel that has been still for a minute is written down. Of another a hole is left rather than anything counted twice.
    assert sixth.seq == 6 if idle else sixth.seq >= 6
    assert new.wait(1)[0].seq == 1, "a channel that never was begins at 1"
