"""What is done to the operator while clients create Pods, and what may come of it.

The order is that of the table. Losing a node comes last: it does not come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from e2e_cluster.installed import ALLOCATOR, SHIM, Installed

FORCED = ("--grace-period=0", "--force")


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


def nothing(_: Installed) -> None:
    """For comparison."""


def restart_shims(installed: Installed) -> None:
    _roll_out(installed, SHIM)


def kill_shim(installed: Installed) -> None:
    pod = installed.pods(SHIM)[0]
    installed.kill(pod, pod["spec"]["containers"][0]["name"])


def drain_node_of_a_shim(installed: Installed) -> None:
    """The shim's, and not the allocator's: that one has a row of its own."""
    taken = installed.pods(ALLOCATOR)[0]["spec"]["nodeName"]
    nodes = [pod["spec"]["nodeName"] for pod in installed.pods(SHIM)]
    installed.drain(next(node for node in nodes if node != taken))
    installed.uncordon()


def kill_allocator(installed: Installed) -> None:
    installed.kill(installed.pods(ALLOCATOR)[0], "allocator")


def restart_allocator(installed: Installed) -> None:
    _roll_out(installed, ALLOCATOR)


def drain_node_of_the_allocator(installed: Installed) -> None:
    installed.drain(installed.pods(ALLOCATOR)[0]["spec"]["nodeName"])
    installed.uncordon()


def delete_shims(installed: Installed) -> None:
    installed.kubectl("delete", "pods", "-l", f"app.kubernetes.io/name={SHIM}", *FORCED)


def delete_everything(installed: Installed) -> None:
    installed.kubectl("delete", "pods", "--all", *FORCED)


def power_off_node_of_the_allocator(installed: Installed) -> None:
    installed.driver.power_off(installed.pods(ALLOCATOR)[0]["spec"]["nodeName"])


def _roll_out(installed: Installed, deployment: str) -> None:
    installed.kubectl("rollout", "restart", f"deployment/{deployment}")
    time.sleep(1)  # `status` must not see the old one as done
    installed.kubectl("rollout", "status", f"deployment/{deployment}", "--timeout=120s")


FAULTS = (
    Fault(name="none, for comparison", inflict=nothing, seconds=30, gap=2),
    Fault(name="rolling restart of the shims", inflict=restart_shims, gap=2),
    Fault(name="`kill -9` of a shim", inflict=kill_shim, gap=2),
    Fault(name="drain of a shim's node", inflict=drain_node_of_a_shim, gap=2),
    Fault(name="`kill -9` of the allocator", inflict=kill_allocator, gap=4),
    Fault(name="rollout of the allocator", inflict=restart_allocator, gap=20, may_fail=Failures.INSIDE_THE_GAP),
    Fault(
        name="drain of the allocator's node",
        inflict=drain_node_of_the_allocator,
        gap=20,
        may_fail=Failures.INSIDE_THE_GAP,
    ),
    Fault(name="all shims deleted at once", inflict=delete_shims, gap=60, may_fail=Failures.UNTIL_IT_IS_BACK),
    Fault(
        name="all Pods of the operator deleted at once",
        inflict=delete_everything,
        gap=60,
        may_fail=Failures.UNTIL_IT_IS_BACK,
    ),
    Fault(
        name="power-off of the allocator's node",
        inflict=power_off_node_of_the_allocator,
        seconds=150,
        gap=120,
        may_fail=Failures.UNTIL_IT_IS_BACK,
        loses_a_node=True,
    ),
)
