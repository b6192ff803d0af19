"""What `hostport check --pre` makes of a cluster that has no installation, whole; the seeing itself is in e2e."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostport_cli.checks.before import CREATED, CREATED_INSIDE, ClusterFacts, judge_before
from hostport_cli.checks.facts import Unseen
from hostport_cli.checks.findings import Level

ROOT = Path(__file__).parents[2]
READY = ClusterFacts(
    version="v1.36.1", missing_apis=(), missing_rights=(), is_installed=False, platform="kind://", has_vpc_cni=False
)
FORBIDDEN = Unseen("kubectl: nodes is forbidden", "Forbidden")

CASES: dict[str, tuple[dict[str, Any], tuple[str, str, str]]] = {
    "an old cluster": (
        {"version": "v1.33.0"},
        ("‼ api-version", "v1.33.0 is older than 1.34", "upgrade the cluster"),
    ),
    "an API that is off": (
        {"missing_apis": ["flowschemas.flowcontrol.apiserver.k8s.io/v1"]},
        (
            "✗ pre-apis",
            "the API server lacks flowschemas.flowcontrol.apiserver.k8s.io/v1",
            "upgrade the cluster, or see its --runtime-config",
        ),
    ),
    "somebody who may not": (
        {"missing_rights": ["create namespaces", "create clusterroles.rbac.authorization.k8s.io"]},
        (
            "✗ pre-rights",
            "you may not create namespaces, create clusterroles.rbac.authorization.k8s.io",
            "install with an account that may: cluster-admin",
        ),
    ),
    "one that is there": (
        {"is_installed": True},
        (
            "‼ pre-free",
            "there is a MutatingWebhookConfiguration hostport-operator",
            "look at it by `hostport check`; to renew it, see the page on upgrades",
        ),
    ),
    "GKE": (
        {"platform": "gce://"},
        (
            "‼ pre-reachable",
            "a private cluster of GKE reaches its nodes at 443 and 10250 alone, and the webhook listens on 8443",
            "if yours is private, set webhook.port=10250, or open 8443 in its firewall",
        ),
    ),
    "EKS with an overlay network": (
        {"platform": "aws://"},
        (
            "‼ pre-reachable",
            "this is EKS without the VPC CNI: its API server reaches no address of the overlay network",
            "set webhook.hostNetwork=true",
        ),
    ),
    "EKS whose network may not be seen": (
        {"platform": "aws://", "has_vpc_cni": Unseen("kubectl: daemonsets.apps is forbidden", "Forbidden")},
        (
            "‼ pre-reachable",
            "it could not be checked: kubectl: daemonsets.apps is forbidden",
            "ask with an account that may see it",
        ),
    ),
    "nodes that may not be seen": (
        {"platform": FORBIDDEN},
        (
            "‼ pre-reachable",
            "it could not be checked: kubectl: nodes is forbidden",
            "ask with an account that may see it",
        ),
    ),
}


def test_a_right_is_asked_for_each_kind_that_is_made() -> None:
    """What the chart's values add besides is not looked at, and the page says so."""
    asked = {(group, name) for group, name in (*CREATED, *CREATED_INSIDE)}
    made = {
        (each["apiVersion"].rpartition("/")[0], plural(each["kind"]))
        for file in (ROOT / "deploy" / "base").glob("*.yaml")
        for each in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if each["kind"] != "Kustomization"
    }

    assert asked == made


def plural(kind: str) -> str:
    return f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"


def test_a_cluster_that_is_ready_is_all_green() -> None:
    assert [(each.check.id, each.level) for each in judge_before(READY)] == [
        ("api-answers", Level.OK),
        ("api-version", Level.OK),
        ("pre-apis", Level.OK),
        ("pre-rights", Level.OK),
        ("pre-free", Level.OK),
        ("pre-reachable", Level.OK),
    ]


@pytest.mark.parametrize("case", CASES)
def test_what_stands_in_the_way_is_named_with_a_remedy(case: str) -> None:
    changed, expected = CASES[case]

    bad = [each for each in judge_before(replace(READY, **changed)) if each.level is not Level.OK]

    assert [(f"{each.level.value} {each.check.id}", each.cause, each.fix) for each in bad] == [expected]


def test_a_vpc_cni_is_enough_on_eks() -> None:
    found = list(judge_before(replace(READY, platform="aws://", has_vpc_cni=True)))

    assert found[-1].level is Level.OK


def test_a_cluster_that_does_not_answer_is_the_one_thing_that_is_told() -> None:
    found = list(judge_before(replace(READY, version=Unseen("no cluster"))))

    assert [(each.check.id, each.level) for each in found] == [("api-answers", Level.FAILED)]
