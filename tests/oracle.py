"""What must be true of row changes, whatever was killed.

A change is read in two ways, from the stream CDC_<source> and by a subscriber of R.T.cdc.>. Both lists must be one, and
replaying it into an empty table must give the source table.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from client import Client, Message
from harness import ROOT_TOKEN, Postgres, wait_until

Lsn = tuple[int, int, int]
Row = dict[str, Any]


@dataclass(frozen=True)
class Change:
    subject: str  # as agents hear it
    tenant: str
    channel: str  # source.schema.table
    epoch: str
    seq: int
    lsn: Lsn
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return json.dumps(self.body["key"], sort_keys=True)


def parse(message: Message) -> Change:
    subject = message.subject.replace(f"{ROOT_TOKEN}._in.", f"{ROOT_TOKEN}.", 1)
    _, tenant, _, source, schema, table, *_ = subject.split(".")
    commit, ordinal, part = message.headers["Muster-Lsn"].rsplit("/", 2)
    return Change(subject, tenant, f"{source}.{schema}.{table}", message.headers["Muster-Epoch"],
                  int(message.headers["Muster-Seq"]), (_lsn(commit), int(ordinal), int(part)), json.loads(message.data))


def _lsn(text: str) -> int:
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def read_stream(broker: Client, source: str = "main") -> list[Change]:
    messages = broker.read_stream(f"CDC_{source}", f"{ROOT_TOKEN}._in.*.cdc.{source}.>")
    return [parse(message) for message in messages]


def check_order(changes: list[Change]) -> None:
    """Commit order overall, and positions contiguous from 1 in every channel of one epoch."""
    for before, after in pairwise(changes):
        assert before.lsn < after.lsn, f"not in commit order, or twice: {before} then {after}"
    last: dict[tuple[str, str, str], int] = defaultdict(int)
    for change in changes:
        channel = (change.tenant, change.channel, change.epoch)
        assert change.seq == last[channel] + 1, f"{channel}: {change.seq} follows {last[channel]}"
        last[channel] = change.seq


def check_heard(stored: list[Change], heard: list[Change], tenant: str) -> None:
    """What a subscriber of the tenant heard is the stream's list, change by change."""
    stored = [change for change in stored if change.tenant == tenant]
    for at, (a, b) in enumerate(zip(stored, heard)):
        assert a == b, f"change {at}: stored {a}, heard {b}"
    assert len(stored) == len(heard), f"{len(stored)} stored, {len(heard)} heard"


def check_heard_while_away(stored: list[Change], heard: list[Change], tenant: str) -> None:
    """For a subscriber that lost its own connection: no change twice, none out of order, none that is not stored."""
    rest = iter(change for change in stored if change.tenant == tenant)
    for change in heard:
        assert any(change == candidate for candidate in rest), f"heard out of order, twice or never stored: {change}"


def replay(changes: list[Change], tenant: str) -> dict[str, dict[str, Row]]:
    """Tables by name, rows by key: what an empty database holds after all changes."""
    tables: dict[str, dict[str, Row]] = defaultdict(dict)
    for change in changes:
        if change.tenant == tenant:
            _apply(tables[f"{change.body['schema']}.{change.body['table']}"], change)
    return dict(tables)


def _apply(rows: dict[str, Row], change: Change) -> None:
    body, op = change.body, change.body["op"]
    if op == "truncate":
        rows.clear()
    elif op == "delete":
        assert change.key in rows, f"deletes a row that is not there: {change}"
        del rows[change.key]
    elif op == "insert":
        assert change.key not in rows, f"inserts a row that is there: {change}"
        rows[change.key] = dict(body["new"])
    else:
        old = body.get("old") or {}
        old_key = json.dumps({name: old.get(name, value) for name, value in body["key"].items()}, sort_keys=True)
        assert old_key in rows, f"updates a row that is not there: {change}"
        before = rows.pop(old_key)
        kept = {name: before[name] for name in body.get("unchanged", [])}
        rows[change.key] = {**body["new"], **kept}


def table_rows(postgres: Postgres, table: str, key: tuple[str, ...], where: str = "true") -> dict[str, Row]:
    """The source of truth, in the same form as replay()'s rows."""
    with postgres.connect(autocommit=True) as connection:
        connection.execute("SET timezone = 'UTC'")
        cursor = connection.execute(f"SELECT * FROM {table} WHERE {where}")
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, map(_as_json, row))) for row in cursor]
    return {json.dumps({name: row[name] for name in key}, sort_keys=True): row for row in rows}


def _as_json(value: Any) -> Any:
    """A column's value as INTERFACE 4 writes it."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):  # INTERFACE 3: always microseconds, six digits
        text = value.replace(tzinfo=None).isoformat(timespec="microseconds")
        return text + ("Z" if value.tzinfo else "")
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value


def same_rows(replayed: dict[str, Row], source: dict[str, Row]) -> None:
    missing, extra = source.keys() - replayed.keys(), replayed.keys() - source.keys()
    assert not missing, f"{len(missing)} rows lost, e.g. {sorted(missing)[:3]}"
    assert not extra, f"{len(extra)} rows too many, e.g. {sorted(extra)[:3]}"
    for key, row in source.items():
        assert replayed[key] == row, f"row {key}: replayed {replayed[key]}, source {row}"


class Watcher:
    """A subscriber of R.T.cdc.> that parses what it heard."""

    def __init__(self, client: Client, tenant: str, source: str = "main") -> None:
        self._heard = client.subscribe(f"{ROOT_TOKEN}.{tenant}.cdc.{source}.>")
        self._parsed: list[Change] = []

    @property
    def changes(self) -> list[Change]:
        while len(self._parsed) < len(self._heard.messages):
            self._parsed.append(parse(self._heard.messages[len(self._parsed)]))
        return self._parsed

    def wait_for(self, table: str, key: dict[str, Any], deadline: float = 60) -> Change:
        """Wait for a change of this key; with commits in order, all that was committed before it has been heard too."""
        seen = 0

        def arrived() -> Change | None:
            nonlocal seen
            fresh = self.changes[seen:]
            seen += len(fresh)
            return next((c for c in fresh if c.body["table"] == table and c.body["key"] == key), None)

        found: Change = wait_until(arrived, deadline, f"a change of {table} {key}; {len(self.changes)} heard")
        return found
