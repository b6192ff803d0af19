"""Pods that exist, and which claim is whose.

A Pod is recognised by the allocation id that it carries, and by what cannot be copied with it: its namespace and its
name (or generateName, where it had no name at admission).
"""

from __future__ import annotations

from enum import Enum

import msgspec

from allocator.core.asks import Ask
from allocator.core.candidates import ANYWHERE, Constraints, NodeName
from allocator.core.claims import Claim, ClaimId, ClaimPort, Owner, PodUid, State


class Judge(Enum):
    """Who says that a Pod's host ports are not free."""

    SCHEDULER = "scheduler"  # and tries again
    KUBELET = "kubelet"  # and the Pod has failed


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """That a Pod's host ports are not free: on how many nodes."""

    by: Judge
    nodes: int = 1


class Pod(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What we need to know of a Pod that exists."""

    uid: PodUid
    namespace: str
    name: str
    generate_name: str = ""
    controller_uid: str = ""
    node: NodeName | None = None
    is_finished: bool = False  # Succeeded or Failed: its ports are free
    ports: tuple[ClaimPort, ...] = ()  # those with a host port
    constraints: Constraints = ANYWHERE
    priority: int = 0
    may_preempt: bool = False
    is_terminating: bool = False  # it has a deletionTimestamp, and holds its ports until it is gone
    carried_id: str = ""  # hostport.io/allocation-id
    verdict: Verdict | None = None  # what Kubernetes says of its ports


def is_of_pod(claim: Claim, pod: Pod) -> bool:
    """Whether a claim, whose id the Pod carries, was made for it and waits for its Pod."""
    return (
        claim.state is State.RESERVED
        and claim.owner.namespace == pod.namespace
        and is_same_name(claim.owner, pod.name, pod.generate_name)
    )


def outsider(pod: Pod, created: float) -> Claim:
    """What a Pod holds that we never allocated to: its ports, all the same. `created` is by the wall clock."""
    return Claim(
        id=ClaimId(f"pod-{pod.uid}"),
        owner=Owner(
            namespace=pod.namespace,
            name=pod.name,
            generate_name=pod.generate_name,
            uid=pod.uid,
            controller_uid=pod.controller_uid,
        ),
        state=State.BOUND if pod.node else State.CONFIRMED,
        ports=pod.ports,
        created=created,
        constraints=pod.constraints,
        node=pod.node,
        pod_uid=pod.uid,
        priority=pod.priority,
        may_preempt=pod.may_preempt,
        is_terminating=pod.is_terminating,
        external=True,
    )


def is_same_name(owner: Owner, name: str, generate_name: str) -> bool:
    """Whether a Pod may be the one that a claim was made for: by name, or by generateName where it had no name."""
    return owner.name == name if owner.name else owner.generate_name == generate_name != ""


def recognise(claim: Claim, ask: Ask) -> list[ClaimPort | None] | None:
    """For each port of the ask the claim's port that it is, by container, name and protocol, else by its new number.

    None: the claim's numbers do not all stand in the ask, so that it is not the Pod that we answered.
    """
    left = list(claim.ports)
    found: list[ClaimPort | None] = [None] * len(ask.ports)
    for by_name in (True, False):
        for position, port in enumerate(ask.ports):
            if found[position] is not None:
                continue
            stands = port.host_port or (port.container_port if ask.host_network else 0)
            for known in left:
                same = (known.container, known.name) == (port.container, port.name) or not by_name
                if same and known.protocol is port.protocol and known.host_port == stands:
                    found[position] = known
                    left.remove(known)
                    break
    return None if left else found


def as_stored(ports: tuple[ClaimPort, ...], stored: tuple[ClaimPort, ...]) -> tuple[ClaimPort, ...]:
    """The claim's ports as the Pod has them: the claim's own where the numbers agree, since they know the old ones."""
    return ports if {p.key for p in ports} == {p.key for p in stored} else stored
