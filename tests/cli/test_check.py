"""What `hostport check` makes of what it has seen, whole. The seeing itself is shown on a real control plane (e2e)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from test_check_before import READY

from hostport.v1 import allocator_pb2 as pb
from hostport_cli.checks import catalogue
from hostport_cli.checks.before import judge_before
from hostport_cli.checks.facts import RIGHTS, Forwarded, InstallationFacts, RequiredRight, ShownCertificate, Unseen
from hostport_cli.checks.findings import Level
from hostport_cli.checks.judging import judge
from hostport_cli.checks.looking import tried_pod
from hostport_cli.cluster import selects, webhook_of
from hostport_cli.commands.check import as_data, lines

ROOT = Path(__file__).parents[2]
NOW, DAY = 1_000_000.0, 86400.0
Status = pb.GetStatusResponse


def status(**fields: Any) -> Status:
    made = Status(
        version="0.1.0",
        start_time=Timestamp(seconds=int(NOW - 3600)),
        cluster="kubernetes",
        serving=True,
        journal=Status.Journal(kind="sqlite"),
        watch=Status.Watch(lag=Duration(seconds=2)),
        lease=Status.Lease(namespace="hostport-system", name="hostport-allocator", identity="uid/1", held=True),
        certificates=[Status.Certificate(name="allocator", expire_time=Timestamp(seconds=int(NOW + 60 * DAY)))],
        callers=[Status.Caller(program="hostport-shim", version="0.1.0", address="10.0.0.7")],
    )
    for name, value in fields.items():
        made.ClearField(name)  # type: ignore[arg-type]
        if value is not None:
            made.MergeFrom(Status(**{name: value}))
    return made


def configuration(**webhook: Any) -> dict[str, Any]:
    made = yaml.safe_load((ROOT / "deploy" / "base" / "webhook.yaml").read_text(encoding="utf-8"))
    webhook_of(made).update(webhook)
    return dict(made)


def lease(namespace: str, holder: str = "uid/1", ago: float = 2) -> dict[str, Any]:
    moment = Timestamp(seconds=int(NOW - ago)).ToJsonString()
    return {"metadata": {"namespace": namespace}, "spec": {"holderIdentity": holder, "renewTime": moment}}


def shim_pod(*, ready: bool = True) -> dict[str, Any]:
    return {"status": {"conditions": [{"type": "Ready", "status": str(ready)}]}}


def pod(*, host_network: bool = True) -> dict[str, Any]:
    port = {"containerPort": 7000, "hostPort": 7000} if host_network else {"containerPort": 80}
    spec = {"hostNetwork": host_network, "containers": [{"name": "check", "ports": [port]}]}
    return {"metadata": {"namespace": "default"}, "spec": spec}


HEALTHY = InstallationFacts(
    version="v1.36.3",
    configuration=configuration(),
    shims=[shim_pod(), shim_pod()],
    shown=ShownCertificate("hostport-shim.hostport-system.svc", NOW + 89 * DAY),
    dry_run=pod(),
    status=status(),
    leases=[lease("hostport-system")],
    rights=[],
    now=NOW,
    program="0.1.0",
)


def told(facts: InstallationFacts) -> str:
    return "\n".join(lines(judge(facts), width=0))


def test_what_is_healthy_is_all_green() -> None:
    assert (
        told(HEALTHY)
        == """\
Kubernetes
✓ the API server answers (v1.36.3)
✓ its version is supported

Webhook
✓ the webhook is installed
✓ a Pod that asks for ports does not start without them
✓ a shim is ready (2 of 2)
✓ the API server can trust the shim's certificate
✓ the shim's certificate is good for a while (89d)
✓ a Pod that asks for a port is given one (it would be 7000)

Allocator
✓ the allocator answers (0.1.0, up 60m)
✓ it serves (cluster kubernetes)
✓ it is the only one
✓ its view of the cluster is current (2s ago)
✓ its ServiceAccount has the rights that it needs
✓ its journal is in order (sqlite)
✓ its clock was not set
✓ its certificates are good for a while (60d)
✓ the versions of shims, allocator and this program fit (0.1.0)

Books
✓ every Pod with ports has room for them

0 failed, 0 warnings, 18 fine"""
    )


def authority(name: str, days: float) -> Status.Certificate:
    return Status.Certificate(name=name, expire_time=Timestamp(seconds=int(NOW + days * DAY)))


X509 = Unseen(
    'kubectl: failed calling webhook "pods.hostport.io": Post "https://x/mutate": tls: failed to verify certificate:'
    " x509: certificate signed by unknown authority"
)
DOWN = Unseen('kubectl: failed calling webhook "pods.hostport.io": ALLOCATOR_UNREACHABLE: no answer from the allocator')
REFUSED = Unseen(
    'kubectl: failed calling webhook "pods.hostport.io": TLS_FAILED: no TLS with the allocator a:1: this shim does not trust'
    " the allocator's certificate: certificate has expired"
)
MISSING = Unseen("kubectl: not found", "NotFound")
FORBIDDEN = Unseen('kubectl: leases is forbidden: User "eve" cannot list resource "leases"', "Forbidden")

BROKEN: dict[str, tuple[InstallationFacts, str]] = {
    "webhook missing": (
        replace(HEALTHY, configuration=MISSING, shown=Unseen("no webhook"), dry_run=pod(host_network=False)),
        ("✗ webhook-installed: there is no MutatingWebhookConfiguration hostport-operator: Pods that ask for ports get"
        " none"),
    ),
    "webhook without a rule for Pods": (
        replace(HEALTHY, configuration=configuration(rules=[])),
        "✗ webhook-installed: MutatingWebhookConfiguration hostport-operator has no webhook for the creation of Pods",
    ),
    "caBundle wrong": (
        replace(HEALTHY, shown=ShownCertificate("shim", NOW + 9 * DAY, "self-signed certificate in chain"), dry_run=X509),
        ("✗ webhook-trusted: the certificate of shim does not come from caBundle: self-signed certificate in chain\n"
        f"✗ webhook-admits: {X509.message}"),
    ),
    "host ports are not forwarded": (
        replace(HEALTHY, forwarded=Forwarded(node="n1", address="10.0.0.1:29999", answers=False)),
        "✗ hostports-forwarded: a Pod runs on n1, and nobody answers at 10.0.0.1:29999",
    ),
    "whether they are could not be tried": (
        replace(HEALTHY, forwarded=Unseen("the Pod did not start within 90 s: ErrImagePull")),
        "‼ hostports-forwarded: it could not be checked: the Pod did not start within 90 s: ErrImagePull",
    ),
    "no shim": (
        replace(HEALTHY, shims=[shim_pod(ready=False)]),
        "✗ shims-ready: none of 1 shim Pods is ready",
    ),
    "fails open": (
        replace(HEALTHY, configuration=configuration(failurePolicy="Ignore"), is_backed=False),
        "‼ webhook-insists: failurePolicy is Ignore, and no admission policy refuses Pods that were given no ports",
    ),
    "fails open, with the policy behind it": (
        replace(HEALTHY, configuration=configuration(failurePolicy="Ignore")),
        "",
    ),
    "allocator down": (
        replace(HEALTHY, status=Unseen("no answer from the allocator: Connection refused"), dry_run=DOWN),
        (f"✗ webhook-admits: {DOWN.message}\n"
        "✗ allocator-answers: no answer from the allocator: Connection refused"),
    ),
    "a certificate is refused": (
        replace(HEALTHY, dry_run=REFUSED),
        f"✗ webhook-admits: {REFUSED.message}",
    ),
    "the last authority ends": (
        replace(HEALTHY, status=status(authorities=[authority("a1", 0.5), authority("b2", 3.0)])),
        "‼ authority-trusted: the last of 2, b2 ends in 3d",
    ),
    "a former authority ends": (
        replace(HEALTHY, status=status(authorities=[authority("a1", 0.5), authority("b2", 300.0)])),
        "",
    ),
    "allocator waits": (
        replace(HEALTHY, status=status(serving=None, waiting_for="the first full view of kubernetes")),
        "✗ allocator-serves: it waits for the first full view of kubernetes",
    ),
    "one that stands by answers": (
        replace(
            HEALTHY,
            status=status(
                serving=None,
                lease=Status.Lease(namespace="hostport-system", identity="uid/2", served_by="hostport-allocator-a"),
            ),
        ),
        "‼ allocator-serves: the one that answers stands by, hostport-allocator-a serves",
    ),
    "watch late": (
        replace(HEALTHY, status=status(watch=Status.Watch(lag=Duration(seconds=12)))),
        "‼ allocator-sees: it was last proven current 12s ago",
    ),
    "watch stale": (
        replace(HEALTHY, status=status(watch=Status.Watch(lag=Duration(seconds=300)))),
        "✗ allocator-sees: it was last proven current 5m ago",
    ),
    "Services unseen": (
        replace(HEALTHY, status=status(watch=Status.Watch(lag=Duration(seconds=2), unseen=["services are not seen"]))),
        "‼ allocator-sees: services are not seen",
    ),
    "watch never proven": (
        replace(HEALTHY, status=status(watch=Status.Watch(relist_count=3))),
        "✗ allocator-sees: it was never proven current",
    ),
    "rights missing": (
        replace(HEALTHY, rights=[RequiredRight("list", "pods"), RequiredRight("update", "leases", "coordination.k8s.io")]),
        "✗ allocator-rights: it may not list pods, update leases.coordination.k8s.io",
    ),
    "rights for certificates missing": (
        replace(
            HEALTHY,
            rights=[RequiredRight("get", "secrets", name="hostport-ca", is_own=True, is_for_certificates=True)],
            status=status(
                certificates=[Status.Certificate(name="ca", expire_time=Timestamp(seconds=int(NOW + 90 * DAY)))]
            ),
        ),
        "✗ allocator-rights: it may not get secrets",
    ),
    "rights for certificates that others make": (
        replace(HEALTHY, rights=[RequiredRight("get", "secrets", name="hostport-ca", is_own=True, is_for_certificates=True)]),
        "",
    ),
    "nobody to ask about rights": (replace(HEALTHY, rights=None), ""),
    "shim certificate ends": (
        replace(HEALTHY, shown=ShownCertificate("shim", NOW + 9 * 3600)),
        "✗ webhook-certificate: it ends in 9h",
    ),
    "shim certificate has ended": (
        replace(HEALTHY, shown=ShownCertificate("shim", NOW - 9 * 3600, "certificate has expired")),
        ("✗ webhook-trusted: the certificate of shim does not come from caBundle: certificate has expired\n"
        "✗ webhook-certificate: it ended 9h ago"),
    ),
    "allocator certificate ends soon": (
        replace(
            HEALTHY,
            status=status(
                certificates=[
                    Status.Certificate(name="authority", expire_time=Timestamp(seconds=int(NOW + 90 * DAY))),
                    Status.Certificate(name="allocator", expire_time=Timestamp(seconds=int(NOW + 3 * DAY))),
                ]
            ),
        ),
        "‼ allocator-certificates: allocator ends in 3d",
    ),
    "two allocators with Leases": (
        replace(HEALTHY, leases=[lease("hostport-system"), lease("other", "uid/9")]),
        "✗ allocator-alone: allocators hold Leases in the namespaces hostport-system, other",
    ),
    "a Lease that nobody renews any more": (
        replace(HEALTHY, leases=[lease("hostport-system"), lease("other", "uid/9", ago=60)]),
        "",
    ),
    "another allocator answers": (
        replace(HEALTHY, leases=[lease("hostport-system", "uid/9")]),
        "✗ allocator-alone: uid/9 holds the Lease, and uid/1 is who answers",
    ),
    "a second webhook configuration": (
        replace(HEALTHY, others=["hostport-operator-old"]),
        "✗ allocator-alone: there are webhook configurations besides: hostport-operator-old",
    ),
    "no Lease": (
        replace(HEALTHY, status=status(lease=None), leases=[]),
        "‼ allocator-alone: it runs without a Lease: nothing keeps out a second one",
    ),
    "journal set aside": (
        replace(HEALTHY, status=status(journal=Status.Journal(kind="sqlite", set_aside="/j.corrupt-1"))),
        "‼ allocator-journal: it was damaged, and set aside as /j.corrupt-1",
    ),
    "disk full": (
        replace(HEALTHY, status=status(journal=Status.Journal(kind="sqlite", unsaved_count=7))),
        "✗ allocator-journal: 7 changes could not be written, and are tried again",
    ),
    "clock set": (
        replace(HEALTHY, status=status(clock_step_count=2)),
        "‼ allocator-clock: it was set, or the allocator stopped, 2 times since its start",
    ),
    "versions apart": (
        replace(HEALTHY, program="0.3.0"),
        "‼ versions-fit: the client is 0.3.0, the allocator 0.1.0: only neighbouring minor versions fit",
    ),
    "no room": (
        replace(HEALTHY, status=status(unplaceable_count=2)),
        "‼ books-placed: 2 claims fit on none of the nodes where their Pods may run",
    ),
    "not called": (
        replace(HEALTHY, dry_run=pod(host_network=False)),
        "✗ webhook-admits: a Pod in namespace default came back unchanged: the webhook was not called",
    ),
    "denied": (
        replace(HEALTHY, dry_run=Unseen('admission webhook "pods.hostport.io" denied the request: RANGE_EXHAUSTED: x')),
        ("‼ webhook-admits: the way is open, the answer is no: admission webhook"
        ' "pods.hostport.io" denied the request: RANGE_EXHAUSTED: x'),
    ),
    "may not look": (
        replace(HEALTHY, leases=FORBIDDEN, rights=FORBIDDEN),
        (f"‼ allocator-alone: it could not be checked: {FORBIDDEN.message}\n"
        f"‼ allocator-rights: it could not be checked: {FORBIDDEN.message}"),
    ),
    "an old cluster": (
        replace(HEALTHY, version="v1.31.2"),
        "‼ api-version: v1.31.2 is older than 1.34",
    ),
    "no cluster at all": (
        replace(HEALTHY, version=Unseen("kubectl: connection refused"), configuration=Unseen("x"), rights=Unseen("x")),
        ("✗ api-answers: kubectl: connection refused\n"
        "‼ allocator-alone: it could not be checked: kubectl: connection refused"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named_with_its_cause_and_a_remedy(case: str) -> None:
    facts, expected = BROKEN[case]

    found = [each for each in judge(facts) if each.level is not Level.OK]

    assert "\n".join(f"{each.level.value} {each.check.id}: {each.cause}" for each in found) == expected
    assert all(each.fix for each in found)


def test_a_failure_is_told_with_cause_remedy_and_page_and_wrapped_for_a_terminal() -> None:
    facts = replace(
        HEALTHY, shown=ShownCertificate("shim", NOW + 60 * DAY, "self-signed certificate in chain"), dry_run=X509
    )

    shown = list(lines(judge(facts), width=80))

    assert (
        "\n".join(shown[shown.index("Webhook") : shown.index("Allocator")])
        == """\
Webhook
✓ the webhook is installed
✓ a Pod that asks for ports does not start without them
✓ a shim is ready (2 of 2)
✗ the API server can trust the shim's certificate
    cause: the certificate of shim does not come from caBundle: self-signed
           certificate in chain
    fix:   see in the allocator's log why it does not write caBundle, or write
           the authority of your own Secret there
    see:   https://hostport.io/docs/checks.html#webhook-trusted
✓ the shim's certificate is good for a while (60d)
✗ a Pod that asks for a port is given one
    cause: kubectl: failed calling webhook "pods.hostport.io": Post
           "https://x/mutate": tls: failed to verify certificate: x509:
           certificate signed by unknown authority
    fix:   mend caBundle or the shim's certificate: see webhook-trusted
    see:   https://hostport.io/docs/checks.html#webhook-admits
"""
    )
    assert shown[-1] == "2 failed, 0 warnings, 16 fine"


def test_json_says_the_same() -> None:
    facts = replace(HEALTHY, status=status(watch=Status.Watch(lag=Duration(seconds=300))))

    data = json.loads(json.dumps(as_data(judge(facts))))

    assert (data["result"], len(data["checks"])) == ("failed", 18)
    assert [each for each in data["checks"] if each["result"] != "ok"] == [
        {
            "id": "allocator-sees",
            "group": "Allocator",
            "result": "failed",
            "holds": "its view of the cluster is current",
            "detail": "",
            "cause": "it was last proven current 5m ago",
            "fix": "see its log: does it reach the API server, and may it list and watch Pods and Nodes?",
            "link": "https://hostport.io/docs/checks.html#allocator-sees",
        }
    ]


def test_every_check_can_be_told_and_has_its_place_on_the_page() -> None:
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")

    assert page == catalogue.render()
    judged = {each.check.id for facts in [HEALTHY, *(facts for facts, _ in BROKEN.values())] for each in judge(facts)}
    judged |= {each.check.id for each in judge_before(READY)}
    assert judged == set(catalogue.CHECKS)
    assert [check.id for check in catalogue.CHECKS.values() if f"### {check.id}\n" not in page] == []


def granted(manifests: Iterable[Any]) -> set[RequiredRight]:
    return {
        RequiredRight(verb, resource, group, name, is_own=each["kind"] == "Role")
        for each in manifests
        if each["kind"] in {"ClusterRole", "Role"}
        for rule in each["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def test_the_rights_that_are_checked_are_rights_that_the_manifest_grants() -> None:
    manifests = yaml.safe_load_all((ROOT / "deploy" / "base" / "allocator-rbac.yaml").read_text(encoding="utf-8"))

    assert {replace(right, is_for_certificates=False) for right in RIGHTS} <= granted(manifests)


SELECTORS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "none": ({}, {}),
    "labels": ({"matchLabels": {"ports": "host"}}, {"ports": "host"}),
    "one of several": (
        {"matchExpressions": [{"key": "ports", "operator": "In", "values": ["host", "node"]}]},
        {"ports": "host"},
    ),
    "any value": ({"matchExpressions": [{"key": "ports", "operator": "Exists"}]}, {"ports": ""}),
    "a label and its absence": (
        {
            "matchLabels": {"ports": "host"},
            "matchExpressions": [
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "ports", "operator": "In", "values": ["node", "host"]},
            ],
        },
        {"ports": "host"},
    ),
}


@pytest.mark.parametrize(("selector", "labels"), SELECTORS.values(), ids=SELECTORS)
def test_the_pod_of_the_dry_run_has_the_labels_that_the_webhook_asks_for(
    selector: dict[str, Any], labels: dict[str, str]
) -> None:
    made = tried_pod(configuration(objectSelector=selector))

    assert made["metadata"]["labels"] == labels
    assert selects(selector, labels)


def test_a_configuration_that_cannot_be_seen_asks_for_no_labels() -> None:
    assert tried_pod(Unseen("no"))["metadata"]["labels"] == {}


def test_a_webhook_that_is_not_called_may_have_a_selector_of_pods() -> None:
    assert "objectSelector" in told(replace(HEALTHY, dry_run=pod(host_network=False)))
