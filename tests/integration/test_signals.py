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
               "limits": {"requests_per_s": 9},
               "plugins": [{**main, "config": {"slot": "other", "tables": {"public.orders": {"tenant": "acme"}}}},
                           {"name": "cdc", "instance": "more", "config": {"slot": "more"}}]}
    said = reload(broker, changed)
    assert {line.removesuffix("; waits for a restart") for line in said[:-1]} == {
        f"postgres.dsn: {json.dumps(broker.config['postgres']['dsn'])} -> "
        f"{json.dumps(changed['postgres']['dsn'].replace('swordfish', '…'), ensure_ascii=False)}",
        "postgres.pool: 4 -> 5", "limits.requests_per_s: 0 -> 9", "plugins.main.slot: muster_main -> other", "plugins.main.retention: 2d -> 1d (the default)",
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


def test_sighup_tells_why_it_changed_nothing_in_one_line(site: Site) -> None:
    broker = site.broker()
    broker.config["broker"]["log"] = {"format": "json"}
    broker.start()
    main, evt = broker.config["plugins"]
    for plugins, words in (
            ([{**main, "config": {**main["config"], "slott": "x"}}, evt], "plugins.main.slott: unknown key; did you mean slot?"),
            ([{**main, "config": {**main["config"], "slot": "Bad Slot"}}, evt], 'plugins.main.slot: "Bad Slot": expected a name of '),
            ([main, evt, {"name": "cdcc"}], "plugins.cdcc.name: there is no plugin cdcc; did you mean cdc?")):
        at = len(broker.log())
        broker.config_path.write_text(json.dumps({**broker.config, "plugins": plugins}))
        broker.signal(signal.SIGHUP)
        wait_until(lambda at=at: "nothing was changed" in broker.log()[at:], 10, "the end of the reload")
        lines = [json.loads(line) for line in broker.log()[at:].splitlines()]
        [told] = [line for line in lines if line["area"] == "config"]
        assert told["level"] == "error" and words in told["message"]
        assert told["message"].startswith(f"reload: {broker.config_path}:1:") and told["message"].endswith("; nothing was changed")


def test_sighup_goes_on_without_a_plugin_that_is_not_required(site: Site) -> None:
    broker = site.broker()
    broker.config["plugins"].append({"name": "cdcc", "required": False})
    broker.start()
    said = reload(broker, {**broker.config, "broker": {**broker.config["broker"], "log": {"level": "debug"}}})
    assert len(said) == 3 and said[0].endswith("plugins.cdcc.name: there is no plugin cdcc; did you mean cdc?")
    assert said[1].startswith("plugins.cdcc: was not loaded") and said[2] == "done; 1 settings wait for a restart"


def test_an_orderly_stop_is_no_fault(site: Site) -> None:
    broker = site.broker()
    broker.start()
    with Load(site.postgres, ("acme",), seed=6) as load:
        wait_until(lambda: load.commits > 20, 30, "load to flow")
        assert broker.stop() == 0
    said = broker.log().partition("core: stopping\n")[2]
    assert not re.search(r"^\S+ (warn|error) ", said, re.MULTILINE), said
