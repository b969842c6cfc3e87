"""Ready means that requests are heard: by the server, not only by the broker."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import pytest
from client import Client
from harness import Musterd, Site, wait_until
from pluginrig import echo, own_broker
from proxy import Proxy


@pytest.fixture
def proxy(site: Site) -> Generator[Proxy, None, None]:
    proxy = Proxy(site.nats.port)
    yield proxy
    proxy.close()


@pytest.fixture
def broker(site: Site, proxy: Proxy) -> Generator[Musterd, None, None]:
    broker = own_broker(site, echo())
    broker.config["nats"]["urls"] = [f"nats://127.0.0.1:{proxy.port}"]
    yield broker
    broker.kill()


def stays_unready(broker: Musterd, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        status, page = broker.get("/readyz")
        assert status != 200, page
        time.sleep(0.05)


def test_it_is_not_ready_before_the_server_has_its_subscriptions(
        site: Site, proxy: Proxy, broker: Musterd, connect: Callable[..., Client]) -> None:
    proxy.hold_at(b"SUB mst.*.rpc.*.>", after=0)
    broker.start(ready=False)
    assert proxy.held.wait(20), "the broker did not subscribe"
    stays_unready(broker, 3)
    proxy.release()
    broker.wait_ready()
    assert b"hi" in connect("acme", "a1").request("mst.acme.rpc.a1.echo.say", b'{"text": "hi"}', timeout=5).data


def test_nor_after_it_connected_again(site: Site, proxy: Proxy, broker: Musterd, connect: Callable[..., Client]) -> None:
    broker.start()
    proxy.hold_at(b"SUB mst.*.rpc.*.>", after=0)
    proxy.cut()
    wait_until(lambda: broker.get("/readyz")[0] == 503, 20, "the broker to see that NATS is away")
    proxy.heal()
    assert proxy.held.wait(20), "the broker did not subscribe again"
    stays_unready(broker, 3)
    proxy.release()
    broker.wait_ready()
    assert b"hi" in connect("acme", "a1").request("mst.acme.rpc.a1.echo.say", b'{"text": "hi"}', timeout=5).data
