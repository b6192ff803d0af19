"""What a check has seen, as values: each thing, or why it could not be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hostport.v1 import allocator_pb2 as pb

REGISTRATION, CONFIGURATIONS = "admissionregistration.k8s.io", "mutatingwebhookconfigurations"


@dataclass(frozen=True, slots=True)
class Unseen:
    """Why something could not be seen. `reason` is the API server's word, such as NotFound; empty: no answer of it."""

    message: str
    reason: str = ""

    @property
    def is_missing(self) -> bool:
        return self.reason == "NotFound"

    @property
    def is_forbidden(self) -> bool:
        return self.reason in {"Forbidden", "Unauthorized"}


@dataclass(frozen=True, slots=True)
class RequiredRight:
    """What a ServiceAccount must be allowed. `name` empty: of any name; `is_own`: in the installation's namespace.

    `is_for_certificates`: needed by an allocator alone that makes certificates itself.
    """

    verb: str
    resource: str
    group: str = ""
    name: str = ""
    is_own: bool = False
    is_for_certificates: bool = False

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


RIGHTS = (
    *(RequiredRight(verb, "pods") for verb in ("get", "list", "watch")),
    *(RequiredRight(verb, "nodes") for verb in ("list", "watch")),
    *(RequiredRight(verb, "namespaces") for verb in ("list", "watch")),
    *(RequiredRight(verb, "services") for verb in ("list", "watch")),
    *(RequiredRight(verb, "events", "events.k8s.io") for verb in ("create", "patch")),
    RequiredRight("create", "tokenreviews", "authentication.k8s.io"),
    RequiredRight("create", "subjectaccessreviews", "authorization.k8s.io"),
    *(RequiredRight(verb, "portleases", "hostport.io") for verb in ("create", "delete", "get", "list", "watch")),
    RequiredRight("patch", "portleases/status", "hostport.io"),
    *(
        RequiredRight(verb, "leases", "coordination.k8s.io", name, is_own=True)
        for verb, name in (
            ("get", "hostport-allocator"),
            ("update", "hostport-allocator"),
            ("watch", "hostport-allocator"),
            ("create", ""),
        )
    ),
    RequiredRight("patch", "pods", is_own=True),
    *(
        RequiredRight(verb, resource, "", name, is_own=True, is_for_certificates=True)
        for resource, name in (
            ("secrets", "hostport-ca"),
            ("secrets", "hostport-shim-tls"),
            ("configmaps", "hostport-ca"),
        )
        for verb in ("get", "update")
    ),
    *(RequiredRight("create", each, is_own=True, is_for_certificates=True) for each in ("secrets", "configmaps")),
    *(
        RequiredRight(
            verb, "mutatingwebhookconfigurations", REGISTRATION, "hostport-operator", is_for_certificates=True
        )
        for verb in ("get", "patch")
    ),
)
"""What the allocator cannot do without; a test holds it against deploy/base/allocator-rbac.yaml."""


@dataclass(frozen=True, slots=True)
class ShownCertificate:
    """The certificate that the shim shows. `distrust`: why the API server would not accept it; empty: it does."""

    where: str
    expires: float
    distrust: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """Whether a Pod answered at a host port: on which node, at which address."""

    node: str
    address: str
    answers: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationFacts:
    """Everything.

    `forwarded` None: that was not asked for. `rights` are those that are missing; None: there is no ServiceAccount to
    ask about.
    """

    version: str | Unseen
    configuration: Any
    others: Sequence[str] | Unseen = ()  # webhook configurations of ours that are not of this installation
    is_backed: bool | Unseen = True  # whether the admission policy refuses Pods without ports
    shims: Sequence[Any] | Unseen = ()
    shown: ShownCertificate | Unseen
    dry_run: Any
    status: pb.GetStatusResponse | Unseen
    leases: Sequence[Any] | Unseen = ()
    rights: Sequence[RequiredRight] | Unseen | None = None
    forwarded: Forwarded | Unseen | None = None
    now: float
    program: str
