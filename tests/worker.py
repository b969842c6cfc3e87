"""An agent as a process of its own, which tests stop and kill: says hello, beats, and completes what it is assigned after a while.

    python3 tests/worker.py URL CREDS TENANT NAME BEAT HOLD

Each thing that happens is a line of JSON: what, and what it knows of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import nats
from nats.aio.msg import Msg

url, creds, tenant, name, beat, hold = sys.argv[1:]
PREFIX = f"mst.{tenant}"


def tell(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


async def main() -> None:
    nc = await nats.connect(url, user_credentials=creds, inbox_prefix=f"{PREFIX}.box.{name}".encode(), max_reconnect_attempts=-1, reconnect_time_wait=0.1)

    async def ask(service: str, verb: str, **body: Any) -> Any:
        for _ in range(60):
            try:
                return json.loads((await nc.request(f"{PREFIX}.rpc.{name}.{service}.{verb}", json.dumps(body).encode(), timeout=2)).data)
            except Exception:  # noqa: BLE001 nobody answers: again
                await asyncio.sleep(0.2)

    async def work(message: Msg) -> None:
        task = json.loads(message.data)
        tell("assigned", task_id=task["task_id"], epoch=task["epoch"])
        await asyncio.sleep(float(hold))
        tell("complete", answer=await ask("task", "complete", task_id=task["task_id"], epoch=task["epoch"], result=[name, task["epoch"]]))

    await nc.subscribe(f"{PREFIX}.to.{name}._muster.task_assignment", cb=work)
    await nc.flush()
    tell("hello", answer=await ask("presence", "hello", session=f"{name}-{os.getpid()}"))
    while True:
        await asyncio.sleep(float(beat))
        await nc.publish(f"{PREFIX}.rpc.{name}.presence.beat", b"{}")


asyncio.run(main())
