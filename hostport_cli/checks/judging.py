"""What was seen, judged: facts in, findings out. Pure.

What cannot be judged because something before it is broken is left out: the first thing that is broken has to be mended
first. What could not be looked at for want of rights is a warning, never a pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hostport.version import DOCS
from hostport_cli.checks.catalogue import CHECKS
from hostport_cli.checks.facts import Forwarded, InstallationFacts, Unseen
from hostport_cli.checks.findings import Finding, failed, lasts, ok, unseen, warning
from hostport_cli.checks.judging_allocator import judge_allocator
from hostport_cli.cluster import webhook_of

OLDEST = (1, 34)


def judge(facts: InstallationFacts) -> list[Finding]:
    """In the order of the catalogue."""
    found = [*_kubernetes(facts), *_webhook(facts), *judge_allocator(facts)]
    order = list(CHECKS)
    return sorted(found, key=lambda each: order.index(each.check.id))


def _kubernetes(facts: InstallationFacts) -> Iterator[Finding]:
    yield from judge_version(facts.version)
    if not isinstance(facts.version, Unseen):
        yield from _forwarding(facts.forwarded)


def judge_version(version: str | Unseen) -> Iterator[Finding]:
    """Tells whether the API server answers, and whether it is one that is tested."""
    if isinstance(version, Unseen):
        yield failed(
            "api-answers", version.message, "see that `kubectl version` works, or name --context or --kubeconfig"
        )
        return
    yield ok("api-answers", version)
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        yield warning("api-version", f"{version} is older than 1.34", "upgrade the cluster")
    else:
        yield ok("api-version")


def _forwarding(forwarded: Forwarded | Unseen | None) -> Iterator[Finding]:
    if isinstance(forwarded, Unseen):
        yield unseen("hostports-forwarded", forwarded)
    elif forwarded is not None and forwarded.answers:
        yield ok("hostports-forwarded", f"{forwarded.address} on {forwarded.node}")
    elif forwarded is not None:
        cause = f"a Pod runs on {forwarded.node}, and nobody answers at {forwarded.address}"
        yield failed("hostports-forwarded", cause, "give the network plug-in portmap, or use hostport.io/network: Host")


# -- the webhook


def _webhook(facts: InstallationFacts) -> Iterator[Finding]:
    configuration = facts.configuration
    if isinstance(facts.version, Unseen):
        return
    if isinstance(configuration, Unseen):
        if configuration.is_missing:
            cause = "there is no MutatingWebhookConfiguration hostport-operator: Pods that ask for ports get none"
            yield failed("webhook-installed", cause, "install it: make deploy, or helm upgrade --install")
        else:
            yield unseen("webhook-installed", configuration)
        return
    if not _is_called_for_pods(webhook_of(configuration)):
        cause = "MutatingWebhookConfiguration hostport-operator has no webhook for the creation of Pods"
        yield failed("webhook-installed", cause, "apply it again: make deploy, or helm upgrade --install")
        return
    yield ok("webhook-installed")
    yield _insists(facts, webhook_of(configuration))
    if "service" in (webhook_of(configuration).get("clientConfig") or {}):
        yield _shims(facts)
    yield from _certificate(facts)
    yield _admits(facts)


def _is_called_for_pods(webhook: Any) -> bool:
    return any(
        "pods" in (rule.get("resources") or []) and {"CREATE", "*"} & set(rule.get("operations") or [])
        for rule in webhook.get("rules") or []
    )


def _insists(facts: InstallationFacts, webhook: Any) -> Finding:
    if webhook.get("failurePolicy", "Fail") == "Fail":
        return ok("webhook-insists")
    if isinstance(facts.is_backed, Unseen):
        return unseen("webhook-insists", facts.is_backed)
    if facts.is_backed:
        return ok("webhook-insists", "failurePolicy Ignore, with the policy hostport-ports-given behind it")
    cause = "failurePolicy is Ignore, and no admission policy refuses Pods that were given no ports"
    return warning("webhook-insists", cause, "set failurePolicy: Fail, or apply deploy/base/admission-policies.yaml")


def _shims(facts: InstallationFacts) -> Finding:
    if isinstance(facts.shims, Unseen):
        return unseen("shims-ready", facts.shims)
    ready = sum(1 for pod in facts.shims if _is_ready(pod))
    if ready:
        return ok("shims-ready", f"{ready} of {len(facts.shims)}")
    cause = f"none of {len(facts.shims)} shim Pods is ready" if facts.shims else "there is no Pod of the shim"
    return failed("shims-ready", cause, "see kubectl -n hostport-system describe deployment/hostport-shim")


def _is_ready(pod: Any) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _certificate(facts: InstallationFacts) -> Iterator[Finding]:
    shown = facts.shown
    if isinstance(shown, Unseen):
        yield warning("webhook-trusted", f"it could not be checked: {shown.message}", "see that a shim is reachable")
        return
    if shown.distrust:
        cause = f"the certificate of {shown.where} does not come from caBundle: {shown.distrust}"
        fix = (
            "see in the allocator's log why it does not write caBundle, or write the authority of your own Secret there"
        )
        yield failed("webhook-trusted", cause, fix)
    else:
        yield ok("webhook-trusted")
    yield lasts("webhook-certificate", {"it": shown.expires}, facts.now)


def _admits(facts: InstallationFacts) -> Finding:
    pod = facts.dry_run
    if not isinstance(pod, Unseen):
        ports = [port.get("hostPort") for each in pod["spec"]["containers"] for port in each.get("ports") or []]
        if pod["spec"].get("hostNetwork") and all(ports):
            return ok("webhook-admits", f"it would be {ports[0]}")
        cause = f"a Pod in namespace {pod['metadata']['namespace']} came back unchanged: the webhook was not called"
        return failed(
            "webhook-admits",
            cause,
            "look at its namespaceSelector, objectSelector and matchConditions, or choose another -n",
        )
    said = pod.message
    if "failed calling webhook" in said:
        return failed("webhook-admits", said, _remedy(said))
    if "hostport.io" in said and "denied the request" in said:
        return warning("webhook-admits", f"the way is open, the answer is no: {said}", "see what the message asks for")
    return warning("webhook-admits", f"it could not be tried: {said}", "try another namespace with -n")


def _remedy(said: str) -> str:
    for sign, remedy in (
        ("x509", "mend caBundle or the shim's certificate: see webhook-trusted"),
        ("TLS_FAILED", f"mend the certificate that it names: see {DOCS}runbooks.html#hostportcertificatesrefused"),
        ("ALLOCATOR_UNREACHABLE", "the shim answers and the allocator does not: see allocator-answers"),
        ("NOT_SERVING", "the allocator does not serve: see allocator-serves"),
        ("no endpoints", "no shim is ready: kubectl -n hostport-system describe deployment/hostport-shim"),
    ):
        if sign in said:
            return remedy
    return "see that a shim runs, and that the API server reaches it"
