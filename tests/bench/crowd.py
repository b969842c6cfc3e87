"""A crowd (crowd.c) from Python: agents by the thousand, each on a connection of its own or many on few."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from harness import BUILD, Site

SHARED = 16  # connections of those that have none of their own
AGAIN = ("join", "arrive", "beat")  # orders that ask again where they were refused


def known(site: Site, tenant: str, n: int) -> None:
    """c0 to c<n-1> may ask: what admits them is their row, also where nobody logs in under their name."""
    site.postgres.query(
        "INSERT INTO muster.credentials (tenant, agent, role, public_key) SELECT %s, 'c' || i, 'agent', 'U' || lpad(translate(i::text, '0123456789', 'ABCDEFGHIJ'), 55, 'A')"
        " FROM generate_series(0, %s) i ON CONFLICT DO NOTHING", (tenant, n - 1))


def minted(site: Site, tenant: str, n: int) -> Path:
    """Credentials for each, in a folder."""
    folder = site.folder / f"crowd-{tenant}"
    if not folder.exists():
        folder.mkdir()
        names = [f"c{i}" for i in range(n)]
        for at in range(0, n, 2000):
            site.cli("agent", "add", tenant, *names[at:at + 2000], "--out", str(folder))
    return folder


class Crowd:
    false_leaves = starved = lost = 0  # of all there were: agents that watchers heard to have left, and had not; see crowd.c for the others

    def __init__(self, site: Site, tenant: str, n: int, watchers: int = 1, own: Path | None = None, links: int = SHARED) -> None:
        """own: the folder of their credentials, and connections of their own; links: how many connections they share else."""
        broker = site.nats.folder / "broker.creds"
        self.tenant, self.n = tenant, n
        self.process = subprocess.Popen(
            [str(BUILD / "bin/bench/crowd"), str(site.nats.port), tenant, str(n), "0" if own else str(links), str(own or broker), str(watchers), str(broker)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin and self.process.stdout
        self._in, self._out, self._order = self.process.stdin, self.process.stdout, "begin"
        self._before = {"stray": 0, "starved": 0, "lost": 0}
        assert self._out.readline() == "ready\n", "the crowd did not begin"

    def begin(self, order: str) -> None:
        self._order = order
        self._in.write(order + "\n")
        self._in.flush()

    def end(self) -> dict[str, Any]:
        line = self._out.readline()
        if not line:
            raise AssertionError(f"the crowd of {self.tenant} ended with {self.process.wait()} at {self._order!r}")
        told: dict[str, Any] = json.loads(line)
        Crowd.false_leaves += told["stray"] - self._before["stray"]
        Crowd.starved += told["starved"] - self._before["starved"]
        Crowd.lost += told["lost"] - self._before["lost"]
        self._before = told
        if told["errors"] and self._order.split()[0] not in AGAIN:
            raise AssertionError(f"{self._order!r} of the crowd of {self.tenant}: {told['errors']} requests were refused")
        return told

    def do(self, order: str) -> dict[str, Any]:
        self.begin(order)
        return self.end()

    def expected(self) -> set[str]:
        """Who is present, as the crowd itself knows: those that went are the last of them."""
        return {f"c{i}" for i in range(self.do("wait 0")["present"])}

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """They go, all at once."""
        self.do("wait 0")
        self._in.close()
        self.process.wait(30)
