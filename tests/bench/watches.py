"""Thousands of watches, each with a filter, while each change is for one of them; see filters.py for those that match none. Called by fanout.py."""

from __future__ import annotations

from contextlib import closing
from statistics import median

from client import Client
from crowd import SHARED
from harness import wait_until
from report import Report, load, spread
from stage import Cpu, Stage

ROWS, PER_TRANSACTION = 20_000, 100


def watches(report: Report, agents: int, rounds: int) -> None:
    with closing(Stage()) as stage:
        stage.start("f2")
        stage.postgres.query("CREATE TABLE public.watched (id bigserial PRIMARY KEY, owner int, note text)")
        stage.postgres.query("ALTER TABLE public.watched REPLICA IDENTITY FULL")
        stage.cli("publish", "public.watched", "--tenant", "f2")
        stage.cli("tenant", "limits", "f2", f"watches={2 * agents}")
        [one] = stage.started(fanout=True)
        crowd = stage.crowd("f2", agents, "login", "join", "beating 5000", "listen sub")
        client = Client(stage.nats.url, stage.creds)

        def run(owner: str, heard: int) -> tuple[float, float]:
            """Microseconds a change, and seconds until the last is heard."""
            cpu, stored = Cpu(one.pid), client.streams()["CDC_main"].messages
            crowd.begin(f"heard {heard}")
            with stage.postgres.connect(autocommit=True) as connection:
                for at in range(0, ROWS, PER_TRANSACTION):
                    connection.execute(f"INSERT INTO public.watched (owner, note) SELECT {owner}, repeat('x', 80) FROM generate_series({at}, {at + PER_TRANSACTION - 1}) n")
            wait_until(lambda: client.streams()["CDC_main"].messages >= stored + ROWS, 120, "the rows to be in the stream")
            seconds = crowd.end()["seconds"]
            crowd.do("wait 500")
            return cpu.used() / ROWS, seconds

        run("-1", 0)  # warm
        none = [run("-1", 0)[0] for _ in report.rounds("fanout watches, nobody watches", rounds)]
        report.progress(f"fanout watches: {agents:,} are opened")
        opened = crowd.do("open watched")["seconds"]
        one_each = [run(f"n % {agents}", ROWS) for _ in report.rounds("fanout watches, one matches", rounds)]
        client.close()
        crowd.close()
    us, rates = [each[0] for each in one_each], [ROWS / each[1] for each in one_each]
    report.say(f"\nfan-out, {agents:,} watches with the filter owner=eq.<n> on one table, agents simulated over {SHARED} connections, one broker ({load()}); opened in {opened:.1f} s"
               f" ({agents / opened:,.0f}/s)")
    report.say(f"  nobody watches  {spread(none, '{:.1f}')} us of the broker a change, {ROWS:,} a run in transactions of {PER_TRANSACTION}")
    report.say(f"  one matches     {spread(us, '{:.1f}')} us, the message to its watcher among them, {median(us) / median(none):.2f} x; {spread(rates)} changes/s heard")
    report.keep("fanout/watches", {"none": none, "one": us, "rates": rates, "opened": opened})
