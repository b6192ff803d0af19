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
    "headless-service.yaml": [("lobby-", {"game": 18000 + i}) for i in range(3)],
    "rtp-relay.yaml": [
        ("rtp-relay-", {"rtp": 20000, "signalling": 20100}),
        ("rtp-relay-", {"rtp": 20100, "signalling": 20000}),  # the other protocol's numbers are free
        ("rtp-client-", {}),
    ],
    "sfu.yaml": [("sfu-", {"ice": 19000 + i}) for i in range(2)],
    "worker-pool.yaml": [(f"worker-{i}", {"workers": 26000 + 20 * i}) for i in range(3)],
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
            {
                port["name"]: port["hostPort"]
                for port in pod["spec"]["containers"][0].get("ports", [])
                if "name" in port  # the other numbers of a block have none
            },
        )
        for pod in json.loads(out.getvalue())["items"]
    ] == PODS[name]
