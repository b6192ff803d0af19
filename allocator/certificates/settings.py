"""Who the certificates are for, where their objects are, and how long they live."""

from __future__ import annotations

from dataclasses import dataclass

from allocator.certificates.authority import Rules
from allocator.certificates.issuing import CLIENT, SERVER, Identity

SHIM, ALLOCATOR = "hostport-shim", "hostport-allocator"  # the Services
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`more_names`: DNS names and addresses under which the programs are reached as well.

    `shim_name`: the common name by which the allocator tells a shim from any other caller.
    """

    namespace: str
    rules: Rules
    webhook: str = "hostport-operator"
    shim_name: str = SHIM
    more_names: tuple[str, ...] = ()

    @property
    def shim(self) -> Identity:
        return Identity(name=self.shim_name, alternatives=self._names(SHIM), usages=(SERVER, CLIENT))

    @property
    def allocator(self) -> Identity:
        """Loopback, too: there it is reached through `kubectl port-forward`."""
        return Identity(name=ALLOCATOR, alternatives=tuple(dict.fromkeys((*self._names(ALLOCATOR), *LOOPBACK))))

    def _names(self, service: str) -> tuple[str, ...]:
        inside = f"{service}.{self.namespace}"
        names = (service, inside, f"{inside}.svc", f"{inside}.svc.cluster.local", *self.more_names)
        return tuple(dict.fromkeys(names))
