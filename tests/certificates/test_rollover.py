"""Through any number of roll-overs, whatever fails and however late anybody sees it: nobody meets a stranger."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from itertools import accumulate

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from allocator.certificates import objects
from allocator.certificates.authority import CertificateRules
from allocator.certificates.issuing import Pair, ends, pem, read_all
from allocator.certificates.keeper import CertificateKeeper
from allocator.certificates.objects import CertificateSettings
from allocator.certificates.serving import BuiltInCertificate
from certificates.apiserver import CA, CONFIG_MAP, NAMESPACE, PLACES, SHIM_TLS, WEBHOOK, Objects, webhook_configuration

PROPAGATION = 80.0
RULES = CertificateRules(
    authority_seconds=12 * PROPAGATION, certificate_seconds=6 * PROPAGATION, propagation_seconds=PROPAGATION
)
STEP = PROPAGATION / 4
STEPS = 100  # three authorities sign, one after the other


@lru_cache(maxsize=4096)
def _signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, InvalidSignature):
        return False
    return True


class World(BuiltInCertificate):
    """The API server, an allocator that may be restarted, and everybody who sees what is written up to 80 s late."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0
        super().__init__(now=self.seconds)
        self.api = Objects(now=self.now)
        self.api.put(WEBHOOK, webhook_configuration(2))
        self.signers: set[x509.Certificate] = set()
        self.start()

    def now(self) -> float:
        return self.seconds

    def start(self) -> None:
        """An allocator without a memory."""
        self.own: tuple[Pair, str] | None = None
        settings = CertificateSettings(namespace=NAMESPACE, rules=RULES)
        self.keeper = CertificateKeeper(self.api, settings, self, may_write=lambda: True, now=self.now)

    def serve(self, pair: Pair, trusted: str) -> None:
        self.own = (pair, trusted)

    def step(self, fault: tuple[str, str] | None) -> None:
        self.seconds += STEP
        kind, path = fault or ("", "")
        if kind == "restart":
            self.start()
        elif kind == "delete":
            self.api.put(path, None)
        elif kind == "revert":
            self.forget_successor()
        self.api.fault = {path: kind} if kind in {"get", "write", "lost"} else {}
        asyncio.run(self.keeper.reconcile())

    def forget_successor(self) -> None:
        """Somebody applies an old ConfigMap, while there is time to make the successor known once more."""
        secret, place = self.api.get(CA), self.api.get(CONFIG_MAP)
        if secret is None or place is None:
            return
        held = objects.authority_of(secret)
        if held.successor and self.seconds + STEP + 2 * PROPAGATION <= ends(held.signer.certificate):
            self.api.put(CONFIG_MAP, objects.config_map(pem([held.signer.certificate]), place, NAMESPACE))

    def strangers(self) -> list[str]:
        """Who would be refused by whom, if they met now."""
        shims = [
            (objects.shim_pair(each), objects.shim_bundle(each)) for each in self.api.within(SHIM_TLS, PROPAGATION)
        ]
        webhooks = [
            bundle
            for each in self.api.within(WEBHOOK, PROPAGATION)
            for bundle in objects.webhook_bundles(each)
            if bundle
        ]
        services = [objects.config_map_bundle(each) for each in self.api.within(CONFIG_MAP, PROPAGATION)]
        found = [
            f"a shim by the API server {self.seconds}" for s, _ in shims for w in webhooks if not self.trusts(w, s)
        ]
        if self.own is not None:
            own, trusted = self.own
            self.signers.update(a for a in read_all(trusted) if _signed(own.certificate, a))
            found += ["the allocator by a shim" for _, bundle in shims if not self.trusts(bundle, own)]
            found += ["the allocator by a service" for bundle in services if not self.trusts(bundle, own)]
            found += ["a shim by the allocator" for shim, _ in shims if not self.trusts(trusted, shim)]
        return found

    def trusts(self, bundle: str, shown: Pair) -> bool:
        return ends(shown.certificate) > self.seconds and any(
            _signed(shown.certificate, each) and ends(each) > self.seconds for each in read_all(bundle)
        )


Faults = list[tuple[int, tuple[str, str]]]
FAULTS = st.one_of(
    st.tuples(st.sampled_from(["get", "write", "lost"]), st.sampled_from(PLACES)),
    st.tuples(st.just("delete"), st.sampled_from([SHIM_TLS, CONFIG_MAP, WEBHOOK, CA])),
    st.sampled_from([("restart", ""), ("revert", "")]),
)


DELAYED: Faults = [(2, ("delete", SHIM_TLS)), (12, ("delete", SHIM_TLS)), (20, ("revert", "")), (5, ("revert", ""))]
"""What is taken back twice delays the successor until the last moment."""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(faults=DELAYED)
@given(faults=st.lists(st.tuples(st.integers(2, 20), FAULTS), max_size=20))
def test_nobody_meets_a_stranger(faults: Faults) -> None:
    world = World()
    scripted = dict(zip(accumulate(gap for gap, _ in faults), (fault for _, fault in faults), strict=True))
    for number in range(STEPS):
        world.step(scripted.get(number))
        if number > 0:  # at first nobody knows anybody
            assert world.strangers() == []

    assert len(world.signers) >= 3
