"""Fixtures: a fresh installation a test, and its logs when the test fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from client import Client
from harness import Site
from load import CREATE, EXTERNAL, TABLE
from oracle import Watcher
from pluginrig import Agents

# Files that take a minute or more: a worker that begins one of them last leaves the others without work.
LONGEST = ("test_cdc_faults", "test_logins", "test_quotas", "test_auth_tokens", "test_rls", "test_cdc_told", "test_cli", "test_child_life", "test_dev",
           "test_database_cli", "test_cdc_told_nats", "test_leases", "test_matrix", "test_tls", "test_plugin_check", "test_connections", "test_child", "test_tasks",
           "test_work_faults", "test_task_router", "test_help", "test_task_sql", "test_runs")
COMPLAINTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error:", "broken invariant")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Generator[Site, None, None]:
    """PostgreSQL and NATS with schema, the tenants acme and zeta, and a published table of orders."""
    site = Site()
    try:
        site.start("acme", "zeta")
        site.postgres.query(CREATE)
        site.postgres.query(EXTERNAL)
        site.cli("publish", TABLE, "--tenant-column", "tenant_id")
        yield site
        for server in site.servers:
            server.resume()
        for broker in site.brokers:
            if broker.alive:
                assert broker.stop() == 0, f"{broker.name} did not end cleanly\n{broker.log()[-3000:]}"
            for complaint in COMPLAINTS:
                assert complaint not in broker.log(), f"{broker.name}: {complaint}\n{broker.log()[-6000:]}"
    finally:
        report = getattr(request.node, "report_call", None)
        if report is None or report.failed:
            for server in site.servers:
                print(f"--- {server.name}\n{server.log()[-6000:]}", file=sys.stderr)
        site.close()


@pytest.fixture
def connect(site: Site) -> Generator[Callable[..., Client], None, None]:
    """connect("acme", "watcher") gives an agent's client, connect() a broker's."""
    clients: list[Client] = []

    def make(tenant: str = "", agent: str = "", creds: Path | None = None) -> Client:
        creds = creds or (site.agent(tenant, agent) if tenant else site.nats.folder / "broker.creds")
        clients.append(Client(site.nats.url, creds, tenant, agent))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def watch(connect: Callable[..., Client]) -> Callable[[str], Watcher]:
    """watch("acme") hears every change of the tenant from now on."""
    return lambda tenant: Watcher(connect(tenant, "watcher"), tenant)


@pytest.fixture
def agents(site: Site) -> Generator[Agents, None, None]:
    agents = Agents(site)
    yield agents
    agents.close()
