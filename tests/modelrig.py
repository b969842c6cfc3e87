"""The reference models of tests/model beside a database: step by step until they disagree, and changes of the database's machine that have to be noticed."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg

import law
from harness import Postgres, binary

Row = tuple[Any, ...]
Connection = psycopg.Connection[Any]
EDGE = "machine verb from_state to_state who epoch_up attempt crash plain".split()


class Rig:
    """Carries the steps of a model out in a database. What is a word here is a number there."""

    program: str
    machine: str
    verbs: list[str]
    actors: list[str]
    codes: list[str]
    fields: list[str]  # of a step; what comes behind them are rows
    tables: str

    def __init__(self, postgres: Postgres) -> None:
        self.broker, self.app, self.admin = (psycopg.connect(postgres.dsn(*login), autocommit=True) for login in (["muster_broker"], ["muster_app"], []))
        for connection in (self.broker, self.app, self.admin):
            connection.execute("SET app.current_tenant = 'acme'")
        self.admin.execute("SET session_replication_role = replica")  # it turns clocks, which nobody else can
        self.admin.execute(f"TRUNCATE {self.tables}")  # type: ignore[arg-type]
        self.rows: dict[Any, Row] = {}
        self.said = ""

    def close(self) -> None:
        for connection in (self.broker, self.app, self.admin):
            connection.close()

    def do(self, step: dict[str, int]) -> str:
        raise NotImplementedError

    def key(self, step: dict[str, int]) -> Any:
        raise NotImplementedError

    def expected(self, numbers: list[int]) -> dict[Any, Row]:
        raise NotImplementedError

    def read(self, keys: list[Any] | None) -> dict[Any, Row]:
        """None: all."""
        raise NotImplementedError

    def allow(self, step: dict[str, int], rows: dict[Any, Row], found: dict[Any, Row]) -> dict[Any, Row]:
        """What may be either way is as it was found."""
        return rows

    def names_no_state(self, step: dict[str, int]) -> bool:
        return step["slot"] < 0

    def was(self, step: dict[str, int]) -> str:
        row = self.rows.get(self.key(step)) if step["slot"] >= 0 else None
        return str(row[0]) if row else ""

    def step(self, step: dict[str, int], rows: dict[Any, Row]) -> tuple[str, str]:
        """The code that came, and what is wrong with the step."""
        self.said = ""
        code, said = self.do(step), self.codes[step["code"]]
        if code != said:
            return code, f"{code} came, the model says {said}"
        if code == "failed_precondition" and not self.names_no_state(step) and self.was(step) not in self.said:
            return code, "the message does not name the state"
        found = self.read(list(rows))
        rows = self.allow(step, rows, found)
        if found != rows:
            return code, "\n".join(f"{key}: {found.get(key)} came, the model says {rows[key]}" for key in rows if found.get(key) != rows[key])
        self.rows |= rows
        return code, ""


def disagreement(rig: Rig, seed: int | str, steps: int | str, tried: Counter[str] | None = None) -> str:
    """Where database and model part; "" nowhere. tried: counts "verb in state: code"."""
    n = -1
    with subprocess.Popen([binary(rig.program), str(seed), str(steps)], stdout=subprocess.PIPE, text=True) as trace:
        assert trace.stdout is not None
        for n, line in enumerate(trace.stdout):
            numbers = [int(number) for number in line.split()]
            step = dict(zip(rig.fields, numbers))
            verb, was = rig.verbs[step["verb"]], rig.was(step)
            try:
                code, wrong = rig.step(step, rig.expected(numbers[len(rig.fields):]))
                if not wrong and n % 500 == 499 and rig.read(None) != rig.rows:
                    wrong = "a row changed that the model does not speak of"
            except (psycopg.Error, AssertionError, KeyError, TypeError) as error:
                code, wrong = "", f"{type(error).__name__}: {error}"
            if wrong:
                return f"seed {seed}, step {n}, {verb} by {rig.actors[step['actor']]} in state {was}: {step}\n{rig.said}\n{wrong}"
            if tried is not None:
                tried[f"{verb} in {was}: {code}"] += 1
    return "" if trace.returncode == 0 and n + 1 == int(steps) else f"the model ended after {n + 1} steps with {trace.returncode}"


def steps_taken(rig: Rig) -> Counter[str]:
    """How often each line of the law was gone, by the history."""
    counts = Counter({step: 0 for step in law.STEPS[rig.machine]})
    for step, n in rig.admin.execute(f"SELECT verb || ' ' || role || ' ' || from_state || '>' || to_state, count(*) FROM muster.{rig.machine}_history GROUP BY 1"):  # type: ignore[arg-type]
        counts[step] += n
    return counts


def told(counts: Counter[str]) -> str:
    return "\n".join(f"{n:9} {what}" for what, n in sorted(counts.items()))


# A machine that is not the law's

def noticed(rig: type[Rig], postgres: Postgres, change: AbstractContextManager[None], steps: int, seed: int = 1) -> str:
    with change:
        changed = rig(postgres)
        try:
            return disagreement(changed, seed, steps)
        finally:
            changed.close()


@contextmanager
def edges_changed(admin: Connection, statement: str) -> Generator[None, None, None]:
    before = admin.execute(f"SELECT {', '.join(EDGE)} FROM muster.edges").fetchall()  # type: ignore[arg-type]
    admin.execute(statement)  # type: ignore[arg-type]
    try:
        yield
    finally:
        admin.execute("DELETE FROM muster.edges")
        with admin.cursor() as cursor:
            cursor.executemany(f"INSERT INTO muster.edges ({', '.join(EDGE)}) VALUES ({', '.join(['%s'] * len(EDGE))})", before)  # type: ignore[arg-type]


@contextmanager
def function_changed(admin: Connection, function: str, old: str, new: str) -> Generator[None, None, None]:
    source = str(admin.execute("SELECT pg_get_functiondef(%s::regprocedure)", [f"muster.{function}"]).fetchall()[0][0])
    assert source.count(old) == 1, f"{function}: {source.count(old)} of {old}"
    admin.execute(source.replace(old, new))  # type: ignore[arg-type]
    try:
        yield
    finally:
        admin.execute(source)  # type: ignore[arg-type]


def edge_changes(admin: Connection, machine: str, unread: Iterable[str] = ()) -> list[tuple[str, str]]:
    """One change of one edge each, and its statement; unread: "verb", "verb field" or what is changed, that the machine does not look at."""
    found = []
    rows = admin.execute("SELECT verb, from_state, to_state, plain FROM muster.edges WHERE machine = %s AND verb <> 'import' AND from_state <> ''"
                         " ORDER BY 1, 2, 3", [machine]).fetchall()
    for verb, start, end, plain in rows:
        where = f"WHERE machine = '{machine}' AND verb = '{verb}' AND from_state = '{start}' AND to_state = '{end}'"
        for field, change in {"epoch_up": "NOT epoch_up", "attempt": "attempt + 1", "crash": "NOT crash", "who": "'{nobody}'"}.items():
            what = f"{verb} {start}>{end}: {field}"
            if not {verb, field, f"{verb} {field}", what} & {*unread}:
                found.append((what, f"UPDATE muster.edges SET {field} = {change} {where}"))
        if plain:
            found.append((f"{verb} {start}>{end}: not in plain SQL", f"UPDATE muster.edges SET plain = false {where}"))
    return found


def edges_too_many(machine: str, edges: dict[str, str], states: Iterable[str]) -> list[tuple[str, str]]:
    """Each pair of states that the law does not have, as an edge for plain SQL."""
    return [(f"{start}>{end} by plain SQL", "INSERT INTO muster.edges (machine, verb, from_state, to_state, who, plain)"
             f" VALUES ('{machine}', 'more', '{start}', '{end}', '{{any}}', true)")
            for start in states for end in states if start != end and end not in edges.get(start, "").split()]
