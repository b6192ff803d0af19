"""When an API server's objects went: all of a store's revisions are in one order."""

from __future__ import annotations

import json

from e2e.control_plane import ControlPlane


def revision(plane: ControlPlane) -> str:
    listed: str = plane.api.ask("GET", "/api/v1/services").json["metadata"]["resourceVersion"]
    return listed


def deleted_at(plane: ControlPlane, path: str, name: str, since: str) -> int:
    """The revision at which an object was deleted."""
    watch = plane.api.ask("GET", f"{path}?watch=true&resourceVersion={since}&timeoutSeconds=1")
    events = [json.loads(line) for line in watch.text.splitlines()]
    (found,) = (
        each["object"]["metadata"]["resourceVersion"]
        for each in events
        if each["type"] == "DELETED" and each["object"]["metadata"]["name"] == name
    )
    return int(found)
