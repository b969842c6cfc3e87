"""What each role may, written from INTERFACE 2 and 2.2 and from nothing else: the oracle against which the product is tried.

The letters: R root, T the tenant of the credential, A its name, O `_op_` and its name. A pattern is one that NATS knows; what is not named
is refused. `tests/matrix/roles.c` prints the product's own table; that both are the same list of roles, and that no subject class of
the product is unknown here, is the first thing that the matrix tries.
"""

from __future__ import annotations

SPEAKS = ["R.T.rpc.A.>", "R.T.all.A.>", "R.T.to.*.A.>", "R.T.grp.*.A.>"]
AGENT_HEARS = ["R.T.box.A.>", "R.T.all.>", "R.T.to.A.>", "R.T.grp.>", "R.T.msg.A", "R.T.evt.>", "R.T.cdc.>", "R.T.log.all.>",
               "R.T.log.to.A.>", "R.T.log.grp.>", "R.T.sub.A.>"]
TENANT_HEARS = ["R.T.all.>", "R.T.to.>", "R.T.grp.>", "R.T.msg.>", "R.T.evt.>", "R.T.cdc.>", "R.T.audit.>", "R.T.log.>", "R.T.sub.>"]

PUBLISHES = {
    "agent": SPEAKS,
    "observer": ["R.T.rpc.A.>"],
    "user": ["R.T.rpc.A.>"],
    "human": SPEAKS,
    "admin": SPEAKS,
    "operator": [*SPEAKS, "R.*.rpc.O.>"],
    "plugin": ["R.T.box.>"],
}
HEARS = {
    "agent": AGENT_HEARS,
    "observer": [p for p in AGENT_HEARS if ".to." not in p and ".msg." not in p],
    "user": ["R.T.box.A.>", "R.T.sub.A.>"],
    "human": AGENT_HEARS,
    "admin": ["R.T.box.A.>", *TENANT_HEARS],
    "operator": ["R.T.box.A.>", "R.*.box.O.>", *(p.replace("R.T.", "R.*.") for p in TENANT_HEARS)],
    "plugin": ["R.T.rpc.*.A.>"],
}
# What a verb needs (its definition says it), and who may then ask for it. Role user is asked twice: the verb must say `user: true`.
ASKS = {
    "read": {"agent", "observer", "user", "human", "admin", "operator"},
    "write": {"agent", "user", "human", "admin", "operator"},
    "human": {"human", "admin", "operator"},
    "admin": {"admin", "operator"},
}
# INTERFACE 2, the table: the tokens behind R.T, with what stands for a sender, a receiver and the rest.
CLASSES = {
    "rpc": ["rpc", "S", "service", "verb"],
    "box": ["box", "S", "inbox"],
    "all": ["all", "S", "type"],
    "to": ["to", "B", "S", "type"],
    "grp": ["grp", "team", "S", "type"],
    "msg": ["msg", "S"],
    "evt": ["evt", "service", "event", "key"],
    "cdc": ["cdc", "main", "public", "orders", "insert", "_"],
    "audit": ["audit", "service", "verb", "S"],
    "log.all": ["log", "all", "S", "type"],
    "log.to": ["log", "to", "B", "S", "type"],
    "log.grp": ["log", "grp", "team", "S", "type"],
    "sub": ["sub", "S", "n"],
}


def covers(allowed: str, asked: str) -> bool:
    """Whether every subject that asked stands for is one that allowed stands for."""
    a, b = allowed.split("."), asked.split(".")
    for i, token in enumerate(a):
        if token == ">":
            return len(b) > i
        if i >= len(b) or b[i] == ">" or (token != "*" and b[i] != token):
            return False
    return len(a) == len(b)


def may(patterns: list[str], names: dict[str, str], subject: str) -> bool:
    """names: what R, T, A and O are."""
    return any(covers(".".join(names.get(token, token) for token in pattern.split(".")), subject) for pattern in patterns)
