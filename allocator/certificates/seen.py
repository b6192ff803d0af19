"""One look at the objects that hold certificates, and what they say together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus

from allocator.certificates import objects
from allocator.certificates.authority import Certificates
from allocator.certificates.issuing import Pair, pem, read_all
from allocator.certificates.objects import AUTHORITY, SHIM_TLS, Object
from allocator.cluster.client import ApiError, KubernetesApi


class Paths:
    """Where the objects are."""

    def __init__(self, namespace: str, webhook: str) -> None:
        core = f"/api/v1/namespaces/{namespace}"
        self.secrets, self.config_maps = f"{core}/secrets", f"{core}/configmaps"
        self.authority, self.shims = f"{self.secrets}/{AUTHORITY}", f"{self.secrets}/{SHIM_TLS}"
        self.config_map = f"{self.config_maps}/{AUTHORITY}"
        self.webhook = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{webhook}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenObjects:
    """What a look found. None: there is no such object, or its path is in `unknown`."""

    webhook: Object | None
    config_map: Object | None
    shims: Object | None
    authority: Object | None
    unknown: frozenset[str]

    def names(self, successor: Pair | None) -> bool | None:
        """Whether every place names it as trusted; None: not all of them could be seen, and none contradicts."""
        if successor is None:
            return None
        bundles = [
            *(objects.webhook_bundles(self.webhook) if self.webhook else []),
            *([objects.config_map_bundle(self.config_map)] if self.config_map else []),
            *([objects.shim_bundle(self.shims)] if self.shims else []),
        ]
        if any(pem([successor.certificate]) not in bundle for bundle in bundles):
            return False
        return None if self.unknown or not (self.config_map and self.shims) else True

    def trusted_by_shims(self) -> Certificates:
        return read_all(objects.shim_bundle(self.shims)) if self.shims else ()


async def look(api: KubernetesApi, paths: Paths, troubles: list[str]) -> SeenObjects:
    """Looks at the authority last, which must be seen; of other places it is told where they cannot be.

    Raises:
        ApiError, UnreachableError: the API server does not answer, or not about the authority.

    """
    unknown: set[str] = set()

    async def place(path: str) -> Object | None:
        try:
            return await _get(api, path)
        except ApiError as error:
            unknown.add(path)
            troubles.append(f"{path}: {error}")
            return None

    webhook, config_map, shims = [await place(each) for each in (paths.webhook, paths.config_map, paths.shims)]
    return SeenObjects(
        webhook=webhook,
        config_map=config_map,
        shims=shims,
        authority=await _get(api, paths.authority),
        unknown=frozenset(unknown),
    )


async def _get(api: KubernetesApi, path: str) -> Object | None:
    try:
        found: Object = json.loads(await api.send("GET", path))
    except ApiError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise
    return found
