"""What `hostport check --pre` looks at before an installation, and what it makes of it. The judging is pure.

Rules:

* Nothing is changed: what may be made is asked by reviews, which the API server stores nowhere.
* What cannot be looked at is a warning, never a pass.
* The way from the API server to a webhook cannot be tried before there is one. What is known of the platform is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hostport_cli.checks.facts import CONFIGURATIONS, REGISTRATION, Unseen
from hostport_cli.checks.findings import Finding, failed, ok, unseen, warning
from hostport_cli.checks.judging import judge_version
from hostport_cli.checks.looking import api_version, seen
from hostport_cli.cluster import CONFIGURATION, CONFIGURATION_PATH
from hostport_cli.kubectl import Kubectl, together

RBAC, FLOW, APPS = "rbac.authorization.k8s.io", "flowcontrol.apiserver.k8s.io", "apps"
GROUPS: Mapping[str, Sequence[str]] = {
    f"{REGISTRATION}/v1": (CONFIGURATIONS, "validatingadmissionpolicies", "validatingadmissionpolicybindings"),
    f"{FLOW}/v1": ("flowschemas", "prioritylevelconfigurations"),
    "apiextensions.k8s.io/v1": ("customresourcedefinitions",),
    "events.k8s.io/v1": ("events",),
}
"""The APIs beyond those that every cluster has, as group/version."""
CREATED: Sequence[tuple[str, str]] = (
    ("", "namespaces"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    (RBAC, "clusterroles"),
    (RBAC, "clusterrolebindings"),
    (REGISTRATION, CONFIGURATIONS),
    (REGISTRATION, "validatingadmissionpolicies"),
    (REGISTRATION, "validatingadmissionpolicybindings"),
    (FLOW, "flowschemas"),
    (FLOW, "prioritylevelconfigurations"),
)
"""What an installation makes in the whole cluster, as (group, resource)."""
CREATED_INSIDE: Sequence[tuple[str, str]] = (
    (APPS, "deployments"),
    ("", "services"),
    ("", "serviceaccounts"),
    (RBAC, "roles"),
    (RBAC, "rolebindings"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
)
"""And in its own namespace."""
GKE, EKS = "gce://", "aws://"
VPC_CNI = "/apis/apps/v1/namespaces/kube-system/daemonsets/aws-node"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What was found. Sequences name what is missing; empty: nothing is.

    `platform` is the first part of a node's providerID, such as `aws://`; empty: none is known. `has_vpc_cni` tells
    whether Pods of EKS have addresses that its API server reaches.
    """

    version: str | Unseen
    missing_apis: Sequence[str] | Unseen
    missing_rights: Sequence[str] | Unseen
    is_installed: bool | Unseen
    platform: str | Unseen
    has_vpc_cni: bool | Unseen


async def look_before(kubectl: Kubectl, namespace: str) -> ClusterFacts:
    """Looks at everything at once, through kubectl. `namespace` is the one of the installation to be."""
    version, apis, rights, installed, platform, vpc = await asyncio.gather(
        seen(api_version(kubectl)),
        seen(_missing_apis(kubectl)),
        seen(_rights_to_install(kubectl, namespace)),
        seen(_path_exists(kubectl, CONFIGURATION_PATH)),
        seen(_platform(kubectl)),
        seen(_path_exists(kubectl, VPC_CNI)),
    )
    return ClusterFacts(
        version=version,
        missing_apis=apis,
        missing_rights=rights,
        is_installed=installed,
        platform=platform,
        has_vpc_cni=vpc,
    )


async def _missing_apis(kubectl: Kubectl) -> list[str]:
    async def resources(group: str) -> set[str]:
        listed = await kubectl.find(f"/apis/{group}")
        return {each["name"] for each in listed["resources"]} if listed else set()

    found = await together(*map(resources, GROUPS))
    return [
        f"{name}.{group}"
        for group, there in zip(GROUPS, found, strict=True)
        for name in GROUPS[group]
        if name not in there
    ]


async def _rights_to_install(kubectl: Kubectl, namespace: str) -> list[str]:
    asked = [(group, name, "") for group, name in CREATED] + [
        (group, name, namespace) for group, name in CREATED_INSIDE
    ]
    allowed = await together(*(_may_create(kubectl, *each) for each in asked))
    return [
        f"create {name}" + (f".{group}" if group else "")
        for (group, name, _), is_allowed in zip(asked, allowed, strict=True)
        if not is_allowed
    ]


async def _may_create(kubectl: Kubectl, group: str, resource: str, namespace: str) -> bool:
    attributes = {"verb": "create", "group": group, "resource": resource, "namespace": namespace}
    review: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    told = await kubectl.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(told["status"]["allowed"])


async def _path_exists(kubectl: Kubectl, path: str) -> bool:
    return await kubectl.find(path) is not None


async def _platform(kubectl: Kubectl) -> str:
    nodes = (await kubectl.get("/api/v1/nodes?limit=1"))["items"]
    provider, slashes, _ = (nodes[0]["spec"].get("providerID") or "").partition("://") if nodes else ("", "", "")
    return provider + slashes


def judge_before(facts: ClusterFacts) -> Iterator[Finding]:
    """Tells what stands in the way of an installation, in the order of the catalogue."""
    yield from judge_version(facts.version)
    if isinstance(facts.version, Unseen):
        return
    yield _none_missing(
        "pre-apis", facts.missing_apis, "the API server lacks", "upgrade the cluster, or see its --runtime-config"
    )
    yield _none_missing(
        "pre-rights", facts.missing_rights, "you may not", "install with an account that may: cluster-admin"
    )
    yield _is_free(facts.is_installed)
    yield _reachable(facts)


def _none_missing(check: str, missing: Sequence[str] | Unseen, what: str, fix: str) -> Finding:
    if isinstance(missing, Unseen):
        return unseen(check, missing)
    return failed(check, f"{what} {', '.join(missing)}", fix) if missing else ok(check)


def _is_free(is_installed: bool | Unseen) -> Finding:  # noqa: FBT001 - a fact
    if isinstance(is_installed, Unseen):
        return unseen("pre-free", is_installed)
    if is_installed:
        cause = f"there is a MutatingWebhookConfiguration {CONFIGURATION}"
        return warning("pre-free", cause, "look at it by `hostport check`; to renew it, see the page on upgrades")
    return ok("pre-free")


def _reachable(facts: ClusterFacts) -> Finding:
    check = "pre-reachable"
    match facts.platform:
        case Unseen() as hidden:
            return unseen(check, hidden)
        case platform if platform == GKE:
            cause = "a private cluster of GKE reaches its nodes at 443 and 10250 alone, and the webhook listens on 8443"
            return warning(check, cause, "if yours is private, set webhook.port=10250, or open 8443 in its firewall")
        case platform if platform == EKS and isinstance(facts.has_vpc_cni, Unseen):
            return unseen(check, facts.has_vpc_cni)
        case platform if platform == EKS and facts.has_vpc_cni is False:
            cause = "this is EKS without the VPC CNI: its API server reaches no address of the overlay network"
            return warning(check, cause, "set webhook.hostNetwork=true")
        case platform:
            return ok(check, f"nothing is known that is in the way on {platform}" if platform else "")
