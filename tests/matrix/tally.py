"""How many attempts were made: (which server and form, of what kind) -> number."""

from __future__ import annotations

from collections import Counter

from matrix.rig import Rig

tally: Counter[tuple[str, str]] = Counter()


def count(rig: Rig, kind: str, n: int) -> None:
    tally[f"nats-server {'.'.join(map(str, rig.release))}, {rig.form}", kind] += n
