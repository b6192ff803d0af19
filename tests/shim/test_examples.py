"""Every manifest of examples/ is admitted, with the numbers that docs/policies.md tells."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from hostport.credentials import Credentials
from shim.render import RenderOptions, render

EXAMPLES = Path(__file__).parents[2] / "examples"
PODS = {
    "distributed-db.yaml": [(f"distributed-db-{i}", {"primary": 10000 + i, "metrics": 10100 + i}) for i in range(3)],
    "edge-proxy.yaml": [("edge-proxy-", {"https": 8443})],
    "game-server.yaml": [("game-server-", {"game": 20000 + i, "game-tcp": 20000 + i}) for i in range(3)],
    "training-job.yaml": [(f"training-{i}-", {"rendezvous": 25500 + i}) for i in range(4)],
}


def test_every_manifest_is_in_the_table() -> None:
    assert sorted(PODS) == sorted(path.name for path in EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("name", PODS)
def test_the_pods_of_an_example_get_their_numbers(name: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    options = RenderOptions(files=[str(EXAMPLES / name)], output="json", allocator=None, credentials=Credentials())

    code = render(options, out, err)

    assert (code, err.getvalue()) == (0, "")
    assert [
        (
            pod["metadata"].get("name") or pod["metadata"]["generateName"],
            {port["name"]: port["hostPort"] for port in pod["spec"]["containers"][0]["ports"]},
        )
        for pod in json.loads(out.getvalue())["items"]
    ] == PODS[name]
