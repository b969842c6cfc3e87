"""Applications at work: random transactions on one table, repeatable by seed, until told to stop."""

from __future__ import annotations

import random
import string
import threading
from typing import Any

import psycopg

from harness import Postgres

TABLE = "public.orders"
KEY = ("tenant_id", "id")
CREATE = """CREATE TABLE public.orders (
    tenant_id text NOT NULL, id bigint NOT NULL, item text, qty int, price numeric(12,2), data jsonb, note text,
    changed timestamptz NOT NULL DEFAULT clock_timestamp(), PRIMARY KEY (tenant_id, id))"""
# Kept out of line from 2 kB on, never compressed: an UPDATE of other columns leaves it out of the change (TOAST).
EXTERNAL = "ALTER TABLE public.orders ALTER COLUMN note SET STORAGE EXTERNAL"


class Load:
    """Several sessions, each a thread. Failures of the database are part of the day: connect again and go on."""

    def __init__(self, postgres: Postgres, tenants: tuple[str, ...], seed: int, sessions: int = 2) -> None:
        self._postgres = postgres
        self._tenants = tenants
        self._done = threading.Event()
        self.pause = 0.004  # seconds between two transactions of a session, at most
        self.commits = 0
        self.surprises: list[str] = []
        self._threads = [threading.Thread(target=self._session, args=(n, random.Random(seed * 100 + n)), daemon=True)
                         for n in range(sessions)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)
        assert not self.surprises, self.surprises

    def _session(self, number: int, rng: random.Random) -> None:
        ids = _Ids(number)
        while not self._done.is_set():
            try:
                with self._postgres.connect(connect_timeout=2) as connection:
                    while not self._done.is_set():
                        self._transaction(connection, rng, ids)
            except psycopg.OperationalError:
                self._done.wait(0.05)
            except psycopg.Error as error:
                self.surprises.append(repr(error))
                return

    def _transaction(self, connection: psycopg.Connection[Any], rng: random.Random, ids: _Ids) -> None:
        tenant = rng.choice(self._tenants)
        for _ in range(rng.choice((1, 1, 1, 3, 10, 40))):
            statement, parameters = _operation(rng, tenant, ids)
            connection.execute(statement, parameters)
        if rng.random() < 0.05:
            connection.rollback()
            return
        connection.commit()
        self.commits += 1
        self._done.wait(rng.random() * self.pause)


class _Ids:
    """Every session has its own range of ids, so that sessions never wait for each other's rows."""

    def __init__(self, session: int) -> None:
        self.base = self.next = 1 + session * 10_000_000

    def new(self) -> int:
        self.next += 1
        return self.next

    def old(self, rng: random.Random) -> int:
        return rng.randint(max(self.base, self.next - 300), self.next)


def _operation(rng: random.Random, tenant: str, ids: _Ids) -> tuple[str, dict[str, Any]]:
    values = {"tenant": tenant, "old": ids.old(rng), "item": _word(rng), "qty": rng.randint(0, 1000),
              "price": rng.randint(0, 99999) / 100}
    kind = rng.random()
    if kind < 0.55:
        note = _word(rng) * (400 if rng.random() < 0.1 else 1)
        return ("INSERT INTO public.orders (tenant_id, id, item, qty, price, data, note) VALUES (%(tenant)s, %(new)s, %(item)s,"
                " %(qty)s, %(price)s, jsonb_build_object('a', %(qty)s::int, 'b', %(item)s::text), %(note)s)",
                {**values, "new": ids.new(), "note": note})
    if kind < 0.85:
        return ("UPDATE public.orders SET qty = %(qty)s, price = %(price)s, item = NULLIF(%(item)s, 'a')"
                " WHERE tenant_id = %(tenant)s AND id BETWEEN %(old)s AND %(old)s + 2", values)
    if kind < 0.9:
        return "UPDATE public.orders SET id = %(new)s WHERE tenant_id = %(tenant)s AND id = %(old)s", {**values, "new": ids.new()}
    return "DELETE FROM public.orders WHERE tenant_id = %(tenant)s AND id = %(old)s", values


def _word(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_letters + "äß€\"\\'\n", k=rng.randint(1, 12)))
