"""A stock NATS client (nats-py) behind plain calls: its event loop runs on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from harness import ROOT_TOKEN

T = TypeVar("T")
_UNLIMITED = 1 << 30


@dataclass(frozen=True)
class Message:
    subject: str
    headers: dict[str, str]
    data: bytes
    reply: str = ""
    stream_seq: int = 0  # 0: heard, not read from a stream


@dataclass
class Subscription:
    """What has arrived so far, in order."""

    messages: list[Message] = field(default_factory=list)


class Client:
    def __init__(self, url: str | list[str], creds: Path | None = None, tenant: str = "", agent: str = "", **options: Any) -> None:
        self.errors: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        if tenant:
            options["inbox_prefix"] = f"{ROOT_TOKEN}.{tenant}.box.{agent}".encode()
        if creds:
            options["user_credentials"] = str(creds)
        self._nc = self._run(nats.connect(
            url, error_cb=self._on_error, max_reconnect_attempts=-1, reconnect_time_wait=0.05, ping_interval=5, **options))

    def _run(self, work: Coroutine[Any, Any, T], deadline: float = 60) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(deadline)

    async def _on_error(self, error: Exception) -> None:
        self.errors.append(str(error) or type(error).__name__)

    @property
    def connected(self) -> bool:
        return bool(self._nc.is_connected)

    def subscribe(self, subject: str, queue: str = "") -> Subscription:
        """Collect everything on subject; returns once the server knows of it."""
        kept = Subscription()

        async def keep(message: Msg) -> None:
            kept.messages.append(_plain(message))

        async def start() -> None:
            await self._nc.subscribe(subject, queue, keep, pending_msgs_limit=_UNLIMITED, pending_bytes_limit=_UNLIMITED)
            await self._nc.flush()

        self._run(start())
        return kept

    def answer(self, subject: str, data: bytes) -> None:
        """Every request with the same, from now on."""
        async def give(message: Msg) -> None:
            await message.respond(data)

        async def start() -> None:
            await self._nc.subscribe(subject, cb=give)
            await self._nc.flush()

        self._run(start())

    def publish(self, subject: str, data: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        async def send() -> None:
            await self._nc.publish(subject, data, reply=reply, headers=headers)
            await self._nc.flush()

        self._run(send())

    def publish_soon(self, subject: str, data: bytes = b"") -> None:
        """Without a word of the server: one that goes meanwhile would give none, and the caller has more to say."""
        asyncio.run_coroutine_threadsafe(self._nc.publish(subject, data), self._loop)

    def publish_many(self, subject: str, n: int, data: bytes, reply: str = "") -> None:
        """The same message n times, as fast as it goes; returns once the server has them all."""
        async def send() -> None:
            for _ in range(n):
                await self._nc.publish(subject, data, reply=reply)
            await self._nc.flush()

        self._run(send())

    def publish_all(self, requests: list[tuple[str, str]], data: bytes = b"{}") -> None:
        """Requests, each with its reply subject, as fast as it goes."""
        async def send() -> None:
            for subject, reply in requests:
                await self._nc.publish(subject, data, reply=reply)
            await self._nc.flush()

        self._run(send())

    def publish_each(self, messages: list[tuple[str, bytes, str]], wait: float = 30) -> None:
        """Subject, body and reply of each, as fast as it goes. wait: for the server to have them; one that went away meanwhile never says so."""
        async def send() -> None:
            for subject, data, reply in messages:
                await self._nc.publish(subject, data, reply=reply)
            await self._nc.flush(wait)

        self._run(send())

    def request(self, subject: str, data: bytes = b"", timeout: float = 20) -> Message:
        return _plain(self._run(self._nc.request(subject, data, timeout=timeout)))

    def read_stream(self, stream: str, subject: str = ">") -> list[Message]:
        """All messages that stream holds under subject, in its order; needs a broker's credentials."""
        return self._run(self._read_stream(stream, subject), 300)

    async def _read_stream(self, stream: str, subject: str) -> list[Message]:
        """Nobody acknowledges, so what a connection that was too slow has lost does not come again: it is read anew from there."""
        found: list[Message] = []
        for tries in range(5):
            start: dict[str, Any] = {"deliver_policy": DeliverPolicy.ALL}
            if found:
                start = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": found[-1].stream_seq + 1}
            config = ConsumerConfig(ack_policy=AckPolicy.NONE, filter_subject=subject, **start)
            puller = await self._pull(stream, subject, config)
            left = (await puller.consumer_info()).num_pending or 0
            more = await self._read_on(puller, left)
            await puller.unsubscribe()
            found += more
            if len(more) == left:
                return found
        raise TimeoutError(f"{stream}: after {tries + 1} readers {left - len(more)} are not read")

    async def _read_on(self, puller: Any, left: int) -> list[Message]:
        """As many as were left, or those before the first that is lost."""
        found: list[Message] = []
        while len(found) < left:
            try:
                batch = await puller.fetch(min(1000, left - len(found)), timeout=10)
            except nats.errors.TimeoutError:
                return found
            for message in batch:
                if message.metadata.sequence.consumer != len(found) + 1:
                    return found
                found.append(_plain(message))
        return found

    async def _pull(self, stream: str, subject: str, config: ConsumerConfig) -> Any:
        """A cluster may give a consumer to a node that was killed a moment ago, and answers nothing then."""
        for seconds in (5, 5, 5, 20):
            try:
                return await self._nc.jetstream(timeout=seconds).pull_subscribe(subject, stream=stream, config=config)
            except (nats.errors.TimeoutError, nats.js.errors.ServiceUnavailableError):
                if seconds == 20:
                    raise
                await asyncio.sleep(1)  # nodes that have just met again have no leader for a moment

    def stream_info(self, stream: str) -> Any:
        return self._run(self._nc.jetstream(timeout=20).stream_info(stream))

    def streams(self) -> dict[str, Any]:
        """The state of every stream, by name."""
        return {str(info.config.name): info.state for info in self._run(self._nc.jetstream(timeout=20).streams_info())}

    def purge(self, stream: str) -> None:
        self._run(self._nc.jetstream(timeout=20).purge_stream(stream))

    def add_stream(self, stream: str, subjects: list[str]) -> None:
        self._run(self._nc.jetstream(timeout=20).add_stream(name=stream, subjects=subjects))

    def delete_message(self, stream: str, seq: int) -> None:
        self._run(self._nc.jetstream(timeout=20).delete_msg(stream, seq))

    def delete_stream(self, stream: str) -> None:
        self._run(self._nc.jetstream(timeout=20).delete_stream(stream))

    def close(self) -> None:
        if self._nc.is_closed:
            return
        try:
            self._run(self._nc.close(), 10)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)


def _plain(message: Msg) -> Message:
    seq = message.metadata.sequence.stream if message.reply.startswith("$JS.ACK.") else 0
    return Message(message.subject, dict(message.headers or {}), message.data, message.reply, seq)
