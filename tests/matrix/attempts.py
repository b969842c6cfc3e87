"""The attempts, generated: every subject class × own and foreign tenant × whose name × form. What is to come of each, expected.py says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from harness import ROOT_TOKEN as R
from matrix.expected import CLASSES
from matrix.rig import FOREIGN, OWN

VICTIM = "victim"


@dataclass(frozen=True)
class Attempt:
    subject: str
    queue: str = ""

    def __str__(self) -> str:
        return f"{self.subject}{f' in queue group {self.queue}' if self.queue else ''}"


def filled(tenant: str, tokens: Iterable[str], sender: str, receiver: str) -> str:
    stands = {"S": sender, "B": receiver}
    return ".".join([R, tenant, *(stands.get(token, token) for token in tokens)])


def literals(name: str) -> Iterator[str]:
    """A subject of each class in each tenant, under one's own name and under others'."""
    seen = set()
    senders = (name, VICTIM, "_muster", f"_op_{name}", f"_op_{VICTIM}")
    for tokens, tenant, sender, receiver in product(CLASSES.values(), (OWN, FOREIGN), senders, (name, VICTIM)):
        subject = filled(tenant, tokens, sender, receiver)
        if subject not in seen:
            seen.add(subject)
            yield subject


def stored() -> Iterator[str]:
    """What only brokers write, into streams that republish it."""
    for tenant in (OWN, FOREIGN, "evt", "rpc"):
        yield f"{R}._in.{tenant}.evt.service.event.key"
        yield f"{R}._in.{tenant}.cdc.main.public.orders.insert._"
        yield f"{R}._in.{tenant}.msg.{VICTIM}"
        yield f"{R}._in.{tenant}.pres.0.join.{VICTIM}"
        yield f"{R}._in.{tenant}.audit.service.verb.{VICTIM}"
        yield f"{R}._in.{tenant}.nothing.x"


def servers_own(streams: Iterable[str]) -> Iterator[str]:
    """What nats-server and its clients keep for themselves."""
    yield from ("$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.USER.AUTH", "$SYS.REQ.USER.INFO", "$SYS.REQ.CLAIMS.UPDATE",
                "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.ACCOUNT.x.CONNECT", "$SRV.PING", "$SRV.INFO", "$SRV.INFO.muster", "$SRV.STATS.muster.x",
                "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.TEMPLATE.NAMES", "$JS.API.META.LEADER.STEPDOWN",
                "$JS.ACK.EVT.c.1.1.1.1.1", "$JS.FC.EVT.c.x", "$JS.SNAPSHOT.RESTORE.EVT.x", "$O.bucket.C.x", "$MQTT.sub.x", "$NRG.V.x",
                "_INBOX.x", "_INBOX.x.1", "_R_.x.y", "_GR_.x.y", f"{R}._muster.peers", f"{R}._muster.x", R, f"{R}.{OWN}", f"{R}.{FOREIGN}", f"{R.upper()}.{OWN}.all.{VICTIM}.x", "x", "x.y")
    for stream in streams:
        for verb in ("PURGE", "DELETE", "UPDATE", "CREATE", "INFO", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE"):
            yield f"$JS.API.STREAM.{verb}.{stream}"
        yield f"$JS.API.CONSUMER.CREATE.{stream}"
        yield f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.c"
        yield f"$JS.API.DIRECT.GET.{stream}"
        if stream.startswith("KV_"):
            yield f"$KV.{stream.removeprefix('KV_')}.forged"


def publishes(name: str, streams: Iterable[str]) -> Iterator[Attempt]:
    for subject in (*literals(name), *stored(), *servers_own(streams)):
        yield Attempt(subject)


def wildcards() -> Iterator[str]:
    yield from (">", "*", "*.>", "*.*", f"{R}.>", f"{R}.*", f"{R}.*.>", f"{R}.*.*", "$SYS.>", "$JS.>", "$JS.API.>", "$KV.>", "$SRV.>", "$O.>", "_INBOX.>",
                "_R_.>", f"{R}._in.>", f"{R}.*.rpc.*.*.*", f"{R}.*.rpc.*.*.>")
    for tenant in (OWN, FOREIGN):
        yield from (f"{R}.{tenant}.>", f"{R}.{tenant}.*", f"{R}.{tenant}.*.>", f"*.{tenant}.>", f"{R}._in.{tenant}.>", f"{R}._in.{tenant}.evt.>")
    for tokens in CLASSES.values():
        depth = len(tokens)
        head = 2 if tokens[0] == "log" else 1
        for tenant in (OWN, FOREIGN, "*"):
            yield ".".join([R, tenant, *tokens[:head], ">"])
            yield ".".join([R, tenant, *tokens[:head], *["*"] * (depth - head)])
            yield ".".join([R, tenant, *["*"] * (depth - 1), VICTIM])


def subscribes(name: str, streams: Iterable[str]) -> Iterator[Attempt]:
    """Each plainly, in the brokers' queue group and in one of its own: a queue subscription slips past deny rules."""
    subjects = dict.fromkeys((*literals(name), *stored(), *servers_own(streams), *wildcards()))
    for subject, queue in product(subjects, ("", "muster", "workers")):
        yield Attempt(subject, queue)


def replies(streams: Iterable[str]) -> Iterator[str]:
    """Where the answer to somebody's message would do harm."""
    for stream in streams:
        for verb in ("PURGE", "DELETE", "MSG.DELETE"):
            yield f"$JS.API.STREAM.{verb}.{stream}"
        if stream.startswith("KV_"):
            yield f"$KV.{stream.removeprefix('KV_')}.forged"
    yield from ("$JS.API.STREAM.NAMES", "$SYS.REQ.SERVER.PING", "$SRV.PING", "_INBOX.x", f"{R}.{OWN}.box.{VICTIM}.x", f"{R}.{FOREIGN}.box.{VICTIM}.x",
                f"{R}.{OWN}.all._muster.x", f"{R}.{FOREIGN}.all.{VICTIM}.x", f"{R}.{FOREIGN}.to.{VICTIM}.{VICTIM}.x",
                f"{R}.{FOREIGN}.rpc.{VICTIM}.vault.purge", f"{R}.{OWN}.cdc.main.public.orders.insert._", f"{R}.{FOREIGN}.evt.service.event.key",
                f"{R}.{OWN}.msg.{VICTIM}", f"{R}.{FOREIGN}.msg.{VICTIM}")
    for subject in stored():
        if "nothing" not in subject:
            yield subject


# What a header might have a server, a stream or a broker do. {tenant} is the foreign one.
HEADERS = {
    "a position": "Nats-Sequence: 999999\r\nNats-Last-Sequence: 999998\r\nNats-Stream: EVT\r\nNats-Subject: mst.{tenant}.all.victim.x",
    "a fence": "Nats-Expected-Last-Sequence: 0",
    "a fence far off": "Nats-Expected-Last-Sequence: 18446744073709551615",
    "a fence of the subject": "Nats-Expected-Last-Subject-Sequence: 0",
    "a fence of the last id": "Nats-Expected-Last-Msg-Id: x",
    "another stream": "Nats-Expected-Stream: MSG_{tenant}",
    "a rollup of all": "Nats-Rollup: all",
    "a rollup of the subject": "Nats-Rollup: sub",
    "an id twice": "Nats-Msg-Id: same",
    "a time to live": "Nats-TTL: 1s",
    "a schedule": "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: mst.{tenant}.all.victim.headers",
    "a schedule for streams": "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: $JS.API.STREAM.PURGE.MSG_{tenant}",
    "a batch": "Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1",
    "a counter": "Nats-Incr: +1",
    "a marker": "Nats-Marker-Reason: Purge\r\nKV-Operation: PURGE",
    "a trace to another tenant": "Nats-Trace-Dest: mst.{tenant}.all.victim.headers",
    "a trace to a box": "Nats-Trace-Dest: mst.{tenant}.box.victim.headers",
    "a trace only, to a stream's deletion": "Nats-Trace-Dest: $JS.API.STREAM.DELETE.MSG_{tenant}\r\nNats-Trace-Only: true",
    "an identity": 'Nats-Request-Info: {{"acc":"SYS","user":"victim"}}',
    "another sender": "Muster-From: victim\r\nMuster-Type: x\r\nMuster-Cast: 1",
    "another position of Muster's": "Muster-Seq: 1\r\nMuster-Epoch: 1\r\nMuster-Lsn: 0/0/0\r\nMuster-Key: x",
    "an error": "Nats-Service-Error-Code: 403\r\nNats-Service-Error: no",
    "a status": "Status: 503\r\nDescription: No Responders",
    "flow control": "Nats-Consumer-Stalled: $JS.API.STREAM.PURGE.MSG_{tenant}",
}


def header(name: str) -> bytes:
    return b"NATS/1.0\r\n" + HEADERS[name].format(tenant=FOREIGN).encode() + b"\r\n\r\n"


# As bytes of a subject's token, and as ids in bodies.
STRANGE = {
    "a dot": b"a.b", "a star": b"*", "all": b">", "a blank": b"a b", "a tab": b"a\tb", "NUL": b"a\0b", "another command": b"a 0\r\n\r\nPUB mst.zeta.all.victim.names",
    "a line break": b"a\nb", "UTF-8": "ä€𝄞".encode(), "broken UTF-8": b"\xff\xfe\x80", "no token": b"", "two dots": b"a..b", "dots alone": b"..", "4 KB": b"x" * 4096,
    "the stored": b"_in", "the broker": b"_muster", "the other tenant": b"zeta.all.victim", "the server's": b"$JS.API.STREAM.PURGE.EVT", "a template": b"{{name()}}",
    "a quote": b"'; DROP TABLE muster.tenants; --", "a path": b"../../zeta", "percent": b"%2e%s%n", "upper case": b"VICTIM", "a letter of Muster's": b"T",
}
# Bodies that are none, or more than a body may be.
BODIES = {
    "no JSON": b"id", "half a map": b'{"id":', "a list": b"[1]", "a number": b"1", "null": b"null", "a key twice": b'{"id":"a","id":"b"}', "NUL in it": b'{"id":"a\0b"}',
    "a control character": b'{"id":"a\x01"}', "broken UTF-8": b'{"id":"\xff\xfe"}', "deep": b'{"id":' + b"[" * 10000 + b"]" * 10000 + b"}", "half a surrogate": b'{"id":"\\ud800"}',
    "many keys": b"{" + b",".join(b'"k%d":1' % n for n in range(2000)) + b"}", "many elements": b'{"id":[' + b"1," * 5000 + b"1]}", "something behind": b'{"id":"a"} x',
    "the wrong type": b'{"id":1}', "an unknown field": b'{"id":"a","tenant":"zeta"}', "a tenant of its own": b'{"id":"a","tenant_id":"zeta","from":"victim"}',
    "a long text": b'{"id":"' + b"x" * 5000 + b'"}', "nothing needed": b"{}", "packed junk": b"\xdf\xff\xff\xff\xff", "packed, cut off": b"\x82\xa2id", "packed, a bomb": b"\x91" * 5000,
    "packed, twice": b"\x82\xa2id\xa1a\xa2id\xa1b", "packed, an extension": b"\x81\xa2id\xc7\x01\x01x", "a megabyte": b'{"id":"' + b"x" * 1_000_001 + b'"}', "a byte order mark": b'\xef\xbb\xbf{"id":"a"}',
}
