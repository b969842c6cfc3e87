"""A column's value in a change is what INTERFACE 4 says of its type, and a change names what it cannot tell."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Generator
from typing import Any

import pytest

from cdcrig import Rig, installation
from ear import exact, unpack
from harness import Musterd

SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'very happy');
CREATE TYPE pair AS (a text, b int);
CREATE TYPE span AS RANGE (subtype = float8);
CREATE DOMAIN posint AS int CHECK (VALUE > 0);
CREATE DOMAIN evenmore AS posint;
CREATE DOMAIN instant AS timestamptz;
CREATE DOMAIN ints AS int[];
CREATE DOMAIN tags AS text[];
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
"""

NASTY = "a\"b\\c/d\x01\x02\x1f\x7f\t\r\n\b\f </script> \u2028\u2029 é ß 漢 😀 \ufeff \uffff $'{}[],:"

# Type, SQL literal, the value as it must stand in the JSON body, digits included.
CASES: list[tuple[str, str, str]] = [
    ("smallint", "-32768", "-32768"),
    ("int", "2147483647", "2147483647"),
    ("bigint", "'-9223372036854775808'", "-9223372036854775808"),
    ("bigint", "9223372036854775807", "9223372036854775807"),
    ("real", "1.1", "1.1"),
    ("real", "'NaN'", '"NaN"'),
    ("real", "'-Infinity'", '"-Infinity"'),
    ("double precision", "0.1", "0.1"),
    ("double precision", "1e300", "1e+300"),
    ("double precision", "'5e-324'", "5e-324"),
    ("double precision", "'-0'", "-0"),
    ("double precision", "'NaN'", '"NaN"'),
    ("double precision", "'Infinity'", '"Infinity"'),
    ("numeric", "1.10", '"1.10"'),
    ("numeric", "'NaN'", '"NaN"'),
    ("numeric", "'-Infinity'", '"-Infinity"'),
    ("numeric(40,2)", "12345678901234567890123456789012345678.90", '"12345678901234567890123456789012345678.90"'),
    ("boolean", "true", "true"),
    ("boolean", "false", "false"),
    ("json", """'{"b": 1.10, "a": [1, 1e2, null, true], "b": -0.0}'""", '{"b": 1.10, "a": [1, 1e2, null, true], "b": -0.0}'),
    ("json", """E'{\\n "a" : 123456789012345678901234567890\\n}'""", '{"a": 123456789012345678901234567890}'),
    ("json", "'3'", "3"),
    ("json", "'null'", "null"),
    ("jsonb", """'{"k": 1.10, "deep": {"x": [[], {}]}, "u": "\\u00e9\\u2028"}'""",
     '{"k": 1.10, "u": "é\u2028", "deep": {"x": [[], {}]}}'),
    ("jsonb", "'\"text\"'", '"text"'),
    ("jsonb[]", """ARRAY['{"a": 1.0}', '2.50', NULL]::jsonb[]""", '[{"a": 1.0}, 2.50, null]'),
    ("bytea", "''", '""'),
    ("bytea", "'\\x00ff10'", '"AP8Q"'),
    ("bytea[]", "ARRAY['\\x00'::bytea, '\\xffff', NULL]", '["AA==", "//8=", null]'),
    ("int[]", "'{1,NULL,3}'", "[1, null, 3]"),
    ("int[]", "'{}'", "[]"),
    ("int[]", "'{{1,2},{3,4}}'", "[[1, 2], [3, 4]]"),
    ("int[]", "'[0:1]={7,8}'", "[7, 8]"),
    ("text[]", """ARRAY['NULL', NULL, '', 'a,b', '{x}', 'q"\\', ' s ']""", r'["NULL", null, "", "a,b", "{x}", "q\"\\", " s "]'),
    ("text[]", "'{{{a},{b}},{{c},{d}}}'", '[[["a"], ["b"]], [["c"], ["d"]]]'),
    ("float8[]", "'{1.5,NaN,-Infinity,1e-7}'", '[1.5, "NaN", "-Infinity", 1e-07]'),
    ("numeric[]", "'{1.50,NaN}'", '["1.50", "NaN"]'),
    ("bool[]", "'{t,f,NULL}'", "[true, false, null]"),
    ("box[]", "'{(1,1),(0,0);(2,2),(0,0)}'", '["(1,1),(0,0)", "(2,2),(0,0)"]'),
    ("timestamptz", "'2026-01-02 03:04:05+02'", '"2026-01-02T01:04:05.000000Z"'),
    ("timestamptz", "'2026-01-02 03:04:05.000001Z'", '"2026-01-02T03:04:05.000001Z"'),
    ("timestamptz", "'infinity'", '"infinity"'),
    ("timestamptz", "'-infinity'", '"-infinity"'),
    ("timestamptz", "'0044-03-15 12:00:00Z BC'", '"0044-03-15 12:00:00+00 BC"'),
    ("timestamptz", "'12026-01-02 03:04:05Z'", '"12026-01-02 03:04:05+00"'),
    ("timestamptz[]", "ARRAY['2026-01-02 03:04:05Z', 'infinity', NULL]::timestamptz[]", '["2026-01-02T03:04:05.000000Z", "infinity", null]'),
    ("timestamp", "'2026-01-02 03:04:05.6'", '"2026-01-02T03:04:05.600000"'),
    ("timestamp", "'infinity'", '"infinity"'),
    ("timestamp", "'0001-01-01 00:00:00 BC'", '"0001-01-01 00:00:00 BC"'),
    ("timestamp(0)", "'0001-01-01 00:00:00'", '"0001-01-01T00:00:00.000000"'),
    ("date", "'2026-11-22'", '"2026-11-22"'),
    ("date", "'infinity'", '"infinity"'),
    ("date", "'0044-03-15 BC'", '"0044-03-15 BC"'),
    ("time", "'23:59:59.5'", '"23:59:59.5"'),
    ("timetz", "'10:00:00+02'", '"10:00:00+02"'),
    ("interval", "'1 year 2 mons -3 days 04:05:06.7'", '"P1Y2M-3DT4H5M6.7S"'),
    ("interval", "'0'", '"PT0S"'),
    ("uuid", "'550e8400-e29b-41d4-a716-446655440000'", '"550e8400-e29b-41d4-a716-446655440000"'),
    ("inet", "'192.168.0.1/24'", '"192.168.0.1/24"'),
    ("inet", "'2001:db8::1'", '"2001:db8::1"'),
    ("cidr", "'10.0.0.0/8'", '"10.0.0.0/8"'),
    ("macaddr", "'08:00:2b:01:02:03'", '"08:00:2b:01:02:03"'),
    ("money", "12.5", '"$12.50"'),
    ("oid", "42", '"42"'),
    ("bit(3)", "'101'", '"101"'),
    ("char(4)", "'ab'", '"ab  "'),
    ("varchar(9)", "'x'", '"x"'),
    ("\"char\"", "'z'", '"z"'),
    ("name", "'muster'", '"muster"'),
    ("citext", "'MiXed'", '"MiXed"'),
    ("xml", "'<a b=\"1\">t&amp;</a>'", '"<a b=\\"1\\">t&amp;</a>"'),
    ("tsvector", "'fat cat'", '"\'cat\' \'fat\'"'),
    ("point", "'(1.5,-2)'", '"(1.5,-2)"'),
    ("int4range", "'[1,5)'", '"[1,5)"'),
    ("int4range", "'empty'", '"empty"'),
    ("int4range[]", "ARRAY['[1,3)', '(,)']::int4range[]", '["[1,3)", "(,)"]'),
    ("tstzrange", "'[2026-01-01 00:00Z,)'", '"[\\"2026-01-01 00:00:00+00\\",)"'),
    ("int4multirange", "'{[1,3),[5,7)}'", '"{[1,3),[5,7)}"'),
    ("span", "'[1.5,2.5]'", '"[1.5,2.5]"'),
    ("mood", "'very happy'", '"very happy"'),
    ("mood[]", "'{sad,\"very happy\",NULL}'", '["sad", "very happy", null]'),
    ("pair", "ROW('a b', 2)", '"(\\"a b\\",2)"'),
    ("pair[]", "ARRAY[ROW('a', 1)::pair, NULL]", '["(a,1)", null]'),
    ("posint", "7", "7"),
    ("evenmore", "8", "8"),
    ("posint[]", "'{1,NULL,2}'", "[1, null, 2]"),
    ("evenmore[]", "'{{1},{2}}'", "[[1], [2]]"),
    ("instant", "'2026-01-02 03:04:05Z'", '"2026-01-02T03:04:05.000000Z"'),
    ("instant[]", "ARRAY['2026-01-02 03:04:05Z']::instant[]", '["2026-01-02T03:04:05.000000Z"]'),
    ("ints", "'{1,2}'", "[1, 2]"),
    ("tags", "'{a,\"b c\"}'", '["a", "b c"]'),
    ("hstore", "'a=>1, b=>NULL'", '"\\"a\\"=>\\"1\\", \\"b\\"=>NULL"'),
    ("pg_lsn", "'0/16B3748'", '"0/16B3748"'),
    ("text", "''", '""'),
    ("text", "'NULL'", '"NULL"'),
    ("text", "E'a\"b\\\\c'", r'"a\"b\\c"'),
]

# Type of the column as `columns` names it.
NAMES = {"smallint": "int2", "int": "int4", "bigint": "int8", "real": "float4", "double precision": "float8", "boolean": "bool",
         "numeric(40,2)": "numeric", "timestamp(0)": "timestamp", "bit(3)": "bit", "char(4)": "bpchar", "varchar(9)": "varchar",
         "\"char\"": "char", "int[]": "int4[]", "bool[]": "bool[]", "posint": "int4", "evenmore": "int4", "posint[]": "int4[]",
         "evenmore[]": "int4[]", "instant": "timestamptz", "instant[]": "timestamptz[]", "ints": "int4[]", "tags": "text[]",
         "mood": "public.mood", "mood[]": "public.mood[]", "pair": "public.pair", "pair[]": "public.pair[]", "span": "public.span",
         "hstore": "public.hstore", "citext": "public.citext"}


@pytest.fixture(scope="module")
def rig() -> Generator[Rig, None, None]:
    with installation("acme", "zeta") as rig:
        rig.site.cli("tenant", "add", "packed", "--encoding", "msgpack")
        rig.site.broker().start()
        rig.sql(*filter(str.strip, SETUP.split(";")))
        yield rig


@pytest.fixture(scope="module")
def broker(rig: Rig) -> Musterd:
    return rig.site.brokers[0]


def key_token(text: str) -> str:
    """INTERFACE 1: what does not fit the pattern is `~` and the base32 of the first 80 bits of its SHA-256."""
    return "~" + base64.b32encode(hashlib.sha256(text.encode()).digest()[:10]).decode().lower()


def types_table(rig: Rig) -> str:
    columns = ", ".join(f"c{i} {kind}" for i, (kind, _, _) in enumerate(CASES))
    return rig.table(f"tenant_id text, id int, {columns}, PRIMARY KEY (tenant_id, id)")


def insert_cases(rig: Rig, table: str, tenant: str, number: int) -> None:
    values = ", ".join(literal for _, literal, _ in CASES)
    rig.transaction("SET client_encoding = 'UTF8'", f"INSERT INTO {table} VALUES ('{tenant}', {number}, {values})")


def test_every_type(rig: Rig) -> None:
    table = types_table(rig)
    ear = rig.changes(table)
    insert_cases(rig, table, "acme", 1)
    rig.sql(f"INSERT INTO {table} (tenant_id, id) VALUES ('acme', 2)")
    first, empty = ear.wait(2)

    new = first.exact["new"]
    wrong = {f"c{i} {kind} {literal}": (new[f"c{i}"], value) for i, (kind, literal, value) in enumerate(CASES)
             if new[f"c{i}"] != exact(value)}
    assert not wrong, wrong
    assert first.body["unchanged"] == [] and first.body["omitted"] == []
    listed = [(column["name"], column["type"]) for column in first.body["columns"]]
    assert listed == [("tenant_id", "text"), ("id", "int4"),
                      *((f"c{i}", NAMES.get(kind, kind)) for i, (kind, _, _) in enumerate(CASES))]
    assert "columns" not in empty.body
    assert {value for name, value in empty.body["new"].items() if name.startswith("c")} == {None}


def test_json_keeps_its_digits_and_stands_on_one_line(rig: Rig) -> None:
    """A tree is copied, not read and written: what a double would lose stays, and a body has no line breaks."""
    table = rig.table("tenant_id text, id int PRIMARY KEY, j json, b jsonb", "--tenant", "acme")
    ear = rig.changes(table)
    rig.sql(f"""INSERT INTO {table} VALUES ('acme', 1, E'{{"a" :\\n\\t1.10,\\r\\n"a": 1E400}}', '{{"n": 123456789012345678901.2300}}')""")
    data = ear.wait(1)[0].data
    assert b'"j":{"a" :  1.10,  "a": 1E400}' in data and b'"b":{"n": 123456789012345678901.2300}' in data
    assert b"\n" not in data and b"\r" not in data and b"\t" not in data


def test_text_with_every_character(rig: Rig) -> None:
    table = rig.table("tenant_id text, id int, body text, parts text[], j json, PRIMARY KEY (tenant_id, id)")
    ear, packed = rig.changes(table), rig.changes(table, "packed")
    every = "".join(map(chr, [*range(1, 0xD800, 7), *range(1, 0x100), *range(0xE000, 0x10000, 11), *range(0x10000, 0x110000, 997)]))
    with rig.site.postgres.connect() as connection:
        for tenant in ("acme", "packed"):
            for number, text in enumerate((NASTY, every)):
                connection.execute(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s)",
                                   (tenant, number, text, [text, "\\", '"'], json.dumps({text: text})))
    for heard, text in zip(ear.wait(2) + packed.wait(2), (NASTY, every) * 2):
        assert heard.body["new"]["body"] == text
        assert heard.body["new"]["parts"] == [text, "\\", '"']
        assert heard.body["new"]["j"] == {text: text}


def test_messagepack_says_the_same(rig: Rig) -> None:
    """A tenant with encoding msgpack gets bodies that decode to what the JSON ones hold."""
    table = types_table(rig)
    plain, packed = rig.changes(table), rig.changes(table, "packed")
    for tenant in ("acme", "packed"):
        insert_cases(rig, table, tenant, 1)
        rig.sql(f"UPDATE {table} SET id = 2 WHERE tenant_id = '{tenant}'", f"DELETE FROM {table} WHERE tenant_id = '{tenant}'")
    for a, b in zip(plain.wait(3), packed.wait(3)):
        left, right = json.loads(a.data), unpack(b.data)
        for body in (left, right):
            for volatile in ("lsn", "commit_time", "xid"):
                assert body.pop(volatile)
            for row in (body["key"], body["new"] or {}, body["old"] or {}):
                if "tenant_id" in row:
                    assert row.pop("tenant_id") in ("acme", "packed")
        # What is no 64-bit number is a string where there are no digits to keep.
        wide = f"c{[kind for kind, _, _ in CASES].index('json') + 1}"
        if left["new"]:
            assert left["new"].pop(wide) == {"a": 123456789012345678901234567890}
            assert right["new"].pop(wide) in ({"a": 123456789012345678901234567890.0}, {"a": "123456789012345678901234567890"})
        assert list(left) == list(right) and left == right
        assert a.headers["Muster-Key"].replace("acme", "packed") == b.headers["Muster-Key"]


def test_unchanged_toast(rig: Rig) -> None:
    big = "EXTERNAL"
    columns = "tenant_id text, id int, note text, big text, PRIMARY KEY (tenant_id, id)"
    plain = rig.table(columns, after=f"ALTER TABLE {{}} ALTER big SET STORAGE {big}")
    full = rig.table(columns, after=f"ALTER TABLE {{}} ALTER big SET STORAGE {big};ALTER TABLE {{}} REPLICA IDENTITY FULL")
    heard = rig.changes(plain), rig.changes(full)
    for table in (plain, full):
        rig.sql(f"INSERT INTO {table} VALUES ('acme', 1, 'a', repeat('x', 20000))",
                f"UPDATE {table} SET note = 'b'", f"UPDATE {table} SET id = 2, note = 'c'", f"UPDATE {table} SET big = 'small'",
                f"UPDATE {table} SET big = repeat('y', 20000)", f"UPDATE {table} SET big = NULL", f"DELETE FROM {table}")
    told = [[(h.body["op"], h.body["unchanged"], "big" in (h.body["new"] or {}), len((h.body["new"] or {}).get("big") or ""))
             for h in ear.wait(7)] for ear in heard]
    assert told[0] == [("insert", [], True, 20000), ("update", ["big"], False, 0), ("update", ["big"], False, 0),
                       ("update", [], True, 5), ("update", [], True, 20000), ("update", [], True, 0), ("delete", [], False, 0)]
    assert told[1] == [("insert", [], True, 20000), ("update", [], True, 20000), ("update", [], True, 20000),
                       ("update", [], True, 5), ("update", [], True, 20000), ("update", [], True, 0), ("delete", [], False, 0)]
    assert heard[0].all[1].body["old"] is None
    moved = heard[0].all[2].body
    assert moved["key"] == {"tenant_id": "acme", "id": 2} and moved["old"] == {"tenant_id": "acme", "id": 1}
    assert heard[0].all[5].body["new"]["big"] is None
    assert len(heard[1].all[1].body["old"]["big"]) == 20000 and heard[1].all[2].body["old"]["note"] == "b"
    assert heard[1].all[6].body["old"] == {"tenant_id": "acme", "id": 2, "note": "c", "big": None}


def test_identity_by_index(rig: Rig) -> None:
    table = rig.table("id int PRIMARY KEY, tenant_id text NOT NULL, code text NOT NULL, note text, UNIQUE (tenant_id, code)",
                      after="ALTER TABLE {0} REPLICA IDENTITY USING INDEX {0}_tenant_id_code_key")
    ear = rig.changes(table)
    rig.sql(f"INSERT INTO {table} VALUES (1, 'acme', 'one', 'n')", f"UPDATE {table} SET code = 'uno'", f"DELETE FROM {table}")
    insert, update, delete = (heard.body for heard in ear.wait(3))
    assert insert["key"] == {"tenant_id": "acme", "code": "one"}
    assert update["key"] == {"tenant_id": "acme", "code": "uno"} and update["old"] == {"tenant_id": "acme", "code": "one"}
    assert delete["key"] == delete["old"] == {"tenant_id": "acme", "code": "uno"}


def test_full_identity_has_the_primary_key_as_key(rig: Rig) -> None:
    table = rig.table("note text, id int, tenant_id text, PRIMARY KEY (tenant_id, id)", after="ALTER TABLE {} REPLICA IDENTITY FULL")
    keyless = rig.table("tenant_id text, note text", after="ALTER TABLE {} REPLICA IDENTITY FULL")
    ear, other = rig.changes(table), rig.changes(keyless)
    rig.sql(f"INSERT INTO {table} VALUES ('a', 1, 'acme')", f"UPDATE {table} SET id = 2", f"DELETE FROM {table}",
            f"INSERT INTO {keyless} VALUES ('acme', 'n')", f"DELETE FROM {keyless}")
    assert [heard.body["key"] for heard in ear.wait(3)] == [
        {"id": 1, "tenant_id": "acme"}, {"id": 2, "tenant_id": "acme"}, {"id": 2, "tenant_id": "acme"}]
    assert ear.all[1].body["old"] == {"note": "a", "id": 1, "tenant_id": "acme"}
    assert ear.all[0].headers["Muster-Key"] == '[1,"acme"]'
    assert [(heard.body["key"], "Muster-Key" in heard.headers) for heard in other.wait(2)] == [({}, False), ({}, False)]
    assert other.all[1].body["old"] == {"tenant_id": "acme", "note": "n"}


def test_identity_that_changes_while_running(rig: Rig) -> None:
    """Nothing but the identity changes: key and old follow it from the next row on."""
    table = rig.table("tenant_id text, id int, code text NOT NULL, PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, code)",
                      after="CREATE UNIQUE INDEX {0}_ix ON {0} (tenant_id, code)")
    ear = rig.changes(table)
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 1, 'a')",
            f"ALTER TABLE {table} REPLICA IDENTITY FULL", f"UPDATE {table} SET code = 'b'",
            f"ALTER TABLE {table} REPLICA IDENTITY USING INDEX {table}_ix", f"UPDATE {table} SET code = 'c'",
            f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT", f"UPDATE {table} SET code = 'd'")
    assert [(heard.body["key"], heard.body["old"], "columns" in heard.body) for heard in ear.wait(4)] == [
        ({"tenant_id": "acme", "id": 1}, None, True),
        ({"tenant_id": "acme", "id": 1}, {"tenant_id": "acme", "id": 1, "code": "a"}, False),
        ({"tenant_id": "acme", "code": "c"}, {"tenant_id": "acme", "code": "b"}, False),
        ({"tenant_id": "acme", "id": 1}, None, False)]


def test_generated_columns_are_absent(rig: Rig) -> None:
    table = rig.table("tenant_id text, id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED", "--tenant", "acme")
    ear = rig.changes(table)
    rig.sql(f"INSERT INTO {table} (tenant_id, id, n) VALUES ('acme', 1, 21)")
    body = ear.wait(1)[0].body
    assert body["new"] == {"tenant_id": "acme", "id": 1, "n": 21}
    assert [column["name"] for column in body["columns"]] == ["tenant_id", "id", "n"]


def test_partitions_speak_as_their_root(rig: Rig) -> None:
    rig.sql("CREATE TABLE parted (tenant_id text, id int, v text, PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (id)",
            "CREATE TABLE parted_a PARTITION OF parted FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE parted_b PARTITION OF parted FOR VALUES FROM (10) TO (20)")
    rig.site.cli("publish", "public.parted")
    ear, leaf = rig.changes("parted"), rig.changes("parted_a")
    rig.sql("INSERT INTO parted VALUES ('acme', 1, 'x'), ('acme', 11, 'y')", "INSERT INTO parted_a VALUES ('acme', 2, 'z')",
            "CREATE TABLE parted_c PARTITION OF parted FOR VALUES FROM (20) TO (30)", "INSERT INTO parted VALUES ('acme', 21, 'w')",
            "UPDATE parted SET id = 12 WHERE id = 1", "TRUNCATE parted")
    assert [(heard.body["table"], heard.body["op"], heard.body["key"].get("id")) for heard in ear.wait(7)] == [
        ("parted", "insert", 1), ("parted", "insert", 11), ("parted", "insert", 2), ("parted", "insert", 21),
        ("parted", "delete", 1), ("parted", "insert", 12), ("parted", "truncate", None)]
    assert [heard.seq for heard in ear.all] == [1, 2, 3, 4, 5, 6, 7]
    assert leaf.all == []


def test_names_that_are_no_tokens(rig: Rig) -> None:
    schema, table = "My Schéma.x", "tä ble.*>\"q"
    rig.sql(f'CREATE SCHEMA "{schema}"',
            f'CREATE TABLE "{schema}"."tä ble.*>""q" (tenant_id text, "i d" int, "c.*>""\\ü" text, PRIMARY KEY (tenant_id, "i d"))')
    rig.site.cli("publish", f'"{schema}"."tä ble.*>""q"', "--subject-key")
    ear = rig.ear("cdc.>")
    rig.sql(f'INSERT INTO "{schema}"."tä ble.*>""q" VALUES (\'acme\', 1, \'v\')')
    heard = ear.wait(1)[0]
    assert heard.body["schema"] == schema and heard.body["table"] == table
    assert heard.body["new"] == {"tenant_id": "acme", "i d": 1, 'c.*>"\\ü': "v"}
    token = key_token('["acme",1]')
    assert heard.subject == f"mst.acme.cdc.main.{key_token(schema)}.{key_token(table)}.insert.{token}"


def test_keys_in_header_and_subject(rig: Rig) -> None:
    table = rig.table("tenant_id text NOT NULL, id text PRIMARY KEY", "--subject-key", "--tenant-column", "tenant_id",
                      after="ALTER TABLE {} REPLICA IDENTITY FULL")
    ear = rig.changes(table)
    ids = ["42", "Ab_-9", "550e8400-e29b-41d4-a716-446655440000", "x" * 64, "x" * 65, "a b", "a.b", "*", ">", "é", "", " a", "a\r\nX: 1",
           "\t", "_", "~x"]
    with rig.site.postgres.connect() as connection:
        for value in ids:
            connection.execute(f"INSERT INTO {table} VALUES ('acme', %s)", (value,))
    for heard, value in zip(ear.wait(len(ids)), ids):
        plain = 0 < len(value) <= 64 and all(c.isascii() and (c.isalnum() or c in "_-") for c in value)
        assert heard.subject.split(".")[-2:] == ["insert", value if plain else key_token(value)], value
        kept = heard.headers.get("Muster-Key", "")
        assert kept == value or json.loads(kept) == [value], (value, kept)
        ours = {name for name in heard.headers if not name.startswith("Nats-")}
        assert ours - {"Muster-Key"} == {"Muster-Epoch", "Muster-Seq", "Muster-Lsn"}, "a key must not forge a header"


def test_too_large_a_change_keeps_its_key(rig: Rig) -> None:
    table = rig.table("tenant_id text, id int, small text, big text, other bytea, PRIMARY KEY (tenant_id, id)")
    ear = rig.changes(table)
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 1, repeat('s', 64), repeat('x', 2000000), '\\x00')",
            f"INSERT INTO {table} VALUES ('acme', 2, repeat('s', 65), repeat('x', 1000000), '\\x00')",
            f"INSERT INTO {table} VALUES ('acme', 3, 'after', repeat(chr(1), 300000), decode(repeat('00', 900000), 'hex'))",
            f"INSERT INTO {table} VALUES ('acme', 4, 'whole', repeat('x', 900000), NULL)")
    told = [(heard.body["omitted"], sorted(heard.body["new"]), heard.body["key"]["id"]) for heard in ear.wait(4)]
    assert told == [(["big"], ["id", "other", "small", "tenant_id"], 1), (["small", "big"], ["id", "other", "tenant_id"], 2),
                    (["big", "other"], ["id", "small", "tenant_id"], 3), ([], ["big", "id", "other", "small", "tenant_id"], 4)]
    assert all(len(heard.data) <= 1_000_000 for heard in ear.all)
    assert [heard.seq for heard in ear.all] == [1, 2, 3, 4]


def test_columns_are_told_first_and_after_a_change(rig: Rig) -> None:
    """In mid-transaction too, and once a channel: a tenant that comes later gets them as well."""
    table = rig.table("tenant_id text, id int, a text, b int, PRIMARY KEY (tenant_id, id)")
    acme, zeta = rig.changes(table), rig.changes(table, "zeta")
    rig.transaction(f"INSERT INTO {table} VALUES ('acme', 1, 'x', 1)", f"INSERT INTO {table} VALUES ('acme', 2, 'x', 1)",
                    f"ALTER TABLE {table} ADD c timestamptz DEFAULT '2026-01-01Z'", f"INSERT INTO {table} VALUES ('acme', 3, 'x', 1)",
                    f"INSERT INTO {table} VALUES ('zeta', 1, 'x', 1)", f"ALTER TABLE {table} ALTER b TYPE text",
                    f"UPDATE {table} SET b = 'two' WHERE tenant_id = 'acme' AND id = 1", f"ALTER TABLE {table} DROP a",
                    f"ALTER TABLE {table} RENAME c TO d", f"INSERT INTO {table} VALUES ('zeta', 2, '9', '2026-01-02Z')")
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 4, '9', NULL)", f"ALTER TABLE {table} ALTER d SET DEFAULT now()",
            f"INSERT INTO {table} VALUES ('acme', 5, '9', NULL)")

    def columns(body: dict[str, Any]) -> str:
        return " ".join(f"{c['name']}:{c['type']}" for c in body.get("columns", []))

    base = "tenant_id:text id:int4"
    assert [columns(heard.body) for heard in acme.wait(6)] == [
        f"{base} a:text b:int4", "", f"{base} a:text b:int4 c:timestamptz", f"{base} a:text b:text c:timestamptz",
        f"{base} b:text d:timestamptz", ""]
    assert [columns(heard.body) for heard in zeta.wait(2)] == [f"{base} a:text b:int4 c:timestamptz", f"{base} b:text d:timestamptz"]
    assert acme.all[3].body["new"] == {"tenant_id": "acme", "id": 1, "a": "x", "b": "two", "c": "2026-01-01T00:00:00.000000Z"}
    assert zeta.all[1].body["new"] == {"tenant_id": "zeta", "id": 2, "b": "9", "d": "2026-01-02T00:00:00.000000Z"}


def test_type_that_is_made_while_running(rig: Rig) -> None:
    """An enum's new label, a domain's array and a type made in the same transaction are read as what they are."""
    rig.sql("CREATE TYPE colour AS ENUM ('red')")
    table = rig.table("tenant_id text, id int PRIMARY KEY, c colour", "--tenant", "acme")
    ear = rig.changes(table)
    rig.sql(f"INSERT INTO {table} VALUES ('acme', 1, 'red')", "ALTER TYPE colour ADD VALUE 'green'")
    rig.transaction(f"INSERT INTO {table} VALUES ('acme', 2, 'green')", "CREATE DOMAIN small AS int2",
                    f"ALTER TABLE {table} ADD d small[]", f"INSERT INTO {table} VALUES ('acme', 3, NULL, '{{1,NULL}}')",
                    f"ALTER TABLE {table} DROP d", "DROP DOMAIN small", f"INSERT INTO {table} VALUES ('acme', 4, NULL)")
    rows = [heard.body["new"] for heard in ear.wait(4)]
    assert [row["c"] for row in rows] == ["red", "green", None, None]
    # The domain is gone when the row is read, so that nothing says of what its array is: the texts are right all the same.
    assert rows[2]["d"] in ([1, None], ["1", None])
