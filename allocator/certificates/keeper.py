"""Keeps the built-in certificates in the cluster: looks every few seconds, and writes what is not as it should be.

Rules:

* Only the allocator that holds the Lease writes; one that stands by makes its own certificate and writes nothing. Every
  write names the resourceVersion that it replaces.
* The places that say whom to trust are read before the authority. Whoever finds a place in its newest version then
  knows at least the authority that was written there, and cannot put an older one in its stead.
* The authority is written first, then whom to trust, then what needs that trust; our own certificate is changed last.
* A place that fails is told of and holds up no other. A webhook configuration that is not there trusts nobody.
* An authority that was deleted comes back as it was: we remember it. Shims whose Secret was deleted get a new
  certificate, which is a way to ask for one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from allocator.certificates import objects
from allocator.certificates.authority import Authority, advance, certified, next_due
from allocator.certificates.issuing import Pair, ends, parse_all, pem
from allocator.certificates.objects import AUTHORITY, SHIM_TLS, CertificateSettings, Object, UnreadableError
from allocator.certificates.seen import Paths, SeenObjects, look
from allocator.certificates.serving import BuiltInCertificate
from allocator.cluster.client import ApiError, KubernetesApi, UnreachableError
from hostport.rollover import ending

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
SOON_SECONDS = 1.0  # after a change, and while there is no certificate
LEASE_SECONDS = 0.1  # until the Lease is ours, which asks nobody anything


class CertificateKeeper:
    """See the module. `now` gives seconds since the epoch, `callers` the CA of further callers, as PEM."""

    def __init__(
        self,
        api: KubernetesApi,
        settings: CertificateSettings,
        serving: BuiltInCertificate,
        *,
        may_write: Callable[[], bool],
        callers: Callable[[], str] = str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._settings = settings
        self._serving = serving
        self._may_write = may_write
        self._callers, self._callers_ca = callers, ""
        self._now = now
        self._authority: Authority | None = None  # as it was last seen or written
        self._shims: Pair | None = None  # the same
        self._own: Pair | None = None
        self._served: tuple[Pair, str] | None = None
        self._ready = asyncio.Event()
        self._has_written = False
        self._read_at = float("-inf")
        self.trouble = ""  # what keeps us from it now
        self._paths = Paths(settings.namespace, settings.webhook)

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

    def trusted(self) -> Mapping[str, float]:
        """When each authority ends that is trusted: by fingerprint, seconds since the epoch."""
        return ending(self._served[1]) if self._served else {}

    async def forever(self) -> None:
        """Keeps the certificates until it is cancelled."""
        while True:
            wait = await self.reconcile()
            await asyncio.sleep(wait)

    async def reconcile(self) -> float:
        """Looks and writes; returns after how many seconds to do so again."""
        troubles: list[str] = []
        is_writer = self._may_write()
        if not is_writer and 0 <= self._now() - self._read_at < LOOK_SECONDS:  # also after a clock was set back
            return LEASE_SECONDS
        try:
            await (self._round(troubles) if is_writer else self._read_only(troubles))
        except (ApiError, UnreachableError, ValueError) as error:  # ValueError: somebody wrote what is no certificate
            troubles.append(str(error) or repr(error))
        self._say("; ".join(troubles))
        if not is_writer:
            return LEASE_SECONDS
        if self._has_written or self._authority is None or not self._ready.is_set():
            return SOON_SECONDS
        due = next_due(self._authority, filter(None, (self._shims, self._own)), self._settings.rules)
        return min(LOOK_SECONDS, max(0.0, due - self._now()) + 0.1)

    async def _read_only(self, troubles: list[str]) -> None:
        """Standing by: a certificate of the authority that is there, so that callers are connected already."""
        self._read_at = self._now()
        seen = await look(self._api, self._paths, troubles)
        if seen.authority is not None:
            authority = objects.authority_of(seen.authority)
            self._own = certified(self._own, self._settings.allocator, authority, self._settings.rules, now=self._now())
            self._serve(self._own, authority.bundle + self._further_callers(troubles))

    async def _round(self, troubles: list[str]) -> None:
        self._has_written = False
        seen = await look(self._api, self._paths, troubles)  # the places first, the authority last
        authority = await self._keep_authority(seen)  # written first: nobody is told to trust what is not kept
        settings, now, bundle = self._settings, self._now(), authority.bundle
        self._shims = certified(_held_by_shims(seen), settings.shim, authority, settings.rules, now=now)
        with _noting_trouble(self._paths.webhook, troubles):
            await self._keep_webhook(seen, bundle)
        with _noting_trouble(self._paths.config_map, troubles):
            await self._keep_config_map(seen, bundle)
        with _noting_trouble(self._paths.shims, troubles):
            await self._keep_shims(seen, self._shims, bundle)
        # Our own certificate is changed last, when whoever calls us could have learned whom to trust.
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

    def _held_authority(self, seen: SeenObjects) -> Authority | None:
        """What the Secret says; where it says nothing, what we remember."""
        if seen.authority is None:
            return self._authority
        try:
            return objects.authority_of(seen.authority)
        except UnreadableError as error:
            log.warning("the Secret %s is written anew: %s", AUTHORITY, error)
            return self._authority

    # -- writing

    async def _keep_authority(self, seen: SeenObjects) -> Authority:
        held = self._held_authority(seen)
        if held is None and self._paths.shims in seen.unknown:
            raise UnreachableError("no authority is made before it is known whom the shims trust")
        authority = advance(
            held,
            self._settings.rules,
            is_spread=seen.names(held.successor) if held else None,
            now=self._now(),
            also_trusted=seen.trusted_by_shims(),
        )
        secret = objects.authority_secret(authority, seen.authority, self._settings.namespace)
        if secret != seen.authority:
            await self._put(self._paths.secrets, secret)
            _tell_change(held, authority)
        self._authority = authority
        return authority

    async def _keep_webhook(self, seen: SeenObjects, bundle: str) -> None:
        configuration = seen.webhook
        if configuration is not None and any(old != bundle for old in objects.webhook_bundles(configuration)):
            patch = objects.webhook_patch(configuration, bundle)
            await self._send("PATCH", self._paths.webhook, patch)

    async def _keep_config_map(self, seen: SeenObjects, bundle: str) -> None:
        old = seen.config_map
        if self._paths.config_map not in seen.unknown and (old is None or objects.config_map_bundle(old) != bundle):
            await self._put(self._paths.config_maps, objects.config_map(bundle, old, self._settings.namespace))

    async def _keep_shims(self, seen: SeenObjects, pair: Pair, bundle: str) -> None:
        secret = objects.shim_secret(pair, bundle, seen.shims, self._settings.namespace)
        if self._paths.shims not in seen.unknown and secret != seen.shims:
            await self._put(self._paths.secrets, secret)

    async def _put(self, collection: str, obj: Object) -> None:
        metadata = obj["metadata"]
        if "resourceVersion" in metadata:
            await self._send("PUT", f"{collection}/{metadata['name']}", obj)
        else:
            await self._send("POST", collection, obj)

    async def _send(self, method: str, path: str, body: Any) -> None:
        if not self._may_write():  # asked before each write: the Lease may have ended while we read
            raise UnreachableError("the Lease is not ours any more")
        self._has_written = True
        await self._api.send(method, path, {}, body)

    def _say(self, trouble: str) -> None:
        """Once, until it is something else."""
        if trouble and trouble != self.trouble:
            log.warning("certificates: %s", trouble)
        self.trouble = trouble


def _held_by_shims(seen: SeenObjects) -> Pair | None:
    if seen.shims is None:
        return None
    try:
        return objects.shim_pair(seen.shims)
    except UnreadableError as error:
        log.warning("the Secret %s is written anew: %s", SHIM_TLS, error)
        return None


@contextmanager
def _noting_trouble(path: str, troubles: list[str]) -> Iterator[None]:
    """A place that fails is no reason to leave the next one."""
    try:
        yield
    except (ApiError, UnreachableError) as error:
        troubles.append(f"{path}: {error}")


def _tell_change(before: Authority | None, after: Authority) -> None:
    if before is None or before.signer.certificate != after.signer.certificate:
        log.info("certificates come from %s now", after.signer.certificate.subject.rfc4514_string())
    elif after.successor is not None and before.successor is None:
        log.info("%s follows; it is made known first", after.successor.certificate.subject.rfc4514_string())
