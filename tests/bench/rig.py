"""The servers of a bench, and one run of one contender: a bare program or the broker, on a slot of its own."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from client import Client
from harness import BUILD, Musterd, Site, wait_until

TENANTS = [f"t{i}" for i in range(8)] + ["marker"]
PATIENCE = 300  # seconds for one run

# Kill tests run without fsync and with little memory; a bench runs as a production server would.
POSTGRES_CONF = """
fsync = on
shared_buffers = 512MB
max_wal_size = 16GB
checkpoint_timeout = 1h
autovacuum = off
log_replication_commands = on
log_line_prefix = '%n [%p] '
max_replication_slots = 20
max_wal_senders = 20
"""

TABLE = """CREATE TABLE public.{0} (tenant_id text NOT NULL, id bigint NOT NULL, user_id bigint, name text, amount numeric(12,2),
           note text, updated_at timestamptz, PRIMARY KEY (tenant_id, id))"""

# Rows of about 190 bytes, spread over eight tenants, so that no two neighbours share a channel.
FILL = """DO $$ DECLARE n int := {rows}; size int := {size};
BEGIN FOR b IN 0 .. n / size - 1 LOOP
  INSERT INTO public.{table} SELECT 't' || i % 8, i, i * 7919 % 100000, 'name of number ' || i, (i % 100000) / 100.0,
         repeat(md5(i::text), 3), now() FROM generate_series(b * size + 1, (b + 1) * size) i;
  COMMIT;
END LOOP; END $$"""


@dataclass(frozen=True)
class Result:
    rows: int
    seconds: float
    cpu_us: float  # of the contender, a row
    sender_us: float  # of the walsender
    nats_us: float

    @property
    def rate(self) -> float:
        return self.rows / self.seconds


class Rig:
    def __init__(self) -> None:
        self.site = Site()
        with (self.site.postgres.data / "postgresql.conf").open("a") as conf:
            conf.write(POSTGRES_CONF)
        self.site.start(*TENANTS)
        self.client = Client(self.site.nats.url, self.site.nats.folder / "broker.creds")
        self.runs = 0

    def close(self) -> None:
        self.client.close()
        self.site.close()

    def sql(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        return self.site.postgres.query(statement, parameters)

    # ---- input --------------------------------------------------------------------------------------------------------------

    def fill(self, table: str, rows: int, size: int) -> None:
        """A published table, and a slot of its name that stands before its rows, which come in transactions of `size` each."""
        self.table(table)
        self.sql("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (table,))
        with self.site.postgres.connect(autocommit=True) as connection:
            connection.execute("SET synchronous_commit = off")
            connection.execute(FILL.format(table=table, rows=rows, size=size))
            connection.execute("SET synchronous_commit = on")
            connection.execute(f"INSERT INTO public.{table} VALUES ('marker', 0, 0, 'marker', 0, '', now())")
        self.sql("CHECKPOINT")

    @contextmanager
    def slot(self, of: str) -> Iterator[str]:
        """A copy of the slot, so that every run reads the same."""
        self.runs += 1
        name = f"r{self.runs}"
        self.sql("SELECT pg_copy_logical_replication_slot(%s, %s)", (of, name))
        try:
            yield name
        finally:
            self.drop_slot(name)

    def drop_slot(self, name: str) -> None:
        wait_until(lambda: not self.sql("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active", (name,)), 20, "a free slot")
        self.sql("SELECT pg_drop_replication_slot(%s)", (name,))

    # ---- streams ------------------------------------------------------------------------------------------------------------

    def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = json.loads(self.client.request(subject, json.dumps(body).encode() if body else b"", timeout=30).data)
        if "error" in answer:
            raise AssertionError(f"{subject}: {answer['error']}")
        return answer  # type: ignore[no-any-return]

    def make_stream(self, source: str, republish: bool) -> None:
        """The stream that the plugin would make; see broker/bus/js.c."""
        config = {"name": f"CDC_{source}", "subjects": [f"mst._in.*.cdc.{source}.>"], "retention": "limits", "storage": "file",
                  "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 86400 * 10**9, "num_replicas": 1, "discard": "old"}
        if republish:
            config["republish"] = {"src": f"mst._in.*.cdc.{source}.>", "dest": f"mst.{{{{wildcard(1)}}}}.cdc.{source}.>"}
        self.ask(f"$JS.API.STREAM.CREATE.CDC_{source}", config)

    def last_stored(self, source: str) -> float:
        """When the stream's last message was stored, by the server's clock."""
        return _unix(self.ask(f"$JS.API.STREAM.INFO.CDC_{source}")["state"]["last_ts"])

    def drop_stream(self, source: str) -> None:
        self.ask(f"$JS.API.STREAM.DELETE.CDC_{source}")

    def first_messages(self, source: str, n: int) -> list[tuple[str, dict[str, str], str]]:
        """Subject, headers and body of messages 1 to n, without what names the run."""
        found = []
        for seq in range(1, n + 1):
            message = self.ask(f"$JS.API.STREAM.MSG.GET.CDC_{source}", {"seq": seq})["message"]
            found.append((message["subject"].replace(f".{source}.", "."), _headers(message.get("hdrs", "")), _decode(message["data"])))
        return found

    # ---- contenders ---------------------------------------------------------------------------------------------------------

    def started_ns(self, slot: str) -> float:
        """When the server was told to stream, by its log."""
        found = re.findall(rf"^(\d+\.\d+) .*received replication command: START_REPLICATION SLOT \"?{slot}\"? ",
                           self.site.postgres.log(), re.MULTILINE)
        return float(found[-1])

    def program(self, name: str, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen([str(BUILD / "bin" / "bench" / name), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def bare(self, name: str, table: str, slot: str, *argv: str) -> Result:
        nats_before = cpu_us(self.site.nats.pid)
        child = self.program(name, "--dsn", self.site.postgres.dsn(), "--slot", slot, "--publication", "muster", "--table", table, *argv)
        assert child.stdout
        line = child.stdout.readline()
        nats_us = cpu_us(self.site.nats.pid) - nats_before
        child.communicate()
        if child.returncode != 0 or not line:
            raise AssertionError(f"{name} ended with {child.returncode}")
        said = {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}
        rows = said["rows"]
        return Result(rows, said["end_ns"] / 1e9 - self.started_ns(slot), said["cpu_us"] / rows, said["sender_us"] / rows, nats_us / rows)

    def reader(self, table: str) -> Result:
        with self.slot(table) as slot:
            return self.bare("bare_reader", table, slot)

    def null(self, table: str) -> Result:
        with self.slot(table) as slot:
            return self.bare("null_host", table, slot, "--source", slot, "--plugin", str(BUILD / "plugins" / "cdc.so"))

    def pipe(self, table: str, republish: bool = True, keep: bool = False) -> Result:
        with self.slot(table) as slot:
            self.make_stream(slot, republish)
            result = self.bare("bare_pipe", table, slot, "--source", slot, "--url", self.site.nats.url, "--creds", self.creds)
            seconds = self.last_stored(slot) - self.started_ns(slot)
            if not keep:
                self.drop_stream(slot)
            return Result(result.rows, seconds, result.cpu_us, result.sender_us, result.nats_us)

    @property
    def creds(self) -> str:
        return str(self.site.nats.folder / "broker.creds")

    def table(self, name: str) -> str:
        """A published table without rows."""
        self.sql(TABLE.format(name))
        self.site.cli("publish", f"public.{name}", "--tenant-column", "tenant_id")
        return name

    def broker(self, slot: str, *further: dict[str, Any]) -> Musterd:
        config = self.site.broker_config()
        config["plugins"] = [{"name": "cdc", "instance": slot, "config": {"slot": slot, "publication": "muster"}}, *further]
        broker = Musterd(slot, self.site.folder, config)
        self.site.brokers.append(broker)
        return broker

    def muster(self, table: str, rows: int, keep: bool = False) -> Result:
        with self.slot(table) as slot:
            marker = self.client.subscribe(f"mst.marker.cdc.{slot}.>")
            broker = self.broker(slot)
            nats_before = cpu_us(self.site.nats.pid)
            broker.start(ready=False)
            sender = wait_until(lambda: self.active_pid(slot), 20, f"the broker to stream\n{broker.log()}")
            idle_cpu = cpu_us(broker.pid)
            wait_until(lambda: marker.messages, PATIENCE, f"the marker\n{broker.log()}")
            used = cpu_us(broker.pid) - idle_cpu, cpu_us(sender), cpu_us(self.site.nats.pid) - nats_before
            seconds = self.last_stored(slot) - self.started_ns(slot)
            stored = self.ask(f"$JS.API.STREAM.INFO.CDC_{slot}")["state"]["messages"]
            assert stored == rows + 1, f"{stored} messages of {rows + 1} were stored\n{broker.log()}"
            self.stop(broker)
            if not keep:
                self.drop_stream(slot)
            return Result(rows + 1, seconds, *(value / rows for value in used))

    def stop(self, broker: Musterd) -> None:
        broker.stop()
        self.site.brokers.remove(broker)

    def active_pid(self, slot: str) -> int:
        found = self.sql("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", (slot,))
        return int(found[0][0] or 0)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")


def _unix(text: str) -> float:
    """Seconds of 2026-01-31T23:59:59.123456789Z."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp() + float(f"0.{fraction or 0}")


def _decode(text: str) -> str:
    return base64.b64decode(text).decode()


def _headers(text: str) -> dict[str, str]:
    lines = _decode(text).split("\r\n")[1:] if text else []
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    return {key: value.strip() for key, value in named.items() if key not in ("Muster-Epoch", "Nats-Expected-Last-Sequence")}
