"""A crowd (crowd.c) from Python: agents by the thousand, each on a connection of its own or many on few."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from harness import BUILD, Site

SHARED = 16  # connections of those that have none of their own


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
    def __init__(self, site: Site, tenant: str, n: int, watchers: int = 1, own: Path | None = None) -> None:
        """own: the folder of their credentials, and connections of their own."""
        broker = site.nats.folder / "broker.creds"
        self.process = subprocess.Popen(
            [str(BUILD / "bin/bench/crowd"), str(site.nats.port), tenant, str(n), "0" if own else str(SHARED), str(own or broker), str(watchers), str(broker)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin and self.process.stdout
        self._in, self._out = self.process.stdin, self.process.stdout
        assert self._out.readline() == "ready\n"

    def begin(self, command: str) -> None:
        self._in.write(command + "\n")
        self._in.flush()

    def end(self) -> dict[str, Any]:
        line = self._out.readline()
        assert line, f"the crowd ended: {self.process.wait()}"
        return dict(json.loads(line))

    def do(self, command: str) -> dict[str, Any]:
        self.begin(command)
        return self.end()

    def close(self) -> None:
        self._in.close()
        self.process.wait(30)
