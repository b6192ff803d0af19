"""What is done to the operator while clients create Pods, and what may come of it.

The order is that of the table. Losing a node comes last: it does not come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from e2e.processes import wait_until

from e2e_cluster.installed import ALLOCATOR, LABEL, SHIM, Installed

SHORT_LIVES = ("--certificate-lifetime=60s", "--ca-lifetime=120s", "--certificate-propagation=10s")
"""A certificate is renewed 38 s after it was made, and the authority has been followed after some 90 s."""
FORCED = ("--grace-period=0", "--force")


def nothing(_: Installed) -> None:
    """For comparison."""


class Failures(Enum):
    """Which creations may fail."""

    NONE = "none"
    INSIDE_THE_GAP = "those inside the longest gap"
    UNTIL_IT_IS_BACK = "those within the bound after the fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One row. `gap` bounds the longest time without a successful creation."""

    name: str
    inflict: Callable[[Installed], None]
    seconds: int = 60
    gap: float
    may_fail: Failures = Failures.NONE
    loses_a_node: bool = False
    before: Callable[[Installed], None] = nothing
    after: Callable[[Installed], None] = nothing


def restart_shims(installed: Installed) -> None:
    _roll_out(installed, SHIM)


def kill_shims(installed: Installed) -> None:
    """Every process of every shim, one after another; each time the one before is back."""
    for pod in installed.pods(SHIM):
        for container in pod["spec"]["containers"]:
            installed.kill(pod, container["name"])
            time.sleep(10)


def drain_node_of_a_shim(installed: Installed) -> None:
    """The shim's, and not the allocator's: that one has a row of its own."""
    taken = installed.serving()["spec"]["nodeName"]
    nodes = [pod["spec"]["nodeName"] for pod in installed.pods(SHIM)]
    installed.drain(next(node for node in nodes if node != taken))
    installed.uncordon()


def kill_allocator(installed: Installed) -> None:
    installed.kill(installed.serving(), "allocator")


def restart_allocator(installed: Installed) -> None:
    _roll_out(installed, ALLOCATOR)


def drain_node_of_the_allocator(installed: Installed) -> None:
    installed.drain(installed.serving()["spec"]["nodeName"])
    installed.uncordon()


def shorten_lives(installed: Installed) -> None:
    installed.make_authority_anew(*SHORT_LIVES)


def await_rollover(installed: Installed) -> None:
    """Nothing is done to it: its time has come. The authority is followed by another, and signs certificates anew."""
    authority, certificate = installed.certificates()
    wait_until("a certificate to be renewed", lambda: installed.certificates()[1] != certificate, seconds=60)
    wait_until("the authority to be followed", lambda: installed.certificates()[0] != authority, seconds=120)


def restore_lives(installed: Installed) -> None:
    installed.make_authority_anew()


def delete_everything(installed: Installed) -> None:
    """First the shims, and when they are back all Pods."""
    installed.kubectl("delete", "pods", "-l", LABEL + SHIM, *FORCED)
    installed.wait_until_settled()
    installed.kubectl("delete", "pods", "--all", *FORCED)


def power_off_node_of_the_allocator(installed: Installed) -> None:
    installed.driver.power_off(installed.serving()["spec"]["nodeName"])


def delete_allocator(installed: Installed) -> None:
    installed.kubectl("delete", "pod", installed.serving()["metadata"]["name"], "--wait=false")


def have_one(installed: Installed) -> None:
    installed.have_allocators(1)


def have_two(installed: Installed) -> None:
    installed.have_allocators(2)


def forget_lost_node(installed: Installed) -> None:
    """The one that is not ready."""
    nodes = installed.access.kubectl.get("nodes")["items"]
    for node in nodes:
        ready = next(each["status"] for each in node["status"]["conditions"] if each["type"] == "Ready")
        if ready != "True" and node["metadata"]["name"] in installed.access.nodes:
            installed.forget_node(node["metadata"]["name"])


def _roll_out(installed: Installed, deployment: str) -> None:
    installed.kubectl("rollout", "restart", f"deployment/{deployment}")
    time.sleep(1)  # `status` must not see the old one as done
    installed.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=120s")


FAULTS = (
    Fault(name="none, for comparison", inflict=nothing, seconds=15, gap=2),
    Fault(name="rolling restart of the shims", inflict=restart_shims, gap=2),
    Fault(name="`kill -9` of every process of the shims in turn", inflict=kill_shims, gap=2),
    Fault(name="drain of a shim's node", inflict=drain_node_of_a_shim, gap=2),
    Fault(
        name="roll-over of authority and certificates",
        inflict=await_rollover,
        seconds=105,
        gap=2,
        before=shorten_lives,
        after=restore_lives,
    ),
    Fault(name="`kill -9` of the allocator", inflict=kill_allocator, gap=4),
    Fault(name="rollout of the allocator", inflict=restart_allocator, gap=4),
    Fault(
        name="drain of the allocator's node",
        inflict=drain_node_of_the_allocator,
        gap=20,
        may_fail=Failures.INSIDE_THE_GAP,
    ),
    Fault(name="deletion of the allocator", inflict=delete_allocator, gap=20, may_fail=Failures.INSIDE_THE_GAP),
    Fault(name="`kill -9` of the allocator that serves, of two", inflict=kill_allocator, gap=4, before=have_two),
    Fault(name="rollout of two allocators", inflict=restart_allocator, gap=1, before=have_two),
    Fault(
        name="drain of the node of the one that serves, of two",
        inflict=drain_node_of_the_allocator,
        gap=1,
        before=have_two,
    ),
    Fault(
        name="deletion of the one that serves, of two", inflict=delete_allocator, gap=1, before=have_two, after=have_one
    ),
    Fault(
        name="all shims deleted, then all Pods of the operator",
        inflict=delete_everything,
        seconds=70,
        gap=60,
        before=have_one,
        may_fail=Failures.UNTIL_IT_IS_BACK,
    ),
    Fault(
        name="power-off of the node of the one that serves, of two",
        inflict=power_off_node_of_the_allocator,
        seconds=90,
        gap=40,
        may_fail=Failures.UNTIL_IT_IS_BACK,
        before=have_two,
        after=forget_lost_node,
        loses_a_node=True,
    ),
    Fault(
        name="power-off of the allocator's node",
        inflict=power_off_node_of_the_allocator,
        seconds=130,
        gap=120,
        may_fail=Failures.UNTIL_IT_IS_BACK,
        before=have_one,
        loses_a_node=True,
    ),
)
