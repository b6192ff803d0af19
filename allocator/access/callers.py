"""Who calls: read once from a client certificate, or from what the API server says of a token. Pure.

Rules:

* A certificate is read as Kubernetes reads it: the last common name is the user, the organizations are the groups, and
  whoever shows one is `system:authenticated`.
* A shim is a certificate with the shim's name, and nothing else is: no token makes one.
* Nothing here is a secret, so that a caller may be logged and kept.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any

from cryptography.x509 import load_pem_x509_certificate
from cryptography.x509.oid import NameOID

from hostport.bounds import LONGEST_REQUEST_ID

AUTHENTICATED = "system:authenticated"
SERVICE_ACCOUNT = "system:serviceaccount:"


class Role(Enum):
    """What kind of caller."""

    SHIM = "a shim"
    USER = "a user of the cluster"
    ANYBODY = "whoever is on this machine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A user as Kubernetes knows users, and until when its certificate is good (seconds since the epoch)."""

    role: Role = Role.USER
    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()
    until: float = math.inf

    @property
    def namespace(self) -> str:
        """Of a ServiceAccount; empty for everybody else."""
        if not self.name.startswith(SERVICE_ACCOUNT):
            return ""
        return self.name.removeprefix(SERVICE_ACCOUNT).partition(":")[0]

    def own(self, request_id: str) -> str:
        """The request_id as nobody else can send it: a user's requests are no answer to another's.

        The length comes first, since names and ids may have any letters: `a/b` with id `c` is not `a` with `b/c`.
        A digest stands for what is longer than a request_id may be: a caller has a name of any length.
        """
        if not request_id or self.role is not Role.USER:
            return request_id
        own = f"{len(self.name)}:{self.name}/{request_id}"
        return own if len(own) <= LONGEST_REQUEST_ID else f"sha256:{hashlib.sha256(own.encode()).hexdigest()}"


ANYBODY = Caller(role=Role.ANYBODY, name="")


@lru_cache(maxsize=1024)
def from_certificate(pem: bytes, shim_name: str) -> Caller | None:
    """The caller that a verified certificate names; None where it names nobody. Cached: a peer shows the same one."""
    try:
        certificate = load_pem_x509_certificate(pem)
    except ValueError:  # stricter than what verified it
        return None
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not names or not names[-1]:
        return None
    groups = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return Caller(
        role=Role.SHIM if names[-1] == shim_name else Role.USER,
        name=names[-1],
        groups=(*groups, AUTHENTICATED),
        until=certificate.not_valid_after_utc.timestamp(),
    )


def from_review(status: Mapping[str, Any], audience: str) -> Caller | None:
    """The caller that the status of a TokenReview names.

    None where the token is not accepted, and where it is not meant for us: an API server that answers without audiences
    has not looked at them.
    """
    user = status.get("user") or {}
    if status.get("authenticated") is not True or audience not in (status.get("audiences") or ()):
        return None
    if not user.get("username"):
        return None
    extra = user.get("extra") or {}
    return Caller(
        name=str(user["username"]),
        uid=str(user.get("uid") or ""),
        groups=tuple(map(str, user.get("groups") or ())),
        extra=tuple((str(key), tuple(map(str, values or ()))) for key, values in sorted(extra.items())),
    )
