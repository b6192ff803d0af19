"""Keeps a Pod off nodes, by its required node affinity. Pure.

Rules:

* Terms are alternatives, so that each of them gets the names. A term without requirements matches nothing and stays so.
* A requirement has one name: the API server takes no two in one.
* What stands in the affinity stays as it is. A requirement that is there already is not written again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shim.outcomes import AddOp, Op
from shim.pods import Json

_WAY = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")


def steering_ops(spec: Json, names: Sequence[str]) -> Iterator[Op]:
    """What keeps a Pod off some nodes. spec: the Pod's. names: those of the nodes, one at least."""
    away = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]
    found: Any = spec
    for at, key in enumerate(_WAY):
        found = found.get(key)
        if found is None:
            yield AddOp("/spec/" + "/".join(_WAY[: at + 1]), _nested(_WAY[at + 1 :], [{"matchFields": away}]))
            return
    for at, term in enumerate(found):
        if term.get("matchExpressions") or term.get("matchFields"):
            yield from _term_ops(f"/spec/{'/'.join(_WAY)}/{at}/matchFields", term.get("matchFields") or [], away)


def _nested(keys: Sequence[str], value: Any) -> Any:
    """The value as objects in objects have it, under these keys."""
    for key in reversed(keys):
        value = {key: value}
    return value


def _term_ops(pointer: str, fields: Sequence[Json], away: Sequence[Json]) -> Iterator[Op]:
    new = [each for each in away if each not in fields]
    if not fields:
        yield AddOp(pointer, new)
        return
    for at, each in enumerate(new, start=len(fields)):
        yield AddOp(f"{pointer}/{at}", each)
