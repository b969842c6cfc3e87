"""Brokers with the test plugins, for test_plugins.py and test_bad_plugins.py."""

from __future__ import annotations

import copy
import json
import re
import signal
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import Agent
from harness import BUILD, Musterd, Site, wait_until

PLUGINS = BUILD / "test-plugins"
# A sanitizer keeps what was freed for a while: memory says nothing then.
SANITIZED = "MUSTER_SANITIZE:STRING=\n" not in (BUILD / "CMakeCache.txt").read_text()
EINVAL, EAGAIN, EACCES, ETIME, ESTALE, ENOTFOUND, EEXIST, ELINK = -1, -3, -4, -5, -7, -8, -9, -10


def plugin(file: str, instance: str, required: bool = True, **entry: Any) -> dict[str, Any]:
    """An entry of `plugins:` for one of the test plugins."""
    return {"path": str(PLUGINS / f"{file}.so"), "instance": instance, "isolation": "none", "required": required, "config": {}, **entry}


def echo(instance: str = "echo", lanes: int = 1, required: bool = True, **config: Any) -> dict[str, Any]:
    return plugin("echo", instance, required, lanes=lanes, config=config)


# All that echo tries in its tests.
ECHO_MAY = {"subscribe": [">"], "publish": [">", "to.*._muster.>", "all._muster.>"], "capabilities": ["cross_tenant", "stream", "system"]}


def isolated(entry: dict[str, Any], site: Site, allow: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The same plugin in a child: it may what it tries, and has a role of its own."""
    return {**entry, "isolation": "process", "allow": ECHO_MAY if allow is None else allow,
            "postgres": {"dsn": site.postgres.dsn("muster_plugin_echo")}, **more}


@contextmanager
def installation() -> Generator[Site, None, None]:
    """Two tenants, a published table of notes, and a function that writes it in echo's group commit."""
    site = Site()
    try:
        site.start("acme", "zeta")
        site.postgres.query("CREATE TABLE public.notes (tenant_id text, note text, PRIMARY KEY (tenant_id, note))")
        site.postgres.query(
            "CREATE FUNCTION public.echo_note(p_note text, p_none text) RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS $$"
            " INSERT INTO public.notes VALUES (current_setting('app.current_tenant'), p_note)"
            " RETURNING jsonb_build_object('note', note) $$")
        site.cli("publish", "public.notes", "--tenant-column", "tenant_id")
        site.postgres.query("CREATE ROLE muster_plugin_echo LOGIN NOSUPERUSER NOBYPASSRLS")
        yield site
    finally:
        site.close()


class Agents:
    """Agents by tenant and name, made when first asked for."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known: dict[tuple[str, str], Agent] = {}

    def __call__(self, tenant: str, name: str) -> Agent:
        if (tenant, name) not in self._known:
            self._known[tenant, name] = Agent(self._site, tenant, name)
        return self._known[tenant, name]

    def close(self) -> None:
        for agent in self._known.values():
            agent.close()


def own_broker(site: Site, *plugins: dict[str, Any], cdc: bool = False) -> Musterd:
    """A broker in a folder of its own, with these plugins and, if asked, the two of cdc. Not in site.brokers: kill it."""
    broker = Musterd("musterd", Path(tempfile.mkdtemp(dir=site.folder)), site.broker_config())
    broker.config["plugins"] = [*(broker.config["plugins"] if cdc else []), *plugins]
    return broker


def end_of(server: Musterd, failed: bool) -> None:
    """Kill it; its log is shown where the test failed, and no sanitizer may have complained there."""
    server.kill()
    if failed:
        print(server.log()[-8000:])
    for complaint in ("AddressSanitizer", "ThreadSanitizer", "LeakSanitizer", "runtime error:", "broken invariant"):
        assert complaint not in server.log(), server.log()[-6000:]


@contextmanager
def serving(site: Site, *plugins: dict[str, Any], cdc: bool = False, env: dict[str, str] | None = None,
            session: pytest.Session | None = None) -> Generator[Musterd, None, None]:
    """A broker as own_broker() makes it, started; at the end it stops cleanly, where no test has killed it. The session's fault shows its log."""
    broker = own_broker(site, *plugins, cdc=cdc)
    broker.start(env=env)
    yield broker
    assert not broker.alive or broker.stop() == 0, broker.log()[-3000:]
    end_of(broker, bool(session and session.testsfailed))


@contextmanager
def asking(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()


def reload(server: Musterd, change: Callable[[list[Any]], None] = lambda plugins: None, end: str = "done",
           deadline: float = 15) -> list[str]:
    """What the log says of a changed list of plugins, without time and area."""
    config = copy.deepcopy(server.config)
    change(config["plugins"])
    at = len(server.log())
    server.config_path.write_text(json.dumps(config))
    server.signal(signal.SIGHUP)
    wait_until(lambda: re.search(rf"reload: .*{end}", server.log()[at:]), deadline, "the end of the reload")
    return re.findall(r"reload: (.*)", server.log()[at:])
