"""An agent that asks services, in JSON or in MessagePack."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from client import Client, Message
from harness import ROOT_TOKEN, Site
from pack import pack, unpack


@dataclass(frozen=True)
class Answer:
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def error(self) -> dict[str, Any]:
        """The error, whose two headers must say the same as the body."""
        error = self.body["error"]
        assert self.headers["Nats-Service-Error-Code"] == str(NUMBERS[error["code"]])
        assert self.headers["Nats-Service-Error"]
        return dict(error)


NUMBERS = {"invalid_argument": 400, "not_found": 404, "already_exists": 409, "permission_denied": 403, "failed_precondition": 412,
           "aborted": 409, "resource_exhausted": 429, "unavailable": 503, "deadline_exceeded": 504, "unauthenticated": 401,
           "internal": 500}


def read(message: Message, packed: bool = False) -> Answer:
    return Answer(unpack(message.data) if packed else json.loads(message.data), message.headers)


class Agent:
    def __init__(self, site: Site, tenant: str, name: str) -> None:
        self.tenant, self.name = tenant, name
        self.client = Client(site.nats.url, site.agent(tenant, name), tenant, name)

    def subject(self, service: str, verb: str) -> str:
        return f"{ROOT_TOKEN}.{self.tenant}.rpc.{self.name}.{service}.{verb}"

    def ask(self, service: str, verb: str, body: dict[str, Any] | None = None, *, packed: bool = False, timeout: float = 20) -> Answer:
        data = pack(body or {}) if packed else json.dumps(body or {}).encode()
        return self.ask_raw(service, verb, data, packed=packed, timeout=timeout)

    def ask_raw(self, service: str, verb: str, data: bytes, *, packed: bool = False, timeout: float = 20) -> Answer:
        return read(self.client.request(self.subject(service, verb), data, timeout=timeout), packed)

    def tell(self, service: str, verb: str, body: dict[str, Any] | None = None, reply: str = "") -> None:
        """A request that this call does not wait for."""
        self.client.publish(self.subject(service, verb), json.dumps(body or {}).encode(), reply=reply)

    def box(self, token: str) -> str:
        return f"{ROOT_TOKEN}.{self.tenant}.box.{self.name}.{token}"

    def close(self) -> None:
        self.client.close()


def unseen(site: Site, agent: Agent) -> Agent:
    """The same name over a broker's login: brokers have who is revoked, expired or removed cut by servers that can (2.10 and newer), and
    so it can be seen all the same what they themselves refuse. What they cut is in test_revocation.py."""
    agent.client.close()
    agent.client = Client(site.nats.url, site.nats.folder / "broker.creds", agent.tenant, agent.name)
    return agent
