"""Roles × subject classes × own and foreign tenant × forms, on each server: nothing foreign read, nothing foreign written or purged, and each refusal
counted, by the server at the client or by the broker in muster_refused_total.

What may be is expected.py's, written from INTERFACE 2; what is tried is generated (attempts.py). A privileged ear hears everything in the account.
"""

from __future__ import annotations

import base64
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import REPO, ROOT_TOKEN, wait_until
from matrix.attempts import BODIES, HEADERS, STRANGE, VICTIM, Attempt, header, literals, publishes, replies, subscribes
from matrix.expected import ASKS, CLASSES, HEARS, PUBLISHES, covers, may
from matrix.rig import CONFUSABLE, FOREIGN, OWN, Rig, attacker, product_roles
from matrix.tally import count
from matrix.wire import Heard, Login, Refused, Wire

ROLES = sorted(HEARS)
CODES = {"invalid_argument", "not_found", "permission_denied", "resource_exhausted", "failed_precondition", "unauthenticated"}


# ---- the oracle knows what the product knows


def class_of(tokens: list[str]) -> str:
    return ".".join(tokens[:2]) if tokens[0] == "log" and len(tokens) > 1 and tokens[1] != ">" else tokens[0]


def test_no_role_or_subject_class_is_missing_in_the_matrix() -> None:
    roles = product_roles()
    assert set(roles) == set(HEARS) == set(PUBLISHES), "expected.py does not know the same roles as broker/auth/roles.c"
    named = {class_of(pattern.split(".")[2:]) for lists in roles.values() for patterns in lists.values() for pattern in patterns}
    told = {class_of(line.split("}.", 2)[2].strip('"').replace("{", "").replace("}", "").split("."))
            for line in (REPO / "schemas/asyncapi.yaml").read_text().splitlines()
            if line.strip().startswith('address: "{root}.{tenant}.')}
    assert named | told, "nothing was read"
    assert (named | told) - {"log"} <= set(CLASSES), "a subject class that expected.py does not know"


# ---- who may publish what


def heard_by(rig: Rig, mark: bytes) -> list[Heard]:
    """What has come to the privileged ear of bodies that begin so; everything that was sent before has."""
    rig.mouth.publish("matrix.mark", mark)
    rig.mouth.flush()
    rig.spy.wait(lambda: any(m.subject == "matrix.mark" and m.data == mark for m in reversed(rig.spy.heard)), 20, "the mark")
    found = [m for m in rig.spy.heard if m.data.startswith(mark) and m.subject != "matrix.mark"]
    rig.spy.heard.clear()
    return found


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_publish(rig: Rig, role: str) -> None:
    name = attacker(role)
    before = rig.kept()
    attempts = list(publishes(name, before))
    wire = rig.enter(OWN, name)
    for n, attempt in enumerate(attempts):
        wire.publish(attempt.subject, b"publish-%s %d" % (role.encode(), n))
    wire.flush()
    refused = {subject for what, subject, _ in wire.refusals if what == "publish"}
    seen = {int(m.data.split()[1]): m.subject for m in heard_by(rig, b"publish-" + role.encode())}
    wrong = []
    for n, attempt in enumerate(attempts):
        allowed = may(PUBLISHES[role], rig.names(OWN, name), attempt.subject)
        if (attempt.subject not in refused, n in seen) != (allowed, allowed):
            wrong.append(f"{attempt}: expected {'let through' if allowed else 'refused'}, was "
                         f"{'refused' if attempt.subject in refused else 'not refused'} and {'heard' if n in seen else 'not heard'}")
    assert wrong == []
    assert rig.kept() == before, "a stream was changed"
    count(rig, "publishes", len(attempts))


# ---- who may hear what


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_hear(rig: Rig, role: str) -> None:
    """Each subscription is refused or not; then the privileged mouth says something on every subject, and nothing else than what is allowed is heard."""
    name = attacker(role)
    names = rig.names(OWN, name)
    attempts = list(subscribes(name, rig.kept()))
    wires: dict[str, Wire] = {}
    sids: dict[tuple[str, int], Attempt] = {}
    for attempt in attempts:
        if attempt.queue not in wires:  # a connection holds at most 500
            wires[attempt.queue] = rig.enter(OWN, name)
        sids[attempt.queue, wires[attempt.queue].subscribe(attempt.subject, attempt.queue)] = attempt
    for wire in wires.values():
        wire.flush()
    refused = {Attempt(subject, queue) for wire in wires.values() for what, subject, queue in wire.refusals if what == "subscription"}
    wrong = [f"{a}: was {'' if a in refused else 'not '}refused" for a in attempts if (a not in refused) != may(HEARS[role], names, a.subject)]
    assert wrong == []
    said = list(dict.fromkeys(literals(name)))
    for subject in said:
        rig.mouth.publish(subject, b"hear")
    rig.mouth.flush()
    heard_by(rig, b"hear")
    for queue, wire in wires.items():
        expected = {subject for subject in said if may(HEARS[role], names, subject)}
        if expected:
            wire.wait(lambda wire=wire, expected=expected: expected <= {m.subject for m in wire.heard}, 20, f"{role} to hear what it may, in queue group {queue!r}")
        wire.flush()
        for message in wire.heard:
            by = sids[queue, message.sid]
            assert may(HEARS[role], names, message.subject), f"{message.subject} was heard by way of {by}"
            assert covers(by.subject, message.subject)
        wire.close()  # the next role's are not to share its queue groups
    count(rig, "subscriptions", len(attempts))


# ---- what others are made to write


@pytest.mark.parametrize("role", ROLES)
def test_reply_subjects_write_nothing(rig: Rig, role: str) -> None:
    name = attacker(role)
    before = rig.kept()
    targets = list(replies(before))
    speaks = [s for s in (*(f"{ROOT_TOKEN}.{OWN}.rpc.{name}.{v}" for v in ("vault.get", "vault.purge", "no.such")), f"{ROOT_TOKEN}.{OWN}.all.{name}.x",
                          f"{ROOT_TOKEN}.{OWN}.to.{VICTIM}.{name}.x", f"{ROOT_TOKEN}.{OWN}.grp.team.{name}.x", f"{ROOT_TOKEN}.{OWN}.box.{VICTIM}.x",
                          f"{ROOT_TOKEN}.{FOREIGN}.rpc._op_{name}.vault.get") if may(PUBLISHES[role], rig.names(OWN, name), s)]
    assert speaks
    attempts = [(own, reply) for own in speaks for reply in targets]
    refused = rig.refused()
    wire = rig.enter(OWN, name)
    heard_by(rig, b"nothing")
    for own, reply in attempts:
        wire.publish(own, b'{"id":"reply-%s"}' % role.encode(), reply)
    wire.flush()
    assert wire.refusals == []
    asked = sum(".rpc." in own for own, _ in attempts)
    wait_until(lambda: rig.refused() >= refused + asked, 20, "the broker to refuse every request with a foreign reply subject")
    assert rig.refused() == refused + asked
    rig.mouth.publish("matrix.mark", b"replied")
    rig.mouth.flush()
    rig.spy.wait(lambda: any(m.data == b"replied" for m in rig.spy.heard), 20, "the mark")
    written = [m for m in rig.spy.heard if m.subject in targets and m.subject not in speaks]
    assert written == [] and rig.kept() == before
    count(rig, "reply subjects", len(attempts))


@pytest.mark.parametrize("role", ROLES)
def test_forged_headers_change_nothing(rig: Rig, role: str) -> None:
    """Neither for the server, nor for a stream, nor for a broker; history keeps its own count."""
    name = attacker(role)
    before = rig.kept()
    stored = rig.insider.streams()[f"MSG_{OWN}"].last_seq
    speaks = [s for s in (f"{ROOT_TOKEN}.{OWN}.all.{name}.headers", f"{ROOT_TOKEN}.{OWN}.to.{VICTIM}.{name}.headers",
                          f"{ROOT_TOKEN}.{OWN}.grp.team.{name}.headers", f"{ROOT_TOKEN}.{OWN}.rpc.{name}.vault.look",
                          f"{ROOT_TOKEN}.{OWN}.box.{VICTIM}.headers") if may(PUBLISHES[role], rig.names(OWN, name), s)]
    assert speaks
    attempts = [(own, what) for own in speaks for what in HEADERS]
    wire = rig.enter(OWN, name)
    heard_by(rig, b"nothing")
    for own, what in attempts:
        wire.publish(own, b"headers", headers=header(what))
    for own in speaks:  # a trace comes behind what it traces
        wire.publish(own, b"last")
    wire.flush()
    rig.spy.wait(lambda: {m.subject for m in rig.spy.heard if m.data == b"last"} >= set(speaks), 20, "the last of each")
    rig.spy.listen(0.3)
    heard, rig.spy.heard = rig.spy.heard, []
    for message in heard:
        tokens = message.subject.split(".")
        reads = tokens[3:4] in (["INFO"], ["NAMES"], ["LIST"]) or tokens[3:5] == ["MSG", "GET"]
        assert not message.subject.startswith("$JS.API.STREAM.") or reads, f"{message.subject} was written"
        assert tokens[1] != FOREIGN or b"headers" not in message.data and "headers" not in message.subject, f"{message.subject} was written"
        assert message.subject in speaks or tokens[-1] != "headers" or tokens[2] == "log", f"{message.subject} was written"
    assert rig.kept() == before
    positions = [int(line.partition(b":")[2]) for message in heard if ".log." in message.subject and f".{name}." in message.subject
                 for line in message.headers.split(b"\r\n")[-10:] if line.lower().startswith(b"nats-sequence:")][-len(speaks):]
    assert all(position > stored and position < 999999 for position in positions), "the last position is the stream's own"
    count(rig, "headers", len(attempts))


# ---- what a broker does for whom


@pytest.mark.parametrize("role", [role for role in ROLES if any(".rpc." in pattern for pattern in PUBLISHES[role])])
def test_which_verbs_a_role_may_ask(rig: Rig, role: str) -> None:
    """A refusal names role and verb and is counted; who may is answered by the service itself."""
    wire, name = rig.enter(OWN, attacker(role)), attacker(role)
    names = [(OWN, name)] + ([(FOREIGN, f"_op_{name}")] if role == "operator" else [])
    endpoints = rig.endpoints()
    assert {e["name"] for e in endpoints} >= {"vault-get", "vault-purge"}
    for endpoint in endpoints:
        service, verb = endpoint["name"].split("-", 1)
        access, user = endpoint["metadata"]["access"], endpoint["metadata"]["user"] == "true"
        allowed = role in ASKS[access] and (role != "user" or user)
        for tenant, sender in names:
            before = rig.refused()
            answer = rig.request(wire, tenant, name, service, verb, b'{"matrix":1}', sender)
            code = answer.get("error", {}).get("code")
            assert (code == "permission_denied") == (not allowed), f"{role}, {service}.{verb} ({access}): {answer}"
            if not allowed:
                assert role in answer["error"]["message"] and f"{service}.{verb}" in answer["error"]["message"]
                assert rig.refused() == before + 1
    count(rig, "verbs", len(endpoints) * len(names))


def test_forged_bodies_are_answered_and_harm_nobody(rig: Rig) -> None:
    name = attacker("agent")
    wire, neighbour = rig.enter(OWN, name), rig.enter(FOREIGN, VICTIM)
    assert rig.request(neighbour, FOREIGN, VICTIM, "vault", "keep", b'{"id":"a","text":"of zeta"}') == {"text": "of zeta"}
    verbs = [("vault", "get"), ("vault", "keep"), ("no", "such")]
    for what, body in BODIES.items():
        for service, verb in verbs:
            box = f"{ROOT_TOKEN}.{OWN}.box.{name}.body-{wire._sids}"
            sid = wire.subscribe(box)
            wire.publish(f"{ROOT_TOKEN}.{OWN}.rpc.{name}.{service}.{verb}", body, box)
            wire.wait(lambda sid=sid: wire.of(sid), 10, f"an answer to {what}")
            data = wire.of(sid)[0].data
            assert any(code.encode() in data for code in CODES) and b"of zeta" not in data, f"{service}.{verb} of {what}: {data!r}"
    assert rig.request(neighbour, FOREIGN, VICTIM, "vault", "get", b'{"id":"a"}') == {"text": "of zeta"}
    count(rig, "bodies", len(BODIES) * len(verbs))


def test_strange_ids_are_ids(rig: Rig) -> None:
    """Whatever an id is made of, it is the tenant's own: each tenant has its own object under it, or it is refused to both in the same words."""
    name = attacker("agent")
    here, there = rig.enter(OWN, name), rig.enter(FOREIGN, VICTIM)
    for what, raw in STRANGE.items():
        answers = []
        for wire, tenant, agent in ((here, OWN, name), (there, FOREIGN, VICTIM)):
            body = json.dumps({"id": raw.decode(errors="surrogateescape"), "text": f"of {tenant}"}).encode()
            kept = rig.request(wire, tenant, agent, "vault", "keep", body)
            assert kept == {"text": f"of {tenant}"} or kept["error"]["code"] == "invalid_argument", f"{what}: {kept}"
            answers.append("error" in kept)
        assert len(set(answers)) == 1, what
        body = json.dumps({"id": raw.decode(errors="surrogateescape")}).encode()
        found = rig.request(here, OWN, name, "vault", "get", body)
        assert found == {"text": f"of {OWN}"} or "error" in found, f"{what}: {found}"
    count(rig, "ids", 3 * len(STRANGE))


def test_objects_of_another_tenant_are_as_if_they_never_were(rig: Rig) -> None:
    """The same bytes, and the same time: medians of a few hundred, in turns."""
    name = attacker("agent")
    here, there = rig.enter(OWN, name), rig.enter(FOREIGN, VICTIM)
    assert "text" in rig.request(there, FOREIGN, VICTIM, "vault", "keep", b'{"id":"secret-0001","text":"of zeta"}')
    box = f"{ROOT_TOKEN}.{OWN}.box.{name}.same"
    sid = here.subscribe(box)
    times: dict[bytes, list[float]] = {b"secret-0001": [], b"secret-0002": []}
    answers = set()
    for n in range(600):
        known = len(here.of(sid))
        which = b"secret-0001" if n % 2 else b"secret-0002"
        began = time.perf_counter()
        here.publish(f"{ROOT_TOKEN}.{OWN}.rpc.{name}.vault.get", b'{"id":"%s"}' % which, box)
        here.wait(lambda known=known: len(here.heard) > known, 10, "an answer")
        times[which].append(time.perf_counter() - began)
        answers.add((here.heard[-1].headers, here.heard[-1].data))
        here.heard = here.heard[-1:]
    foreign, never = (statistics.median(of[50:]) for of in times.values())
    assert len(answers) == 1 and b'"not_found"' in answers.pop()[1]
    assert 0.8 < foreign / never < 1.25, f"{foreign * 1e6:.0f} µs for another tenant's, {never * 1e6:.0f} µs for one that never was"
    count(rig, "objects", 600)


# ---- names


def test_strange_names_in_subjects_reach_nobody_else(rig: Rig) -> None:
    """Bytes that no client library would send, where a name stands. The server may close the connection, which is a refusal too."""
    name = attacker("agent")
    before, n = rig.kept(), 0
    heard_by(rig, b"nothing")
    closed = 0
    for what, raw in STRANGE.items():
        wire = rig.enter(OWN, name)
        base = f"{ROOT_TOKEN}.{OWN}.".encode()
        me = name.encode()
        places = [base + b"to." + raw + b"." + me + b".x", base + b"grp." + raw + b"." + me + b".x", base + b"all." + me + b"." + raw,
                  base + b"rpc." + me + b"." + raw + b".get", base + b"rpc." + me + b".vault." + raw, base + b"rpc." + me + b".vault.get." + raw,
                  b"mst." + raw + b".all." + me + b".x"]
        for place in places:
            n += 1
            try:
                if wire.closed:
                    wire = rig.enter(OWN, name)
                wire.publish(place, b"names")
                wire.flush(5)
            except Refused:
                closed += 1
                wire.closed = True
            except AssertionError:  # the server waits for the rest of what it takes for one long message
                wire.close()
                closed += 1
        if not wire.closed:
            wire.close()
    rig.mouth.publish("matrix.mark", b"named")
    rig.mouth.flush()
    rig.spy.wait(lambda: any(m.data == b"named" for m in rig.spy.heard), 20, "the mark")
    strays = [m for m in rig.spy.heard if b"names" in m.data and not m.subject.startswith(f"{ROOT_TOKEN}.{OWN}.")]
    foreign = [m for m in rig.spy.heard if m.subject.startswith(f"{ROOT_TOKEN}.{FOREIGN}.") and ".evt._." not in m.subject]
    assert strays == [] and foreign == [] and rig.kept() == before
    assert closed < n, "every connection was closed: nothing was tried"
    count(rig, "names in subjects", n)


def test_names_that_join_alike_are_kept_apart(rig: Rig) -> None:
    """a and b_c are not a_b and c; a tenant named like a word of the subjects is a tenant."""
    wires = {(tenant, agent): rig.enter(tenant, agent) for tenant, agents in CONFUSABLE.items() for agent in agents}
    for (tenant, agent), wire in wires.items():
        body = json.dumps({"id": "who", "text": tenant}).encode()
        assert rig.request(wire, tenant, agent, "vault", "keep", body) == {"text": tenant}
    for (tenant, agent), wire in wires.items():
        assert rig.request(wire, tenant, agent, "vault", "get", b'{"id":"who"}') == {"text": tenant}
    n = 0
    for (tenant, agent), wire in wires.items():
        tried = {subject.replace(f".{OWN}.", f".{other}.").replace(f".{FOREIGN}.", f".{tenant}.")
                 for other, named in wires for subject in literals(named)}
        for subject in tried:
            wire.publish(subject, b"joined")
        wire.flush()
        refused = {subject for what, subject, _ in wire.refusals if what == "publish"}
        assert refused == {subject for subject in tried if not may(PUBLISHES["agent"], rig.names(tenant, agent), subject)}, f"{tenant}/{agent}"
        n += len(tried)
    count(rig, "names that join", n)


def test_names_that_are_none_get_no_credentials(rig: Rig, tmp_path: Path) -> None:
    bad = [raw.decode(errors="surrogateescape") for raw in STRANGE.values() if b"\0" not in raw and raw not in (b"VICTIM", b"T")]
    before = rig.site.postgres.query("SELECT count(*) FROM muster.credentials")
    for name in bad:
        for argv in (["agent", "add", OWN, name], ["agent", "add", name, "x"], ["tenant", "add", name]):
            done = rig.site.cli(*argv, *(["--out", str(tmp_path / "x")] if argv[0] == "agent" else []), check=False)
            assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stderr.count("\n") == 1, f"{argv}: {done}"
            assert not (tmp_path / "x").exists()
    assert rig.site.postgres.query("SELECT count(*) FROM muster.credentials") == before
    done = rig.site.cli("agent", "add", FOREIGN, attacker("operator"), "--role", "operator", "--out", str(tmp_path / "x"), check=False)
    assert done.returncode == 1 and "already_exists" in done.stderr
    count(rig, "names without credentials", 3 * len(bad) + 1)


# ---- logins


def tampered(login: Login, path: Path, change: Callable[[dict[str, object]], None]) -> Login:
    """The same creds with other claims, and the signature of the old ones."""
    assert login.creds
    text = login.creds.read_text()
    jwt = next(line for line in text.splitlines() if line.count(".") == 2)
    head, claims, signature = jwt.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    change(said)
    forged = base64.urlsafe_b64encode(json.dumps(said, separators=(",", ":")).encode()).decode().rstrip("=")
    path.write_text(text.replace(jwt, f"{head}.{forged}.{signature}"))
    return Login(path)


def test_nobody_gets_in_with_what_was_not_given_to_him(rig: Rig, tmp_path: Path) -> None:
    login = rig.login(OWN, attacker("agent"))
    forged = [Login(), Login(options={"user": "", "pass": ""}), Login(options={"user": "broker", "pass": ""}), Login(options={"user": "system", "pass": "system"}),
              Login(options={"user": f"{OWN}.{VICTIM}", "pass": "x"}), Login(options={"user": f"{FOREIGN}.{VICTIM}"}), Login(options={"auth_token": "x"}),
              Login(options={"auth_token": "mst_" + "0" * 40}), Login(options={"jwt": "x.y.z", "sig": "x"}), Login(options={"nkey": "U" + "A" * 55, "sig": "x"}),
              Login(options={"jwt": ".".join(["eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0", "e30", ""]), "sig": ""})]
    if rig.form == "callout":
        token = str(login.options["auth_token"])
        sentinel = login.creds
        forged += [Login(sentinel), Login(options={"auth_token": token}), Login(sentinel, {"auth_token": token[:-1]}), Login(sentinel, {"auth_token": token + "x"}),
                   Login(sentinel, {"auth_token": ""}), Login(sentinel, {"auth_token": token.upper()}), Login(sentinel, {"auth_token": f"{FOREIGN}.{VICTIM}"}),
                   Login(sentinel, {"user": f"{FOREIGN}.{VICTIM}", "pass": "x"}), Login(sentinel, {"auth_token": "' OR true --"}),
                   Login(sentinel, {"auth_token": "x" * 3000})]
    elif rig.form == "static":
        password = login.options["pass"]
        forged += [Login(options={"user": f"{FOREIGN}.{attacker('agent')}", "pass": password}), Login(options={"user": f"{OWN}.{VICTIM}", "pass": password}),
                   Login(options={"user": f"{OWN}.{attacker('agent')}\0", "pass": password}), Login(options={"user": "broker", "pass": password})]
    else:
        forged += [tampered(login, tmp_path / f"{n}.creds", change) for n, change in enumerate(CLAIMS)]
        forged.append(Login(options=login.connect("another nonce")))
    let_in = []
    for n, attempt in enumerate(forged):
        try:
            rig.wire(attempt, f"forged-{n}")
            let_in.append(n)
        except Refused as refused:
            assert "authorization" in str(refused).lower() or "authentication" in str(refused).lower() or "closed" in str(refused).lower(), str(refused)
    assert let_in == []
    count(rig, "logins", len(forged))


def _set(key: str, value: object) -> Callable[[dict[str, object]], None]:
    def change(claims: dict[str, object]) -> None:
        inner = claims["nats"]
        assert isinstance(inner, dict)
        if key in ("name", "exp", "sub", "iss"):
            claims[key] = value
        else:
            inner[key] = value

    return change


CLAIMS = [_set("name", VICTIM), _set("tags", [f"tenant:{FOREIGN}", "role:agent"]), _set("tags", ["tenant:*", "role:operator"]),
          _set("pub", {"allow": [">"]}), _set("sub", {"allow": [">"]}), _set("exp", 4102444800), _set("issuer_account", "A" * 56), _set("iss", "A" * 56)]
