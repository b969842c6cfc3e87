"""An installation to attack: two tenants, every role in each, a broker, and a privileged ear and mouth."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from client import Client
from harness import BUILD, ROOT_TOKEN, Musterd, Site, binary, nats_release, run_cli, wait_until
from matrix.expected import HEARS
from matrix.wire import Login, Wire

OWN, FOREIGN = "acme", "zeta"
# Names that are one text when somebody joins them without care; tenants whose names are words of the subjects.
CONFUSABLE = {"a": ["b_c", "b-c"], "a_b": ["c"], "a-b": ["c"], "rpc": ["all"], "evt": ["rpc"]}
RELOADED = "Reloaded server configuration"  # nats-server's last word on SIGHUP


def attacker(role: str) -> str:
    return f"mallory-{role}"


class Rig:
    """form: operator, static or callout; version: of nats-server, "" for the installed one."""

    def __init__(self, version: str, form: str) -> None:
        self.form = form
        self.site = Site(form == "static", nats=version)
        if form == "callout":
            run_cli(["nats-config", "--dir", str(self.site.nats.folder), "--callout"], {})
        self.release = nats_release(self.site.nats.program)
        self.roles = [role for role in HEARS]
        self._logins: dict[tuple[str, str], Login] = {}
        self._wires: list[Wire] = []
        self._clients: list[Client] = []

    def start(self) -> Rig:
        # The ears listen between two attempts only, and an attempt may take a while.
        config = self.site.nats.config
        config.write_text(config.read_text().replace("ping_max: 2", "ping_max: 60"))
        assert "ping_max: 60" in config.read_text()
        self.site.start(OWN, FOREIGN, *CONFUSABLE)
        self.site.postgres.query("CREATE TABLE public.orders (tenant_id text, id int, PRIMARY KEY (tenant_id, id))")
        self.site.cli("publish", "public.orders", "--tenant-column", "tenant_id")
        for tenant in (OWN, FOREIGN):
            for role in self.roles:
                if role != "operator" or tenant == OWN:  # an operator's name is one in all tenants
                    self._add(tenant, role, attacker(role))
            self._add(tenant, "agent", "victim")
        for tenant, agents in CONFUSABLE.items():
            self._add(tenant, "agent", *agents)
        if self.form == "static":
            self._reload()
        self.broker = self._broker()
        self.broker.start()
        self.spy = self.wire(self._insider(), "spy")
        self.ear = self.spy.subscribe(">")
        self.mouth = self.wire(self._insider(), "mouth")
        self.insider = self._client()
        self._clients.append(self.insider)
        self._fill()
        return self

    def _fill(self) -> None:
        """So that every kind of stream holds something that could be purged."""
        self.site.postgres.query("INSERT INTO public.orders SELECT t, n FROM unnest(%s::text[]) t, generate_series(1, 5) n", ([OWN, FOREIGN],))
        for tenant in (OWN, FOREIGN):
            for agent in ("victim", attacker("agent")):
                self.enter(tenant, agent).publish(f"{ROOT_TOKEN}.{tenant}.all.{agent}.first", b"first")
        wait_until(lambda: self.kept()["CDC_main"][2] >= 10 and self.insider.streams()[f"MSG_{FOREIGN}"].messages >= 2, 20, "something in the streams")

    def _client(self) -> Client:
        folder = self.site.nats.folder
        if self.form == "static":
            return Client(self.site.nats.url, user="broker", password=(folder / "broker.pass").read_text().strip())
        return Client(self.site.nats.url, folder / "broker.creds")

    def close(self) -> None:
        for link in (*self._clients, *self._wires):
            link.close()
        self.site.close()

    # ---- who is who

    def _add(self, tenant: str, role: str, *agents: str) -> None:
        folder = self.site.folder / tenant / role
        folder.mkdir(parents=True, exist_ok=True)
        out = folder if len(agents) > 1 else folder / agents[0]
        by_token = self.form == "callout" and role not in ("operator", "plugin")  # those have creds only, and bypass the callout
        self.site.cli("agent", "add", tenant, *agents, "--role", role, "--out", str(out), *(["--token"] if by_token else []))
        for agent in agents:
            secret = next(p for p in folder.iterdir() if p.stem in (agent, f"{tenant}.{agent}"))
            self._logins[tenant, agent] = self._login(tenant, agent, secret, by_token)

    def _login(self, tenant: str, agent: str, secret: Path, by_token: bool) -> Login:
        if self.form == "static":
            return Login(options={"user": f"{tenant}.{agent}", "pass": secret.read_text().strip()})
        if by_token:
            return Login(self.site.nats.folder / "sentinel.creds", {"auth_token": secret.read_text().strip()})
        return Login(secret)

    def _reload(self) -> None:
        read = self.site.nats.log().count(RELOADED)
        self.site.nats.signal(signal.SIGHUP)
        wait_until(lambda: self.site.nats.log().count(RELOADED) > read, 10, "nats-server to have read its configuration")

    def _insider(self) -> Login:
        folder = self.site.nats.folder
        if self.form == "static":
            return Login(options={"user": "broker", "pass": (folder / "broker.pass").read_text().strip()})
        return Login(folder / "broker.creds")

    def _broker(self) -> Musterd:
        folder, config = self.site.nats.folder, self.site.broker_config()
        if self.form == "callout":
            config["nats"] |= {"callout_creds": str(folder / "callout.creds"), "callout_key_file": str(folder / "callout.nk")}
            config["plugins"].append({"name": "auth", "config": {}})
        config["plugins"].append({"path": str(BUILD / "test-plugins/vault.so"), "instance": "vault", "isolation": "none", "config": {}})
        config["plugins"] += [{"name": path.stem, "config": {}} for path in sorted((BUILD / "plugins").glob("*.so"))
                              if path.stem not in ("cdc", "auth")]  # whatever serves; those two need settings, and serve nothing
        broker = Musterd("musterd", self.site.folder, config)
        self.site.brokers.append(broker)
        return broker

    def login(self, tenant: str, agent: str) -> Login:
        return self._logins[tenant, agent]

    def wire(self, login: Login, name: str = "wire") -> Wire:
        wire = Wire(self.site.nats.port, login, name)
        self._wires.append(wire)
        return wire

    def enter(self, tenant: str, agent: str) -> Wire:
        return self.wire(self.login(tenant, agent), agent)

    def names(self, tenant: str, agent: str) -> dict[str, str]:
        return {"R": ROOT_TOKEN, "T": tenant, "A": agent, "O": f"_op_{agent}"}

    # ---- what happened

    def refused(self) -> float:
        """Messages that the broker has refused, whatever the reason."""
        return self.broker.metric("muster_refused_total")

    def kept(self) -> dict[str, Any]:
        """What no attempt may change: of the stream that stores what the tenant says, and of that which tells of refusals, their beginning; of a
        bucket, which the broker writes all the time, that it is there; of every other stream, everything."""
        found: dict[str, Any] = {}
        for name, state in self.insider.streams().items():
            if name.startswith("KV_"):
                found[name] = None
            elif name in (f"MSG_{OWN}", "AUDIT"):
                found[name] = max(1, state.first_seq)  # an empty one begins at 0
            else:
                found[name] = (state.first_seq, state.last_seq, state.messages)
        return found

    def request(self, wire: Wire, tenant: str, agent: str, service: str, verb: str, body: bytes, sender: str = "") -> dict[str, Any]:
        """The answer to one request over a bare connection."""
        sender = sender or agent
        box = f"{ROOT_TOKEN}.{tenant}.box.{sender}.{len(wire.heard)}-{wire._sids}"
        sid = wire.subscribe(box)
        wire.publish(f"{ROOT_TOKEN}.{tenant}.rpc.{sender}.{service}.{verb}", body, box)
        wire.wait(lambda: wire.of(sid), 10, f"an answer to {service}.{verb} of {sender}")
        return dict(json.loads(wire.of(sid)[0].data))

    def endpoints(self) -> list[dict[str, Any]]:
        """Every verb that is served, as the broker tells it: a service enters the matrix by being registered."""
        inbox = "_INBOX.matrix"
        sid = self.mouth.subscribe(inbox)
        self.mouth.publish("$SRV.INFO.muster", b"", inbox)
        self.mouth.wait(lambda: self.mouth.of(sid), 10, "the broker's endpoints")
        return list(json.loads(self.mouth.of(sid)[-1].data)["endpoints"])


def product_roles() -> dict[str, dict[str, list[str]]]:
    """The product's own table."""
    return dict(json.loads(subprocess.run([binary("matrix_roles")], check=True, capture_output=True).stdout))
