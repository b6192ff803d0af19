"""What a shim has not answered when it dies, the API server asks again: no Pod slips through unanswered.

Each case has a configuration of its own, in which one entry of the real one asks where nobody listens.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from e2e.api import Kubectl, Run
from e2e.control_plane import ControlPlane, create_namespace
from e2e.manifests import allocations, annotation, hostport, numbers, pod, port
from e2e.processes import free_ports, wait_for
from e2e.product import WEBHOOK, Product

FIRST, AGAIN = "pods.hostport.io", "again.pods.hostport.io"
FORGED = "0123456789abcdef0123456789abcdef"
PROBED = "probe"


def without_an_answer(plane: ControlPlane, product: Product, entry: str) -> Kubectl:
    """A namespace in which this entry is never answered, once the API server knows."""
    name = f"unanswered-{entry.split('.', maxsplit=1)[0]}"
    [dead] = free_ports(1)
    configuration = yaml.safe_load(WEBHOOK.read_text(encoding="utf-8"))
    configuration["metadata"]["name"] += f"-{name}"
    for webhook in configuration["webhooks"]:
        base = f"https://127.0.0.1:{dead}" if webhook["name"] == entry else product.shim.base
        webhook["clientConfig"] = {"url": f"{base}/mutate", "caBundle": plane.pki.ca_bundle}
        webhook["namespaceSelector"] = {"matchLabels": {"e2e.hostport.io/unanswered": name}}
    kubectl = create_namespace(
        plane, name, labels={"hostport.io/webhook": "ignore", "e2e.hostport.io/unanswered": name}
    )
    plane.kubectl.apply(configuration)
    wait_for("the API server to know", lambda: preview(kubectl, asking(f"{PROBED}-0")), is_judged)
    return kubectl


def is_judged(run: Run) -> bool:
    return run.code != 0 or "hostNetwork" in run.json["spec"]


def asking(name: str, **annotations: str) -> dict[str, Any]:
    wanted = hostport(policy="Dynamic", min_port=24000, max_port=24099)
    return pod(
        name, wanted | {f"hostport.io/{key.replace('_', '-')}": value for key, value in annotations.items()}, port(80)
    )


def preview(kubectl: Kubectl, manifest: dict[str, Any]) -> Run:
    return kubectl.try_apply(manifest, options=["--dry-run=server", "-o", "json"])


def create(kubectl: Kubectl, manifest: dict[str, Any]) -> Run:
    return kubectl.run("create", "-o", "json", "-f", "-", stdin=json.dumps(manifest))


@dataclass(frozen=True)
class Coming:
    """How a Pod comes: fields of its metadata, flags of kubectl."""

    metadata: dict[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


OWNED = {
    "manager": "backup",
    "operation": "Update",
    "apiVersion": "v1",
    "time": "2026-11-29T00:00:00Z",
    "fieldsType": "FieldsV1",
    "fieldsV1": {"f:metadata": {"f:labels": {}}},
}
HOW_IT_COMES = {
    "as it is": Coming(),
    "with the fields of a backup": Coming({"managedFields": [OWNED]}),
    "with fields that are to be forgotten": Coming({"managedFields": [{}]}),
    "with no fields": Coming({"managedFields": []}),
    "in another's name": Coming(flags=("--field-manager=hostport-operator",)),
}


@pytest.fixture(scope="module")
def first_unanswered(plane: ControlPlane, product_session: Product) -> Kubectl:
    return without_an_answer(plane, product_session, FIRST)


def test_a_call_without_an_answer_is_made_again(first_unanswered: Kubectl) -> None:
    run = create(first_unanswered, asking("web-1"))

    assert run.code == 0, run.stderr
    assert numbers(run.json) == [24000]
    assert annotation(run.json, "allocation-id")


@pytest.mark.parametrize("how", HOW_IT_COMES.values(), ids=HOW_IT_COMES)
def test_a_forged_id_does_not_pass_for_an_answer(first_unanswered: Kubectl, how: Coming) -> None:
    """The second entry asks about a Pod that brought an id, whatever its author says of who owns which field."""
    name = f"forged-{[*HOW_IT_COMES.values()].index(how)}"
    made = asking(name, allocation_id=FORGED)
    made["metadata"] |= how.metadata
    stored = first_unanswered.run("create", *how.flags, "-o", "json", "-f", "-", stdin=json.dumps(made)).json

    assert annotation(stored, "allocation-id") != FORGED
    assert [each["hostPort"] for each in allocations(stored)] == numbers(stored)


def test_a_forged_id_that_is_applied_by_the_server_does_not_pass_for_an_answer(first_unanswered: Kubectl) -> None:
    made = asking("applied-1", allocation_id=FORGED)
    stored = first_unanswered.try_apply(made, options=["--server-side", "-o", "json"]).json

    assert annotation(stored, "allocation-id") != FORGED
    assert [each["hostPort"] for each in allocations(stored)] == numbers(stored)


def test_a_dry_run_is_previewed_by_one_call(plane: ControlPlane, first_unanswered: Kubectl, kubectl: Kubectl) -> None:
    """It has no id to tell that it was answered, and would be taken for a Pod that came with host ports."""
    for each in (first_unanswered, kubectl):
        shown = preview(each, asking("web-3")).json
        assert [entry["containerPort"] for entry in allocations(shown)] == [80]


def test_an_id_that_was_brought_is_asked_about_twice_and_keeps_one_claim(
    product: Product, kubectl: Kubectl, namespace: str
) -> None:
    stored = create(kubectl, asking("web-1", allocation_id=FORGED)).json

    (held,) = product.allocator.allocations(namespace)
    assert held.id == annotation(stored, "allocation-id")
    assert [each.host_port for each in held.ports] == numbers(stored)


def test_whoever_was_answered_is_not_asked_about_again(plane: ControlPlane, product: Product) -> None:
    """But for a Pod that brought an id, which is refused: nobody knows whose it is."""
    kubectl = without_an_answer(plane, product, AGAIN)
    no_ports = copy.deepcopy(asking("web-3"))
    del no_ports["spec"]["containers"][0]["ports"]

    assert create(kubectl, asking("web-1")).code == 0
    assert preview(kubectl, asking("web-2")).code == 0
    assert create(kubectl, no_ports).code == 0
    refused = create(kubectl, asking("web-4", allocation_id=FORGED))
    assert refused.code != 0
    assert f'failed calling webhook "{AGAIN}"' in refused.stderr
