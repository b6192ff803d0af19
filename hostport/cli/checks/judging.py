"""What was seen, judged: facts in, findings out. Pure.

What cannot be judged because something before it is broken is left out: the first thing that is broken has to be mended
first. What could not be looked at for want of rights is a warning, never a pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from hostport.cli import wording
from hostport.cli.checks.catalogue import CHECKS, Check
from hostport.cli.checks.facts import Facts, Forwarded, Unseen
from hostport.cli.cluster import webhook_of
from hostport.cli.commands.version import Program, programs_of, skews
from hostport.cli.printing import age
from hostport.v1 import allocator_pb2 as pb

DAY = 86400.0
EXPIRY_WARNING, EXPIRY_FAILURE = 7 * DAY, DAY
LAG_WARNING, LAG_FAILURE = 10.0, 15.0
HELD_SECONDS = 15.0  # a Lease that was not renewed for so long is held by nobody
OLDEST = (1, 34)
AUTHORITY = "ca"


class Level(Enum):
    """How a check came out."""

    OK = "✓"
    WARNING = "‼"
    FAILED = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check and how it came out. `detail` belongs to the sentence; `cause` and `fix` are there unless it is OK."""

    check: Check
    level: Level
    detail: str = ""
    cause: str = ""
    fix: str = ""


def judge(facts: Facts) -> list[Finding]:
    """In the order of the catalogue."""
    found = [*_kubernetes(facts), *_webhook(facts), *_allocator(facts)]
    order = list(CHECKS)
    return sorted(found, key=lambda each: order.index(each.check.id))


def _ok(check: str, detail: str = "") -> Finding:
    return Finding(CHECKS[check], Level.OK, detail)


def _warning(check: str, cause: str, fix: str, detail: str = "") -> Finding:
    return Finding(CHECKS[check], Level.WARNING, detail, cause, fix)


def _failed(check: str, cause: str, fix: str, detail: str = "") -> Finding:
    return Finding(CHECKS[check], Level.FAILED, detail, cause, fix)


def _unseen(check: str, unseen: Unseen) -> Finding:
    fix = "ask with an account that may see it" if unseen.is_forbidden else "see the API server's message"
    return _warning(check, f"it could not be checked: {unseen.message}", fix)


# -- the API server


def _kubernetes(facts: Facts) -> Iterator[Finding]:
    version = facts.version
    if isinstance(version, Unseen):
        yield _failed(
            "api-answers", version.message, "see that `kubectl version` works, or name --context or --kubeconfig"
        )
        return
    yield _ok("api-answers", version)
    numbers = re.match(r"v?(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
        yield _warning("api-version", f"{version} is older than 1.34", "upgrade the cluster")
    else:
        yield _ok("api-version")
    yield from _forwarding(facts.forwarded)


def _forwarding(forwarded: Forwarded | Unseen | None) -> Iterator[Finding]:
    if isinstance(forwarded, Unseen):
        yield _unseen("hostports-forwarded", forwarded)
    elif forwarded is not None and forwarded.answers:
        yield _ok("hostports-forwarded", f"{forwarded.address} on {forwarded.node}")
    elif forwarded is not None:
        cause = f"a Pod runs on {forwarded.node}, and nobody answers at {forwarded.address}"
        yield _failed(
            "hostports-forwarded", cause, "give the network plug-in portmap, or use hostport.io/network: Host"
        )


# -- the webhook


def _webhook(facts: Facts) -> Iterator[Finding]:
    configuration = facts.configuration
    if isinstance(facts.version, Unseen):
        return
    if isinstance(configuration, Unseen):
        if configuration.is_missing:
            cause = "there is no MutatingWebhookConfiguration hostport-operator: Pods that ask for ports get none"
            yield _failed("webhook-installed", cause, "install it: make deploy, or helm upgrade --install")
        else:
            yield _unseen("webhook-installed", configuration)
        return
    if not _is_called_for_pods(webhook_of(configuration)):
        cause = "MutatingWebhookConfiguration hostport-operator has no webhook for the creation of Pods"
        yield _failed("webhook-installed", cause, "apply it again: make deploy, or helm upgrade --install")
        return
    yield _ok("webhook-installed")
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


def _insists(facts: Facts, webhook: Any) -> Finding:
    if webhook.get("failurePolicy", "Fail") == "Fail":
        return _ok("webhook-insists")
    if isinstance(facts.is_backed, Unseen):
        return _unseen("webhook-insists", facts.is_backed)
    if facts.is_backed:
        return _ok("webhook-insists", "failurePolicy Ignore, with the policy hostport-ports-given behind it")
    cause = "failurePolicy is Ignore, and no admission policy refuses Pods that were given no ports"
    return _warning("webhook-insists", cause, "set failurePolicy: Fail, or apply deploy/base/admission-policies.yaml")


def _shims(facts: Facts) -> Finding:
    if isinstance(facts.shims, Unseen):
        return _unseen("shims-ready", facts.shims)
    ready = sum(1 for pod in facts.shims if _is_ready(pod))
    if ready:
        return _ok("shims-ready", f"{ready} of {len(facts.shims)}")
    cause = f"none of {len(facts.shims)} shim Pods is ready" if facts.shims else "there is no Pod of the shim"
    return _failed("shims-ready", cause, "see kubectl -n hostport-system describe deployment/hostport-shim")


def _is_ready(pod: Any) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _certificate(facts: Facts) -> Iterator[Finding]:
    shown = facts.shown
    if isinstance(shown, Unseen):
        yield _warning("webhook-trusted", f"it could not be checked: {shown.message}", "see that a shim is reachable")
        return
    if shown.distrust:
        cause = f"the certificate of {shown.where} does not come from caBundle: {shown.distrust}"
        fix = (
            "see in the allocator's log why it does not write caBundle, or write the authority of your own Secret there"
        )
        yield _failed("webhook-trusted", cause, fix)
    else:
        yield _ok("webhook-trusted")
    yield _lasts("webhook-certificate", {"it": shown.expires}, facts.now)


def _lasts(check: str, expiries: dict[str, float], now: float) -> Finding:
    """Judged by the certificate that ends first."""
    name, expires = min(expiries.items(), key=lambda each: each[1])
    left = expires - now
    if left > EXPIRY_WARNING:
        return _ok(check, f"{age(left)}")
    when = f"ends in {age(left)}" if left > 0 else f"ended {age(-left)} ago"
    made = _failed if left < EXPIRY_FAILURE else _warning
    return made(
        check, f"{name} {when}", "see why it was not renewed: the allocator's log, cert-manager, or your own Secret"
    )


def _trusts(status: pb.GetStatusResponse, now: float) -> Finding:
    """Judged by the authority that ends last: the others are followed by it."""
    last = max(status.authorities, key=lambda each: wording.seconds(each.expire_time))
    ends = wording.seconds(last.expire_time)
    found = _lasts("authority-trusted", {f"the last of {len(status.authorities)}, {last.name}": ends}, now)
    until = datetime.fromtimestamp(ends, UTC)
    return _ok(found.check.id, f"until {until:%Y-%m-%d}") if found.level is Level.OK else found


def _admits(facts: Facts) -> Finding:
    pod = facts.dry_run
    if not isinstance(pod, Unseen):
        ports = [port.get("hostPort") for each in pod["spec"]["containers"] for port in each.get("ports") or []]
        if pod["spec"].get("hostNetwork") and all(ports):
            return _ok("webhook-admits", f"it would be {ports[0]}")
        cause = f"a Pod in namespace {pod['metadata']['namespace']} came back unchanged: the webhook was not called"
        return _failed(
            "webhook-admits", cause, "look at its namespaceSelector and matchConditions, or choose another -n"
        )
    said = pod.message
    if "failed calling webhook" in said:
        return _failed("webhook-admits", said, _remedy(said))
    if "hostport.io" in said and "denied the request" in said:
        return _warning("webhook-admits", f"the way is open, the answer is no: {said}", "see what the message asks for")
    return _warning("webhook-admits", f"it could not be tried: {said}", "try another namespace with -n")


def _remedy(said: str) -> str:
    for sign, remedy in (
        ("x509", "mend caBundle or the shim's certificate: see webhook-trusted"),
        ("TLS_FAILED", "mend the certificate that it names: see docs/runbooks.md#hostportcertificatesrefused"),
        ("ALLOCATOR_UNREACHABLE", "the shim answers and the allocator does not: see allocator-answers"),
        ("NOT_SERVING", "the allocator does not serve: see allocator-serves"),
        ("no endpoints", "no shim is ready: kubectl -n hostport-system describe deployment/hostport-shim"),
    ):
        if sign in said:
            return remedy
    return "see that a shim runs, and that the API server reaches it"


# -- the allocator


def _allocator(facts: Facts) -> Iterator[Finding]:
    if not isinstance(facts.version, Unseen):
        yield from _rights(facts)
    status = facts.status
    if isinstance(status, Unseen):
        fix = "see kubectl -n hostport-system logs deployment/hostport-allocator; is --server right?"
        yield _failed("allocator-answers", status.message, fix)
        return
    yield _ok("allocator-answers", f"{status.version}, up {age(facts.now - wording.seconds(status.start_time))}")
    yield _serves(status)
    yield _alone(facts, status)
    if status.HasField("watch"):
        yield _sees(status)
    yield _journal(status)
    yield _clock(status)
    expiries = {each.name: wording.seconds(each.expire_time) for each in status.certificates}
    if expiries:
        yield _lasts("allocator-certificates", expiries, facts.now)
    if status.authorities:
        yield _trusts(status, facts.now)
    yield _versions(facts, status)
    yield _placed(status)


def _serves(status: pb.GetStatusResponse) -> Finding:
    if status.serving:
        return _ok("allocator-serves", f"cluster {status.cluster}")
    if status.lease.served_by:
        fix = "ask the one that serves: the Service leads to the Pod with the label hostport.io/serving"
        return _warning("allocator-serves", f"the one that answers stands by, {status.lease.served_by} serves", fix)
    return _failed(
        "allocator-serves", f"it waits for {status.waiting_for}", "wait; if it stays so, see its log and rights"
    )


def _alone(facts: Facts, status: pb.GetStatusResponse) -> Finding:
    fix = "remove one installation: make undeploy, or helm uninstall"
    if isinstance(facts.others, Unseen) or isinstance(facts.leases, Unseen):
        return _unseen("allocator-alone", facts.others if isinstance(facts.others, Unseen) else facts.leases)  # type: ignore[arg-type]
    if isinstance(facts.version, Unseen):
        return _unseen("allocator-alone", facts.version)
    held = {each["metadata"]["namespace"]: each for each in facts.leases if _is_held(each, facts.now)}
    if len(held) > 1:
        return _failed("allocator-alone", f"allocators hold Leases in the namespaces {', '.join(sorted(held))}", fix)
    if facts.others:
        return _failed("allocator-alone", f"there are webhook configurations besides: {', '.join(facts.others)}", fix)
    if not status.HasField("lease"):
        return _lone(status, held)
    holder = (held.get(status.lease.namespace) or {}).get("spec", {}).get("holderIdentity", "")
    if holder and holder != status.lease.identity and not status.lease.served_by:
        cause = f"{holder} holds the Lease, and {status.lease.identity} is who answers"
        return _failed("allocator-alone", cause, "see which allocator --server or the Service leads to")
    return _ok("allocator-alone")


def _lone(status: pb.GetStatusResponse, held: dict[str, Any]) -> Finding:
    """An allocator without a Lease: another one with a Lease decides about the same Pods."""
    if status.cluster != "kubernetes":
        return _ok("allocator-alone", "it has no Lease")
    if held:
        cause = f"the one that answers has no Lease, and another one holds that in namespace {next(iter(held))}"
        return _failed("allocator-alone", cause, "end one of them")
    return _warning(
        "allocator-alone", "it runs without a Lease: nothing keeps out a second one", "set --lease-namespace"
    )


def _is_held(lease: Any, now: float) -> bool:
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return False
    return now - datetime.fromisoformat(spec["renewTime"]).timestamp() < HELD_SECONDS


def _sees(status: pb.GetStatusResponse) -> Finding:
    fix = "see its log: does it reach the API server, and may it list and watch Pods and Nodes?"
    if not status.watch.HasField("lag"):
        return _failed("allocator-sees", "it was never proven current", fix)
    lag = status.watch.lag.seconds + status.watch.lag.nanos / 1e9
    if lag <= LAG_WARNING:
        return _ok("allocator-sees", f"{age(lag)} ago")
    made = _failed if lag > LAG_FAILURE else _warning
    return made("allocator-sees", f"it was last proven current {age(lag)} ago", fix)


def _rights(facts: Facts) -> Iterator[Finding]:
    rights = facts.rights
    if isinstance(rights, Unseen):
        yield _unseen("allocator-rights", rights)
        return
    if rights is not None and not _makes_certificates(facts.status):
        rights = [right for right in rights if not right.is_for_certificates]
    if rights:
        cause = f"it may not {', '.join(map(str, rights))}"
        yield _failed("allocator-rights", cause, "apply deploy/base/allocator-rbac.yaml, or helm upgrade --install")
    elif rights is not None:
        yield _ok("allocator-rights")


def _makes_certificates(status: pb.GetStatusResponse | Unseen) -> bool:
    """Whether it keeps an authority of its own."""
    return not isinstance(status, Unseen) and any(each.name == AUTHORITY for each in status.certificates)


def _journal(status: pb.GetStatusResponse) -> Finding:
    if status.journal.unsaved_count:
        cause = f"{status.journal.unsaved_count} changes could not be written, and are tried again"
        return _failed("allocator-journal", cause, "see its log: is the disk full or broken?")
    if status.journal.set_aside:
        cause = f"it was damaged, and set aside as {status.journal.set_aside}"
        return _warning(
            "allocator-journal",
            cause,
            "see its log for what was lost; then `python -m allocator journal acknowledge PATH` in the allocator's Pod",
        )
    return _ok("allocator-journal", status.journal.kind)


def _clock(status: pb.GetStatusResponse) -> Finding:
    if status.clock_step_count:
        cause = f"it was set, or the allocator stopped, {status.clock_step_count} times since its start"
        return _warning("allocator-clock", cause, "see its log for what and when: does its node keep time by NTP?")
    return _ok("allocator-clock")


def _versions(facts: Facts, status: pb.GetStatusResponse) -> Finding:
    programs = [Program("client", facts.program, ""), *programs_of(status, facts.now)]
    apart = skews(programs)
    if apart:
        return _warning("versions-fit", "; ".join(apart), "finish the upgrade")
    return _ok("versions-fit", ", ".join(dict.fromkeys(each.version for each in programs)))


def _placed(status: pb.GetStatusResponse) -> Finding:
    if not status.unplaceable_count:
        return _ok("books-placed")
    cause = f"{status.unplaceable_count} claims fit on none of the nodes where their Pods may run"
    return _warning("books-placed", cause, "free a port or add a node; hostport list marks them")
