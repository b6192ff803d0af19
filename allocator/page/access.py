"""Who may see the page. It names Pods of every namespace, and the http port is plain text and open for probes.

So by default only a connection that comes from the machine itself is answered: in a cluster that is
`kubectl port-forward`, which the API server authenticates and authorises. Whoever may forward to the Pod may look.

A page of somebody else in the reader's browser must not read it either. By DNS rebinding a foreign name can be made to
mean this address: so the Host header has to be an address, `localhost`, or a name that the operator has given. And what
a browser says is asked for by another site is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum

NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Audience(Enum):
    """Whose connections are answered."""

    NOBODY = "off"
    LOOPBACK = "loopback"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAccess:
    """The rule. `names`: what else the Host header may be."""

    audience: Audience = Audience.LOOPBACK
    names: frozenset[str] = frozenset()

    def objection(self, *, peer: str, host: str, site: str) -> str | None:
        """Why a request is refused; None where it is not. `site` is the header Sec-Fetch-Site."""
        if self.audience is Audience.NOBODY:
            return "the status page is turned off (--page off)"
        if self.audience is Audience.LOOPBACK and not _is_loopback(peer):
            return (
                "the status page is shown on this machine only, since it names Pods of every namespace."
                " In a cluster: kubectl -n hostport-system port-forward deploy/hostport-allocator 8081,"
                " then http://localhost:8081. Who should see it without: --page all"
            )
        if not self._knows(hostname(host)):
            return (
                "this Host header is neither an address nor localhost, and a foreign name may mean anything."
                " A name that is right goes into --page-hosts"
            )
        if site not in {"", "none", "same-origin"}:
            return "another site asks for this. Open the page by itself"
        return None

    def _knows(self, name: str) -> bool:
        return name == "localhost" or _is_address(name) or name in self.names


def hostname(host: str) -> str:
    """The Host header without its port, in lower case."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def parse_names(text: str) -> frozenset[str]:
    """The names of `status.example.com,other.example.com`.

    Raises:
        ValueError: one of them is no name.

    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no host name such as status.example.com")
    return frozenset(names)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
