"""Keeps the built-in certificates in the cluster: looks every few seconds, and writes what is not as it should be.

Rules:

* Only the allocator that holds the Lease writes, and every write names the resourceVersion that it replaces.
* The places that say whom to trust are read before the authority. Whoever finds a place in its newest version then
  knows at least the authority that was written there, and cannot put an older one in its stead.
* The authority is written first, then whom to trust, then what needs that trust; our own certificate is changed last.
* A place that fails is told of and holds up no other. A webhook configuration that is not there trusts nobody.
* An authority that was deleted comes back as it was: we remember it. Shims whose Secret was deleted get a new
  certificate, which is a way to ask for one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from allocator.certificates import objects
from allocator.certificates.authority import Authority, Certificates, advance, certified, next_due
from allocator.certificates.issuing import Pair, ends, parse_all, pem, read_all
from allocator.certificates.objects import AUTHORITY, SHIM_TLS, Object, UnreadableError
from allocator.certificates.serving import Serving
from allocator.certificates.settings import Settings
from allocator.cluster.client import ApiError, UnreachableError
from allocator.cluster.lease import Api

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
SOON_SECONDS = 1.0  # after a change, or a failure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What one look found. None: there is no such object."""

    webhook: Object | None
    config_map: Object | None
    shim: Object | None
    authority: Object | None
    unknown: frozenset[str]  # the places that could not be read

    def names(self, successor: Pair | None) -> bool | None:
        """Whether every place names it as trusted; None: not all of them could be seen, and nobody contradicts."""
        if successor is None:
            return None
        bundles = [
            *(objects.webhook_bundles(self.webhook) if self.webhook else []),
            *([objects.config_map_bundle(self.config_map)] if self.config_map else []),
            *([objects.shim_bundle(self.shim)] if self.shim else []),
        ]
        if any(pem([successor.certificate]) not in bundle for bundle in bundles):
            return False
        return None if self.unknown or not (self.config_map and self.shim) else True


class Keeper:
    """See the module. `now` gives seconds since the epoch, `callers` the CA of further callers, as PEM."""

    def __init__(
        self,
        api: Api,
        settings: Settings,
        serving: Serving,
        *,
        may_write: Callable[[], bool],
        callers: Callable[[], str] = str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._settings = settings
        self._serving = serving
        self._may_write = may_write
        self._callers = callers
        self._callers_ca = ""
        self._now = now
        self._authority: Authority | None = None  # as it was last seen or written
        self._shims: Pair | None = None  # the same
        self._own: Pair | None = None
        self._served: tuple[Pair, str] | None = None
        self._ready = asyncio.Event()
        self._has_written = False
        self.trouble = ""  # what keeps us from it now
        core = f"/api/v1/namespaces/{settings.namespace}"
        self._secrets, self._config_maps = f"{core}/secrets", f"{core}/configmaps"
        self._shim_secret, self._config_map = f"{self._secrets}/{SHIM_TLS}", f"{self._config_maps}/{AUTHORITY}"
        self._webhook = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{settings.webhook}"

    async def ready(self) -> None:
        """Returns when the certificate of this allocator is there."""
        await self._ready.wait()

    @property
    def missing(self) -> str | None:
        """What a check says while there is no certificate."""
        return None if self._ready.is_set() else self.trouble or "waiting for the Lease"

    def expires(self) -> float:
        """When our own certificate ends, seconds since the epoch; 0: there is none yet."""
        return ends(self._own.certificate) if self._own else 0.0

    def authority_expires(self) -> float:
        return ends(self._authority.signer.certificate) if self._authority else 0.0

    async def forever(self) -> None:
        try:
            while True:
                wait = await self._turn()
                await asyncio.sleep(wait)
        finally:
            await self._api.close()

    async def _turn(self) -> float:
        """Looks and writes; returns after how many seconds to do so again."""
        if not self._may_write():
            return SOON_SECONDS
        troubles: list[str] = []
        try:
            await self._round(troubles)
        except (ApiError, UnreachableError) as error:
            troubles.append(str(error))
        except Exception:
            log.exception("the certificates were not looked after this time")
            troubles.append("a fault of the allocator's own")
        self._say("; ".join(troubles))
        if troubles or self._has_written or self._authority is None:
            return SOON_SECONDS
        due = next_due(self._authority, filter(None, (self._shims, self._own)), self._settings.rules)
        return min(LOOK_SECONDS, max(0.0, due - self._now()) + 0.1)

    async def _round(self, troubles: list[str]) -> None:
        self._has_written = False
        seen = await self._look(troubles)
        authority = await self._keep_authority(seen)
        settings, now, bundle = self._settings, self._now(), authority.bundle
        self._shims = certified(_held_by_shims(seen), settings.shim, authority, settings.rules, now=now)
        for what, place in (
            ("webhook configuration", self._keep_webhook(seen, bundle)),
            ("ConfigMap", self._keep_config_map(seen, bundle)),
            ("Secret of the shims", self._keep_shims(seen, self._shims, bundle)),
        ):
            await _attempt(what, place, troubles)
        self._own = certified(self._own, settings.allocator, authority, settings.rules, now=now)
        self._serve(self._own, bundle + self._further_callers(troubles))

    def _further_callers(self, troubles: list[str]) -> str:
        """Their CA; the one that was, while the file is unreadable."""
        try:
            self._callers_ca = pem(parse_all(self._callers()))
        except (OSError, ValueError) as error:
            troubles.append(f"--tls-client-ca: {error}")
        return self._callers_ca

    def _serve(self, own: Pair, trusted: str) -> None:
        if self._served != (own, trusted):
            self._serving.serve(own, trusted)
            self._served = (own, trusted)
            log.info("serving with a certificate of %s", own.certificate.issuer.rfc4514_string())
            self._ready.set()

    # -- looking

    async def _look(self, troubles: list[str]) -> _Seen:
        """The authority last, and it must be seen."""
        unknown: set[str] = set()

        async def place(path: str) -> Object | None:
            try:
                return await self._get(path)
            except ApiError as error:
                unknown.add(path)
                troubles.append(f"{path}: {error}")
                return None

        webhook, config_map, shim = [await place(each) for each in (self._webhook, self._config_map, self._shim_secret)]
        authority = await self._get(f"{self._secrets}/{AUTHORITY}")
        return _Seen(webhook=webhook, config_map=config_map, shim=shim, authority=authority, unknown=frozenset(unknown))

    async def _get(self, path: str) -> Object | None:
        try:
            found: Object = json.loads(await self._api.send("GET", path))
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return found

    def _held_authority(self, seen: _Seen) -> Authority | None:
        """What the Secret says; where it says nothing, what we remember."""
        if seen.authority is None:
            return self._authority
        try:
            return objects.authority_of(seen.authority)
        except UnreadableError as error:
            log.warning("the Secret %s is written anew: %s", AUTHORITY, error)
            return self._authority

    # -- writing

    async def _keep_authority(self, seen: _Seen) -> Authority:
        held = self._held_authority(seen)
        authority = advance(
            held,
            self._settings.rules,
            is_spread=seen.names(held.successor) if held else None,
            now=self._now(),
            also_trusted=_trusted_by(seen),
        )
        secret = objects.authority_secret(authority, seen.authority, self._settings.namespace)
        if secret != seen.authority:
            await self._put(self._secrets, secret)
            _tell(held, authority)
        self._authority = authority
        return authority

    async def _keep_webhook(self, seen: _Seen, bundle: str) -> None:
        configuration = seen.webhook
        if configuration is not None and any(old != bundle for old in objects.webhook_bundles(configuration)):
            patch = objects.webhook_patch(configuration, bundle)
            await self._send("PATCH", self._webhook, patch)

    async def _keep_config_map(self, seen: _Seen, bundle: str) -> None:
        old = seen.config_map
        if self._config_map not in seen.unknown and (old is None or objects.config_map_bundle(old) != bundle):
            await self._put(self._config_maps, objects.config_map(bundle, old, self._settings.namespace))

    async def _keep_shims(self, seen: _Seen, pair: Pair, bundle: str) -> None:
        secret = objects.shim_secret(pair, bundle, seen.shim, self._settings.namespace)
        if self._shim_secret not in seen.unknown and secret != seen.shim:
            await self._put(self._secrets, secret)

    async def _put(self, collection: str, obj: Object) -> None:
        metadata = obj["metadata"]
        if "resourceVersion" in metadata:
            await self._send("PUT", f"{collection}/{metadata['name']}", obj)
        else:
            await self._send("POST", collection, obj)

    async def _send(self, method: str, path: str, body: Any) -> None:
        if not self._may_write():
            raise UnreachableError("the Lease is not ours any more")
        self._has_written = True
        await self._api.send(method, path, {}, body)

    def _say(self, trouble: str) -> None:
        """Once, until it is something else."""
        if trouble and trouble != self.trouble:
            log.warning("certificates: %s", trouble)
        self.trouble = trouble


def _held_by_shims(seen: _Seen) -> Pair | None:
    if seen.shim is None:
        return None
    try:
        return objects.shim_pair(seen.shim)
    except UnreadableError as error:
        log.warning("the Secret %s is written anew: %s", SHIM_TLS, error)
        return None


async def _attempt(what: str, work: Awaitable[None], troubles: list[str]) -> None:
    try:
        await work
    except (ApiError, UnreachableError) as error:
        troubles.append(f"{what}: {error}")


def _trusted_by(seen: _Seen) -> Certificates:
    """Whom the shims trust."""
    return read_all(objects.shim_bundle(seen.shim)) if seen.shim else ()


def _tell(before: Authority | None, after: Authority) -> None:
    if before is None or before.signer.certificate != after.signer.certificate:
        log.info("certificates come from %s now", after.signer.certificate.subject.rfc4514_string())
    elif after.successor is not None and before.successor is None:
        log.info("%s follows; it is made known first", after.successor.certificate.subject.rfc4514_string())
