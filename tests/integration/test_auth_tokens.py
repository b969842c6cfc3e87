"""The plugin auth: tokens of Muster and of others, from the issuer's key to the answer of a service, on the servers that ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from client import Client
from harness import ROOT_TOKEN, Musterd, binary, nats_program, run_cli, wait_until
from issuer import Key, Publisher, b64
from loginrig import COMPLAINTS, FORMS, Rig
from pluginrig import echo, reload

ALGS = ("RS256", "ES256", "EdDSA")


class Tokens(Rig):
    """A site that asks, whose broker runs auth with an issuer of each kind."""

    def __init__(self, program: str, static: bool) -> None:
        super().__init__(program, static)
        self.keys_folder = Path(tempfile.mkdtemp(prefix="muster-keys-"))
        self.publisher = Publisher()
        self.key = {alg: Key(self.keys_folder, alg, f"{alg}-1") for alg in (*ALGS, "HS256")}
        self.filed = Key(self.keys_folder, "ES256", "filed-1")
        self.jwks_file = self.keys_folder / "filed.json"
        self.publisher.keys = [self.key[alg].jwk() for alg in ALGS]
        self.publish_file(self.filed)
        self.musterd = self.broker("musterd", self.auth(), echo())

    def auth(self, **more: Any) -> dict[str, Any]:
        issuers = {
            "corp": {"issuer": "https://id.corp", "audience": ["muster", "muster-dev"], "jwks_url": self.publisher.url,
                     "tenant_claim": "org.tenant", "role_claim": "realm_access.roles", "tenants": ["acme", "nope"],
                     "roles": ["agent", "observer", "admin"], "leeway": "2s"},
            "filed": {"issuer": "https://id.filed", "audience": ["muster"], "jwks_file": str(self.jwks_file), "tenant": "zeta",
                      "agent_claim": "https://filed/claims.name"},
            "shared": {"issuer": "shared", "audience": ["muster"], "secret_file": str(self.key["HS256"].path), "tenant": "acme",
                       "role": "user"},
        }
        return {"name": "auth", "config": {"issuers": {**issuers, **more}, "refetch": "2s"}}

    def publish_file(self, *keys: Key) -> None:
        self.jwks_file.with_suffix(".new").write_text(json.dumps({"keys": [key.jwk() for key in keys]}))
        self.jwks_file.with_suffix(".new").rename(self.jwks_file)

    def corp(self, alg: str, agent: str, header: dict[str, Any] | None = None, **claims: Any) -> str:
        return self.key[alg].token(header, **{"iss": "https://id.corp", "sub": agent, "org": {"tenant": "acme"}, **claims})

    def enter(self, token: str, tenant: str, agent: str) -> Client:
        client = Client(self.site.nats.url, tenant=tenant, agent=agent, token=token, allow_reconnect=False, connect_timeout=15, **self.beside)
        self.clients.append(client)
        return client

    def counted(self, reason: str) -> float:
        return self.musterd.metric("muster_logins_refused_total", f'reason="{reason}"')

    def assert_refused(self, token: str, reason: str) -> None:
        before = self.counted(reason)
        self.refused(token)
        assert self.counted(reason) == before + 1, self.musterd.log()[-1500:]

    def assert_unanswered(self, token: str) -> None:
        refused, late = self.counted_all(), self.late()
        self.unanswered(token)
        wait_until(lambda: self.late() == late + 1, 15, "the login to be given up")
        assert self.counted_all() == refused

    def late(self) -> float:
        return self.musterd.metric("muster_logins_unanswered_total", 'reason="late"')

    def counted_all(self) -> float:
        return self.musterd.metric("muster_logins_refused_total")

    def close(self) -> None:
        super().close()
        self.publisher.close()
        shutil.rmtree(self.keys_folder, ignore_errors=True)


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]}-{'static' if form[1] else 'operator'}")
def rig(request: pytest.FixtureRequest) -> Generator[Tokens, None, None]:
    version, static = request.param
    rig = Tokens(nats_program(version), static)
    failed_before = request.session.testsfailed
    try:
        rig.musterd.start()
        yield rig
        rig.end_clients()
        assert rig.musterd.stop() == 0, rig.musterd.log()[-3000:]
        assert not any(word in rig.musterd.log() for word in COMPLAINTS), rig.musterd.log()[-5000:]
    finally:
        if request.session.testsfailed > failed_before:
            print(rig.musterd.log()[-6000:], rig.site.nats.log()[-3000:], file=sys.stderr)
        rig.close()


@pytest.fixture(autouse=True)
def leave_nobody_connected(rig: Tokens) -> Generator[None, None, None]:
    yield
    rig.end_clients()


def said(client: Client, agent: str, tenant: str = "acme") -> Any:
    return json.loads(client.request(f"{ROOT_TOKEN}.{tenant}.rpc.{agent}.echo.say", b'{"text": "hi"}').data)


# ---- tokens of others --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ALGS)
def test_from_the_issuers_key_to_the_answer_of_a_service(rig: Tokens, alg: str) -> None:
    agent = f"in-{alg}"
    client = rig.enter(rig.corp(alg, agent), "acme", agent)
    assert "error" not in said(client, agent)
    assert rig.row("acme", agent) == ("agent", None, True)


def test_a_secret_of_hs256(rig: Tokens) -> None:
    client = rig.enter(rig.key["HS256"].token(iss="shared", sub="hs"), "acme", "hs")
    assert client.connected and rig.row("acme", "hs") == ("user", None, True)


def test_claims_by_path_and_the_one_role_of_a_list(rig: Tokens) -> None:
    rig.enter(rig.corp("ES256", "boss", realm_access={"roles": ["offline_access", "admin"]}), "acme", "boss")
    assert rig.row("acme", "boss") == ("admin", None, True)
    token = rig.filed.token(iss="https://id.filed", sub="auth0|7", **{"https://filed/claims": {"name": "filed-7"}})
    rig.enter(token, "zeta", "filed-7")
    assert rig.row("zeta", "filed-7") == ("agent", None, True)


def test_who_is_refused_and_why(rig: Tokens) -> None:
    now, es = int(time.time()), rig.key["ES256"]
    good = rig.corp("ES256", "a")
    head, body, sig = good.split(".")
    none = b64(json.dumps({"alg": "none"}).encode())
    stranger = Key(rig.keys_folder, "ES256", "ES256-1")
    as_secret = Key(rig.keys_folder, "HS256", "RS256-1")
    cases = [
        (f"{none}.{body}.", "malformed"), (f"{none}.{body}.{sig}", "malformed"),
        (rig.corp("ES256", "a", {"crit": ["exp"]}), "malformed"),
        (rig.corp("ES256", "a", {"typ": "logout+jwt"}), "malformed"),
        (f"{head}.{body}", "malformed"), ("no token at all", "malformed"), ("mst_short", "malformed"),
        (stranger.token(iss="https://id.corp", sub="a", org={"tenant": "acme"}), "bad_signature"),
        (f"{head}.{b64(b'{}')}.{sig}", "unknown_issuer"),
        (es.token(iss="https://elsewhere", sub="a"), "unknown_issuer"), (es.token(sub="a"), "unknown_issuer"),
        (as_secret.token(iss="https://id.corp", sub="a", org={"tenant": "acme"}), "unknown_key"),
        (es.token(iss="shared", sub="a"), "unknown_key"),
        (rig.corp("ES256", "a", exp=now - 3), "expired"), (rig.corp("ES256", "a", exp=None), "bad_claim"),
        (rig.corp("ES256", "a", nbf=now + 60), "too_early"), (rig.corp("ES256", "a", iat=now + 60), "too_early"),
        (rig.corp("ES256", "a", aud="other"), "other_audience"), (rig.corp("ES256", "a", aud=None), "other_audience"),
        (rig.corp("ES256", "a.b"), "bad_claim"), (rig.corp("ES256", "_muster"), "bad_claim"), (rig.corp("ES256", ">"), "bad_claim"),
        (rig.corp("ES256", "a", org={}), "bad_claim"), (rig.corp("ES256", "a", org={"tenant": "zeta"}), "bad_claim"),
        (rig.corp("ES256", "a", realm_access={"roles": ["operator"]}), "bad_claim"),
        (rig.corp("ES256", "a", realm_access={"roles": ["admin", "agent"]}), "bad_claim"),
        (rig.corp("ES256", "a", org={"tenant": "nope"}), "unknown_tenant"),
    ]
    for token, reason in cases:
        rig.assert_refused(token, reason)
    assert rig.row("acme", "a") is None
    log = rig.musterd.log() + rig.site.nats.log()
    assert sig not in log and body not in log


def test_a_connection_ends_with_its_token(rig: Tokens) -> None:
    client = rig.enter(rig.corp("EdDSA", "brief", exp=int(time.time()) + 1), "acme", "brief")
    wait_until(lambda: not client.connected, 8, "the server to cut the connection")


def test_a_token_without_an_end_where_the_issuer_may_give_one(rig: Tokens) -> None:
    endless = {"issuer": "https://endless", "audience": ["muster"], "jwks_file": str(rig.jwks_file), "tenant": "acme"}
    token = rig.filed.token(iss="https://endless", sub="endless", exp=None)
    reload(rig.musterd, lambda plugins: plugins.__setitem__(0, rig.auth(endless=endless | {"require_exp": False})))
    try:
        client = rig.enter(token, "acme", "endless")
        assert "error" not in said(client, "endless")
        rig.assert_refused(rig.filed.token(iss="https://endless", sub="endless", exp=int(time.time()) - 60), "expired")
        rig.site.cli("agent", "revoke", "acme", "endless")
        wait_until(lambda: not client.connected, 5, "the connection to end with the credential")
        rig.assert_refused(token, "revoked")
        reload(rig.musterd, lambda plugins: plugins.__setitem__(0, rig.auth(endless=endless)))
        rig.assert_refused(token, "bad_claim")
    finally:
        reload(rig.musterd)


def test_a_new_key_is_taken_with_its_first_token_and_made_up_ones_cost_little(rig: Tokens) -> None:
    new = Key(rig.keys_folder, "ES256", "ES256-2")
    rig.publisher.keys.append(new.jwk())
    time.sleep(2.1)  # the pace of refetches, which is what is tested
    hits = rig.publisher.hits
    assert rig.enter(new.token(iss="https://id.corp", sub="rotated", org={"tenant": "acme"}), "acme", "rotated").connected
    assert rig.publisher.hits == hits + 1
    begun = time.monotonic()
    for i in range(10):
        rig.refused(rig.corp("ES256", "a", {"kid": f"made-up-{i}"}))
    assert rig.publisher.hits - hits - 1 <= (time.monotonic() - begun) / 2 + 1
    assert rig.enter(rig.corp("RS256", "still"), "acme", "still").connected


def test_the_last_good_keys_hold_while_the_issuer_is_away(rig: Tokens) -> None:
    time.sleep(2.1)
    rig.publisher.status, hits = 500, rig.publisher.hits
    try:
        rig.assert_refused(rig.corp("ES256", "a", {"kid": "unknown"}), "unknown_key")
        assert rig.publisher.hits > hits
        assert rig.enter(rig.corp("ES256", "held"), "acme", "held").connected
        status, text = wait_until(lambda: "keys_stale" in (page := rig.musterd.get("/readyz"))[1] and page, 5, "the component to be degraded")
        assert status == 200 and "issuer corp: the keys of before hold on" in text and "500" in text
    finally:
        rig.publisher.status = 200
    wait_until(lambda: "keys_stale" not in rig.musterd.get("/readyz")[1], 70, "the keys to be read again")


def test_a_file_of_keys_is_read_again(rig: Tokens) -> None:
    new = Key(rig.keys_folder, "EdDSA", "filed-2")
    rig.publish_file(new)
    time.sleep(1.1)
    token = new.token(iss="https://id.filed", **{"https://filed/claims": {"name": "filed-new"}})
    assert rig.enter(token, "zeta", "filed-new").connected
    rig.assert_refused(rig.filed.token(iss="https://id.filed", **{"https://filed/claims": {"name": "filed-old"}}), "unknown_key")
    rig.publish_file(rig.filed)


def test_issuers_are_taken_over_at_sighup(rig: Tokens) -> None:
    key = Key(rig.keys_folder, "EdDSA", "late-1")
    file = rig.keys_folder / "late.json"
    file.write_text(json.dumps({"keys": [key.jwk()]}))
    token = key.token(iss="https://late", sub="late")
    rig.assert_refused(token, "unknown_issuer")
    late = {"issuer": "https://late", "audience": ["muster"], "jwks_file": str(file), "tenant": "acme"}
    hits = rig.publisher.hits
    reload(rig.musterd, lambda plugins: plugins.__setitem__(0, rig.auth(late=late)))
    assert rig.enter(token, "acme", "late").connected
    assert rig.enter(rig.corp("RS256", "kept"), "acme", "kept").connected and rig.publisher.hits == hits, "keys that are there stay"
    reload(rig.musterd)
    rig.assert_refused(token, "unknown_issuer")


def test_keys_come_from_whom_the_certificate_proves_alone(rig: Tokens) -> None:
    publisher = Publisher(rig.keys_folder)
    key = Key(rig.keys_folder, "ES256", "tls-1")
    publisher.keys = [key.jwk()]
    issuer = {"issuer": "https://tls", "audience": ["muster"], "jwks_url": publisher.url, "tenant": "acme"}
    ca = {"ca_file": str(rig.keys_folder / "cert.pem")}
    token = key.token(iss="https://tls", sub="over-tls")
    try:
        for refused in (issuer, issuer | ca | {"jwks_url": publisher.url.replace("localhost", "127.0.0.1")}):  # nobody's; another name's
            reload(rig.musterd, lambda plugins, refused=refused: plugins.__setitem__(0, rig.auth(tls=refused)))
            page = wait_until(lambda: "keys_missing" in (text := rig.musterd.get("/readyz")[1]) and text, 10, "the issuer to be told")
            assert "issuer tls: nobody can log in with its tokens: SSL" in page
            rig.assert_unanswered(token)
        reload(rig.musterd, lambda plugins: plugins.__setitem__(0, rig.auth(tls=issuer | ca)))
        assert rig.enter(token, "acme", "over-tls").connected
        assert publisher.hits == 1
    finally:
        publisher.close()
        reload(rig.musterd)


def test_who_cannot_be_checked_yet_is_not_refused_and_enters_when_the_keys_are_there(rig: Tokens) -> None:
    publisher = Publisher()
    key = Key(rig.keys_folder, "ES256", "away-1")
    publisher.keys, publisher.status = [key.jwk()], 503
    token = key.token(iss="https://away", sub="away")
    away = {"issuer": "https://away", "audience": ["muster"], "jwks_url": publisher.url, "tenant": "acme"}
    try:
        reload(rig.musterd, lambda plugins: plugins.__setitem__(0, rig.auth(away=away)))
        rig.assert_unanswered(token)
        assert "a token of away cannot be checked, so the client has to try again" in rig.musterd.log()
        publisher.status = 200
        wait_until(lambda: "keys_missing" not in rig.musterd.get("/readyz")[1], 20, "the keys to be read")
        assert rig.enter(token, "acme", "away").connected
        rig.assert_refused(Key(rig.keys_folder, "ES256", "away-2").token(iss="https://away", sub="away"), "unknown_key")
    finally:
        publisher.close()
        reload(rig.musterd)


# ---- Muster's own ------------------------------------------------------------------------------------------------------------------


def token_of(rig: Tokens, *argv: str) -> str:
    return rig.site.cli("agent", *argv).stdout.strip()


def test_a_token_of_muster_from_the_command_to_the_answer(rig: Tokens) -> None:
    token = token_of(rig, "add", "acme", "own", "--token")
    client = rig.enter(token, "acme", "own")
    assert "error" not in said(client, "own")
    (row,) = rig.site.postgres.query("SELECT role, public_key, token_id, secret_hash FROM muster.credentials WHERE agent = 'own'")
    prefix, token_id, secret = token.split("_")
    assert prefix == "mst" and row[:3] == ("agent", None, token_id) and secret not in row[3]
    assert secret not in rig.musterd.log() + rig.site.nats.log()


def test_tokens_of_several_go_to_files_of_their_own(rig: Tokens) -> None:
    folder = rig.keys_folder / "many"
    rig.site.cli("agent", "add", "acme", "m1", "m2", "--token", "--role", "observer", "--out", f"{folder}/")
    for agent in ("m1", "m2"):
        file = folder / f"{agent}.token"
        assert file.stat().st_mode & 0o777 == 0o600
        assert rig.enter(file.read_text().strip(), "acme", agent).connected
    assert rig.row("acme", "m1") == ("observer", None, True)


def test_what_is_rotated_or_revoked_lets_nobody_in(rig: Tokens) -> None:
    old = token_of(rig, "add", "acme", "turn", "--token")
    new = token_of(rig, "rotate", "acme", "turn")
    assert new.startswith("mst_") and new != old
    rig.assert_refused(old, "unknown_token")
    assert rig.enter(new, "acme", "turn").connected
    rig.site.cli("agent", "revoke", "acme", "turn")
    rig.assert_refused(new, "revoked")
    again, begun = token_of(rig, "add", "acme", "turn", "--token", "--expires", "3s"), time.monotonic()
    rig.assert_refused(new, "unknown_token")
    client = rig.enter(again, "acme", "turn")
    wait_until(lambda: not client.connected, 8, "the end of the token")
    wait_until(lambda: time.monotonic() - begun > 3.1, 5, "the second in which it ends to be over")
    rig.assert_refused(again, "expired")


def test_who_is_connected_with_a_token_is_cut_when_it_is_revoked_or_rotated(rig: Tokens) -> None:
    for verb in ("revoke", "rotate"):
        client = rig.enter(token_of(rig, "add", "acme", f"cut-{verb}", "--token"), "acme", f"cut-{verb}")
        stays = rig.enter(token_of(rig, "add", "acme", f"stays-{verb}", "--token"), "acme", f"stays-{verb}")
        rig.site.cli("agent", verb, "acme", f"cut-{verb}")
        wait_until(lambda client=client: not client.connected, 2, f"the connection to be cut after {verb}")
        assert stays.connected


def test_another_secret_for_an_id_is_unknown(rig: Tokens) -> None:
    token, other = token_of(rig, "add", "acme", "x1", "--token"), token_of(rig, "add", "acme", "x2", "--token")
    rig.assert_refused(token[:21] + other[21:], "unknown_token")
    rig.assert_refused(token[:-1] + ("a" if token[-1] != "a" else "q"), "unknown_token")
    rig.assert_refused("mst_" + "a" * 16 + "_" + "a" * 52, "unknown_token")


def test_tokens_need_no_keys_and_are_for_agents_alone(rig: Tokens) -> None:
    env = {"MUSTER_POSTGRES_DSN": rig.site.postgres.dsn("muster_broker")}
    assert run_cli(["agent", "add", "acme", "keyless", "--token"], env).stdout.startswith("mst_")
    run_cli(["agent", "revoke", "acme", "keyless"], env)
    refused = run_cli(["agent", "add", "acme", "op", "--token", "--role", "operator"], env, check=False)
    assert refused.returncode == 2 and "leave --token out" in refused.stderr


def test_two_commands_with_the_same_names_do_not_meet_head_on(rig: Tokens) -> None:
    """No folder of keys, whose lock would let one after the other in: one of them gets all names, the other is told so."""
    env = {**os.environ, "MUSTER_POSTGRES_DSN": rig.site.postgres.dsn("muster_broker")}
    names = [f"both-{i}" for i in range(1500)]
    orders = {"there": names, "back": names[::-1]}
    both = [subprocess.Popen([binary("muster"), "agent", "add", "acme", *order, "--token", "--out", f"{rig.keys_folder / way}/"], env=env, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for way, order in orders.items()]
    told = [command.communicate(timeout=60)[1] for command in both]
    assert sorted(command.returncode for command in both) == [0, 1], told
    assert any(word in "".join(told) for word in ("already_exists", "at the same time")) and "deadlock" not in "".join(told)
    assert rig.site.postgres.query("SELECT count(*) FROM muster.credentials WHERE agent LIKE 'both-%'") == [(1500,)]


def test_nobody_comes_in_while_the_database_is_away_and_all_do_when_it_is_back(rig: Tokens) -> None:
    token = token_of(rig, "add", "acme", "waits", "--token")
    admitted = rig.musterd.metric("muster_logins_admitted_total")
    refused = rig.musterd.metric("muster_logins_refused_total")
    rig.site.postgres.stop()
    try:
        rig.unanswered(token)
        assert rig.musterd.metric("muster_logins_refused_total") == refused, "a client that is refused twice may never come back"
        assert rig.musterd.metric("muster_logins_admitted_total") == admitted
    finally:
        rig.site.postgres.start()
    rig.musterd.wait_ready()

    def enter() -> Client | None:
        try:
            return rig.enter(token, "acme", "waits")
        except Exception:
            return None

    client = wait_until(enter, 60, "the token to be taken")
    assert "error" not in said(client, "waits")


# ---- settings ----------------------------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"issuer": "https://i", "audience": ["muster"], "jwks_url": "https://i/keys", "tenant": "acme"}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"jwks_url": None}, "issuers.one: 0 of jwks_url, jwks_file and secret_file came"),
    ({"jwks_file": "keys.json"}, "issuers.one: 2 of jwks_url"),
    ({"jwks_url": "http://i/keys"}, "issuers.one.jwks_url: http://i/keys came: https:// was expected"),
    ({"jwks_url": "https://u:p@i/keys"}, "without a password"),
    ({"tenant": None}, "issuers.one: tenant_claim, tenant or both were expected"),
    ({"tenant": "a.b"}, "issuers.one.tenant: a.b came"),
    ({"tenants": ["_x"]}, "issuers.one.tenants: _x came"),
    ({"roles": ["operator"]}, "issuers.one.roles: operator came"),
    ({"role": "admin"}, "issuers.one.role: admin came, which is none of roles"),
    ({"role": "none"}, "there is no role_claim"),
    ({"audience": None}, "audience"),
    ({"issuer": None}, "issuer"),
    ({"leeway": "1h"}, "leeway"),
    ({"jwks_url": None, "secret_file": "s", "ca_file": "c"}, "issuers.one.ca_file: it is for jwks_url"),
]


@pytest.mark.parametrize("change,sentence", BAD, ids=lambda value: ",".join(value) if isinstance(value, dict) else "")
def test_settings_that_make_no_sense_are_refused_by_name(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    issuer = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    assert sentence in checked(tmp_path, {"issuers": {"one": issuer}})


def test_two_issuers_of_one_name_and_nobody_at_all(tmp_path: Path) -> None:
    assert "is the issuer of one already" in checked(tmp_path, {"issuers": {"one": GOOD, "two": GOOD}})
    assert "nobody could log in" in checked(tmp_path, {"muster_tokens": False})


def checked(folder: Path, config: dict[str, Any]) -> str:
    """What musterd --check says of a configuration that it refuses."""
    broker = Musterd("musterd", folder, {"nats": {"urls": ["nats://127.0.0.1:1"], "creds": "x"}, "postgres": {"dsn": "host=127.0.0.1"},
                                         "plugins": [{"name": "auth", "config": config}]})
    broker.config_path.write_text(json.dumps(broker.config))
    done = subprocess.run([binary("musterd"), "--check", "-c", str(broker.config_path)], capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    return done.stderr
