"""What the suite needs of a cluster, whoever runs it.

A driver makes a cluster of real nodes and breaks it on demand. `linux` makes one on a plain Linux machine, `kind` asks kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from e2e.api import Kubectl


class Unavailable(Exception):  # noqa: N818 - a fact about the machine, not a fault
    """This machine cannot have such a cluster. The message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Access:
    """How the cluster is reached from the process that made it, and from its children."""

    kubectl: Kubectl
    addresses: Mapping[str, str]
    """Of the nodes, by name."""

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.addresses)


class Driver(Protocol):
    """One cluster of a few nodes."""

    @property
    def name(self) -> str:
        """What the reports call it."""

    def make(self, *verbs: str) -> Sequence[str]:
        """A `make` command for this cluster, with what it takes here to build images."""

    def create(self) -> Access:
        """Starts the cluster; Pods are accepted when this returns."""

    def load(self, *images: str) -> None:
        """Puts images that were built here on every node."""

    def kill_container(self, node: str, container_id: str) -> None:
        """kill -9 of a container's first process."""

    def power_off(self, node: str) -> None:
        """Ends a node as a power cut would: nothing of it says another word. It does not come back."""

    def reboot(self, node: str) -> None:
        """The same, and the node starts again with what is on its disk."""

    def delete(self) -> None:
        """Ends everything that `create` started."""
