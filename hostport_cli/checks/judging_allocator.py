"""What the allocator says of itself, its rights and its Lease, judged. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from hostport.timestamps import seconds_of
from hostport.v1 import allocator_pb2 as pb
from hostport_cli import wording
from hostport_cli.checks.facts import InstallationFacts, Unseen
from hostport_cli.checks.findings import Finding, Level, failed, lasts, ok, unseen, warning
from hostport_cli.printing import age
from hostport_cli.versions import RunningProgram, programs_of, skews

LAG_WARNING, LAG_FAILURE = 10.0, 15.0
HELD_SECONDS = 15.0  # a Lease that was not renewed for so long is held by nobody
AUTHORITY = "ca"


def judge_allocator(facts: InstallationFacts) -> Iterator[Finding]:
    """Its rights, and what it says of itself; the latter only when it answers."""
    if not isinstance(facts.version, Unseen):
        yield from _rights(facts)
    status = facts.status
    if isinstance(status, Unseen):
        fix = "see kubectl -n hostport-system logs deployment/hostport-allocator; is --server right?"
        yield failed("allocator-answers", status.message, fix)
        return
    yield ok("allocator-answers", f"{status.version}, up {age(facts.now - wording.seconds(status.start_time))}")
    yield _serves(status)
    yield _alone(facts, status)
    if status.HasField("watch"):
        yield _sees(status)
    yield _journal(status)
    yield _clock(status)
    expiries = {each.name: wording.seconds(each.expire_time) for each in status.certificates}
    if expiries:
        yield lasts("allocator-certificates", expiries, facts.now)
    if status.authorities:
        yield _trusts(status, facts.now)
    yield _versions(facts, status)
    yield _placed(status)


def _serves(status: pb.GetStatusResponse) -> Finding:
    if status.serving:
        return ok("allocator-serves", f"cluster {status.cluster}")
    if status.lease.served_by:
        fix = "ask the one that serves: the Service leads to the Pod with the label hostport.io/serving"
        return warning("allocator-serves", f"the one that answers stands by, {status.lease.served_by} serves", fix)
    return failed(
        "allocator-serves", f"it waits for {status.waiting_for}", "wait; if it stays so, see its log and rights"
    )


def _alone(facts: InstallationFacts, status: pb.GetStatusResponse) -> Finding:
    fix = "remove one installation: make undeploy, or helm uninstall"
    if isinstance(facts.others, Unseen) or isinstance(facts.leases, Unseen):
        return unseen("allocator-alone", facts.others if isinstance(facts.others, Unseen) else facts.leases)  # type: ignore[arg-type]
    if isinstance(facts.version, Unseen):
        return unseen("allocator-alone", facts.version)
    held = {each["metadata"]["namespace"]: each for each in facts.leases if _is_held(each, facts.now)}
    if len(held) > 1:
        return failed("allocator-alone", f"allocators hold Leases in the namespaces {', '.join(sorted(held))}", fix)
    if facts.others:
        return failed("allocator-alone", f"there are webhook configurations besides: {', '.join(facts.others)}", fix)
    if not status.HasField("lease"):
        return _lone(status, held)
    holder = (held.get(status.lease.namespace) or {}).get("spec", {}).get("holderIdentity", "")
    if holder and holder != status.lease.identity and not status.lease.served_by:
        cause = f"{holder} holds the Lease, and {status.lease.identity} is who answers"
        return failed("allocator-alone", cause, "see which allocator --server or the Service leads to")
    return ok("allocator-alone")


def _lone(status: pb.GetStatusResponse, held: dict[str, Any]) -> Finding:
    """An allocator without a Lease: another one with a Lease decides about the same Pods."""
    if status.cluster != "kubernetes":
        return ok("allocator-alone", "it has no Lease")
    if held:
        cause = f"the one that answers has no Lease, and another one holds that in namespace {next(iter(held))}"
        return failed("allocator-alone", cause, "end one of them")
    return warning(
        "allocator-alone", "it runs without a Lease: nothing keeps out a second one", "set --lease-namespace"
    )


def _is_held(lease: Any, now: float) -> bool:
    spec = lease.get("spec") or {}
    renewed = seconds_of(spec.get("renewTime"))
    return bool(spec.get("holderIdentity")) and renewed is not None and now - renewed < HELD_SECONDS


RIGHTS = "apply deploy/base/allocator-rbac.yaml, or helm upgrade --install"


def _sees(status: pb.GetStatusResponse) -> Finding:
    fix = "see its log: does it reach the API server, and may it list and watch Pods and Nodes?"
    if not status.watch.HasField("lag"):
        return failed("allocator-sees", "it was never proven current", fix)
    lag = status.watch.lag.seconds + status.watch.lag.nanos / 1e9
    if lag <= LAG_WARNING and status.watch.unseen:
        said = "; ".join(status.watch.unseen)
        return warning("allocator-sees", said, RIGHTS if "RBAC" in said else fix)
    if lag <= LAG_WARNING:
        return ok("allocator-sees", f"{age(lag)} ago")
    made = failed if lag > LAG_FAILURE else warning
    return made("allocator-sees", f"it was last proven current {age(lag)} ago", fix)


def _rights(facts: InstallationFacts) -> Iterator[Finding]:
    rights = facts.rights
    if isinstance(rights, Unseen):
        yield unseen("allocator-rights", rights)
        return
    if rights is not None and not _makes_certificates(facts.status):
        rights = [right for right in rights if not right.is_for_certificates]
    if rights:
        cause = f"it may not {', '.join(map(str, rights))}"
        yield failed("allocator-rights", cause, RIGHTS)
    elif rights is not None:
        yield ok("allocator-rights")


def _makes_certificates(status: pb.GetStatusResponse | Unseen) -> bool:
    """Whether it keeps an authority of its own."""
    return not isinstance(status, Unseen) and any(each.name == AUTHORITY for each in status.certificates)


def _journal(status: pb.GetStatusResponse) -> Finding:
    if status.journal.unsaved_count:
        cause = f"{status.journal.unsaved_count} changes could not be written, and are tried again"
        return failed("allocator-journal", cause, "see its log: is the disk full or broken?")
    if status.journal.set_aside:
        cause = f"it was damaged, and set aside as {status.journal.set_aside}"
        return warning(
            "allocator-journal",
            cause,
            "see its log for what was lost; then `python -m allocator journal acknowledge PATH` in the allocator's Pod",
        )
    return ok("allocator-journal", status.journal.kind)


def _clock(status: pb.GetStatusResponse) -> Finding:
    if status.clock_step_count:
        cause = f"it was set, or the allocator stopped, {status.clock_step_count} times since its start"
        return warning("allocator-clock", cause, "see its log for what and when: does its node keep time by NTP?")
    return ok("allocator-clock")


def _versions(facts: InstallationFacts, status: pb.GetStatusResponse) -> Finding:
    programs = [RunningProgram("client", facts.program, ""), *programs_of(status, facts.now)]
    apart = skews(programs)
    if apart:
        return warning("versions-fit", "; ".join(apart), "finish the upgrade")
    return ok("versions-fit", ", ".join(dict.fromkeys(each.version for each in programs)))


def _placed(status: pb.GetStatusResponse) -> Finding:
    if not status.unplaceable_count:
        return ok("books-placed")
    cause = f"{status.unplaceable_count} claims fit on none of the nodes where their Pods may run"
    return warning("books-placed", cause, "free a port or add a node; hostport list marks them")


def _trusts(status: pb.GetStatusResponse, now: float) -> Finding:
    """Judged by the authority that ends last: the others are followed by it."""
    last = max(status.authorities, key=lambda each: wording.seconds(each.expire_time))
    ends = wording.seconds(last.expire_time)
    found = lasts("authority-trusted", {f"the last of {len(status.authorities)}, {last.name}": ends}, now)
    until = datetime.fromtimestamp(ends, UTC)
    return ok(found.check.id, f"until {until:%Y-%m-%d}") if found.level is Level.OK else found
