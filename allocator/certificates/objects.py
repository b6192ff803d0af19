"""The objects of the cluster that hold certificates, read and written as JSON. Pure.

| object | holds | for |
|---|---|---|
| Secret `hostport-ca` | the authority, its key, and its successor | the allocator alone |
| Secret `hostport-shim-tls` | the shims' certificate, its key, whom they trust | the shims |
| ConfigMap `hostport-ca` | whom to trust | services that call the allocator |
| caBundle of the webhook configuration | whom to trust | the API server |

What cannot be read counts as absent: it is made anew.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from allocator.certificates.authority import Authority, CertificateRules
from allocator.certificates.issuing import (
    CLIENT,
    SERVER,
    CertificateSubject,
    Pair,
    is_authority,
    pem,
    read_all,
    read_pair,
)
from hostport.timestamps import seconds_of

AUTHORITY = "hostport-ca"
SHIM_TLS = "hostport-shim-tls"

CERT, KEY, CA = "tls.crt", "tls.key", "ca.crt"
NEXT_CERT, NEXT_KEY = "next.crt", "next.key"
SPREAD_SINCE = "hostport.io/successor-trusted-since"
LABELS = {"app.kubernetes.io/part-of": "hostport-operator", "app.kubernetes.io/managed-by": "hostport-allocator"}

Object = dict[str, Any]

SHIM, ALLOCATOR = "hostport-shim", "hostport-allocator"  # the Services
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSettings:
    """`more_names`: DNS names and addresses under which the programs are reached as well.

    `shim_name`: the common name by which the allocator tells a shim from any other caller.
    """

    namespace: str
    rules: CertificateRules
    webhook: str = "hostport-operator"
    shim_name: str = SHIM
    more_names: tuple[str, ...] = ()

    @property
    def shim(self) -> CertificateSubject:
        return CertificateSubject(name=self.shim_name, alternatives=self._names(SHIM), usages=(SERVER, CLIENT))

    @property
    def allocator(self) -> CertificateSubject:
        """Loopback, too: there it is reached through `kubectl port-forward`."""
        return CertificateSubject(
            name=ALLOCATOR, alternatives=tuple(dict.fromkeys((*self._names(ALLOCATOR), *LOOPBACK)))
        )

    def _names(self, service: str) -> tuple[str, ...]:
        inside = f"{service}.{self.namespace}"
        names = (service, inside, f"{inside}.svc", f"{inside}.svc.cluster.local", *self.more_names)
        return tuple(dict.fromkeys(names))


class UnreadableError(Exception):
    """An object is there and does not hold what it should. The message has nothing secret."""


def authority_of(secret: Object) -> Authority:
    """Raises UnreadableError."""
    data = _decoded(secret)
    signer = _pair(data, CERT, KEY)
    if not is_authority(signer.certificate):
        raise UnreadableError(f"{CERT} is not the certificate of an authority")
    successor = _pair(data, NEXT_CERT, NEXT_KEY) if NEXT_CERT in data else None
    known = [signer.certificate, *([successor.certificate] if successor else [])]
    trusted = tuple(dict.fromkeys((*read_all(data.get(CA, "")), *known)))
    since = (secret["metadata"].get("annotations") or {}).get(SPREAD_SINCE)
    return Authority(signer=signer, trusted=trusted, successor=successor, spread_since=seconds_of(since))


def authority_secret(authority: Authority, old: Object | None, namespace: str) -> Object:
    """The Secret `hostport-ca` of an authority: a change of `old`, whose other fields stay, or a new one."""
    successor = authority.successor
    values = _values(authority.signer, authority.bundle)
    if successor:
        values |= {NEXT_CERT: pem([successor.certificate]), NEXT_KEY: successor.key}
    secret = _secret(AUTHORITY, values, old, namespace)
    return {**secret, "metadata": _with_note(secret["metadata"], authority.spread_since)}


def _with_note(metadata: Object, since: float | None) -> Object:
    """No annotations at all where there are none: so the API server stores it, and what is equal compares equal."""
    notes = {k: v for k, v in (metadata.get("annotations") or {}).items() if k != SPREAD_SINCE}
    if since is not None:
        notes[SPREAD_SINCE] = datetime.fromtimestamp(since, UTC).isoformat()
    others = {k: v for k, v in metadata.items() if k != "annotations"}
    return others | ({"annotations": notes} if notes else {})


def shim_pair(secret: Object) -> Pair:
    """Raises UnreadableError."""
    return _pair(_decoded(secret), CERT, KEY)


def shim_bundle(secret: Object) -> str:
    return _decoded(secret).get(CA, "")


def shim_secret(pair: Pair, bundle: str, old: Object | None, namespace: str) -> Object:
    return _secret(SHIM_TLS, _values(pair, bundle), old, namespace)


def config_map_bundle(config_map: Object) -> str:
    found: str = (config_map.get("data") or {}).get(CA, "")
    return found


def config_map(bundle: str, old: Object | None, namespace: str) -> Object:
    return {**(old or _new("ConfigMap", AUTHORITY, namespace)), "data": {CA: bundle}}


def webhook_bundles(configuration: Object) -> list[str]:
    """The caBundle of each webhook in it."""
    return [_decoded_text(each["clientConfig"].get("caBundle") or "") for each in configuration.get("webhooks") or []]


def webhook_patch(configuration: Object, bundle: str) -> list[Object]:
    """A JSON patch that gives every webhook the bundle, unless the configuration has changed meanwhile."""
    version = configuration["metadata"]["resourceVersion"]
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        *(
            {"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": _base64(bundle)}
            for at, old in enumerate(webhook_bundles(configuration))
            if old != bundle
        ),
    ]


def _values(pair: Pair, bundle: str) -> dict[str, str]:
    return {CERT: pem([pair.certificate]), KEY: pair.key, CA: bundle}


def _secret(name: str, values: Mapping[str, str], old: Object | None, namespace: str) -> Object:
    """What others wrote beside our data stays, its type too: that cannot be changed."""
    fresh = old or {**_new("Secret", name, namespace), "type": "kubernetes.io/tls"}
    return {**fresh, "data": {key: _base64(value) for key, value in values.items()}}


def _new(kind: str, name: str, namespace: str) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace, "labels": LABELS}}


def _pair(data: Mapping[str, str], cert: str, key: str) -> Pair:
    try:
        return read_pair(data.get(cert, ""), data.get(key, ""))
    except ValueError as error:
        raise UnreadableError(f"{cert} and {key}: {error}") from error


def _decoded(secret: Object) -> dict[str, str]:
    return {key: _decoded_text(value) for key, value in (secret.get("data") or {}).items()}


def _decoded_text(value: str) -> str:
    try:
        return base64.b64decode(value).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
