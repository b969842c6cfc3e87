"""What a broker does when it is told to read its configuration again, and when it is told to stop."""

from __future__ import annotations

import json
import re
import signal
from typing import Any

from harness import Musterd, Site, wait_until
from load import Load


def reload(broker: Musterd, config: dict[str, Any]) -> list[str]:
    """What the log says of a changed configuration, without time and area."""
    before = broker.log().count("reload: done")
    at = len(broker.log())
    broker.config_path.write_text(json.dumps(config))
    broker.signal(signal.SIGHUP)
    wait_until(lambda: broker.log().count("reload: done") > before, 10, "the end of the reload")
    return re.findall(r"reload: (.*)", broker.log()[at:])


def test_sighup_names_what_waits_for_a_restart(site: Site) -> None:
    broker = site.broker(cdc={"retention": "2d"})
    broker.start()
    assert reload(broker, broker.config) == ["done; 0 settings wait for a restart"]
    main, evt = broker.config["plugins"]
    changed = {**broker.config,
               "postgres": {"dsn": broker.config["postgres"]["dsn"].replace("@", ":swordfish@"), "pool": 5},
               "plugins": [{**main, "config": {"slot": "other", "tables": {"public.orders": {"tenant": "acme"}}}},
                           {"name": "cdc", "instance": "more", "config": {"slot": "more"}}]}
    said = reload(broker, changed)
    assert {line.removesuffix("; waits for a restart") for line in said[:-1]} == {
        f"postgres.dsn: {json.dumps(broker.config['postgres']['dsn'])} -> "
        f"{json.dumps(changed['postgres']['dsn'].replace('swordfish', '…'), ensure_ascii=False)}",
        "postgres.pool: 4 -> 5", "plugins.main.slot: muster_main -> other", "plugins.main.retention: 2d -> 1d (the default)",
        "plugins.main.publication: muster -> not set", "plugins.main.tables.public.orders: added", "plugins.more: added",
        "plugins.evt: removed"}
    assert said[-1] == f"done; {len(said) - 1} settings wait for a restart" and "swordfish" not in broker.log()
    assert reload(broker, broker.config) == ["done; 0 settings wait for a restart"], "as it was at the start"
    assert broker.get("/readyz")[0] == 200


def test_sighup_changes_the_log_at_once(site: Site) -> None:
    broker = site.broker()
    broker.start()
    reload(broker, {**broker.config, "broker": {**broker.config["broker"], "log": {"format": "json"}}})
    told = [json.loads(line) for line in broker.log().splitlines() if line.startswith("{")]
    assert [line["message"] for line in told if line["area"] == "config"] == ["reload: done; 0 settings wait for a restart"]


def test_an_orderly_stop_is_no_fault(site: Site) -> None:
    broker = site.broker()
    broker.start()
    with Load(site.postgres, ("acme",), seed=6) as load:
        wait_until(lambda: load.commits > 20, 30, "load to flow")
        assert broker.stop() == 0
    said = broker.log().partition("core: stopping\n")[2]
    assert not re.search(r"^\S+ (warn|error) ", said, re.MULTILINE), said
