"""What the keeper does about objects that are missing, spoilt, or changed by others. The roll-over is another module."""

from __future__ import annotations

import base64
import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from allocator.certificates import objects
from allocator.certificates.authority import CertificateRules
from allocator.certificates.issuing import Pair, is_from
from allocator.certificates.keeper import LOOK_SECONDS, CertificateKeeper
from allocator.certificates.objects import CertificateSettings
from allocator.certificates.serving import BuiltInCertificate
from certificates.apiserver import (
    CA,
    CONFIG_MAP,
    NAMESPACE,
    PLACES,
    SHIM_TLS,
    WEBHOOK,
    Objects,
    webhook_configuration,
)

RULES = CertificateRules(authority_seconds=12_000, certificate_seconds=6000, propagation_seconds=1000)


class Desk(BuiltInCertificate):
    """A keeper with an API server and a clock, and what the gRPC service was given."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        super().__init__(now=self.now)
        self.served: list[tuple[Pair, str]] = []
        self.holds_lease = True
        self.callers = ""
        self.api = Objects(now=lambda: self.now)
        self.api.put(WEBHOOK, webhook_configuration(2))
        self.start()

    def start(self) -> None:
        settings = CertificateSettings(namespace=NAMESPACE, rules=RULES)
        self.keeper = CertificateKeeper(
            self.api,
            settings,
            self,
            callers=self.read_callers,
            may_write=lambda: self.holds_lease,
            now=lambda: self.now,
        )

    def serve(self, pair: Pair, trusted: str) -> None:
        self.served.append((pair, trusted))

    def read_callers(self) -> str:
        return self.callers

    async def turn(self) -> float:
        self.api.requests.clear()
        return await self.keeper.reconcile()

    def writes(self) -> list[str]:
        return [each for each in self.api.requests if not each.startswith("GET")]

    def bundles(self) -> set[str]:
        """Whom everybody trusts; one text where all agree."""
        webhook, config_map, shim = (self.api.get(each) for each in (WEBHOOK, CONFIG_MAP, SHIM_TLS))
        assert webhook
        assert config_map
        assert shim
        return {*objects.webhook_bundles(webhook), objects.config_map_bundle(config_map), objects.shim_bundle(shim)}

    def data(self) -> dict[str, Any]:
        """What is kept, without versions."""
        found = {path: self.api.get(path) for path in PLACES}
        return {path: obj and {k: v for k, v in obj.items() if k != "metadata"} for path, obj in found.items()}


@pytest.fixture
async def desk() -> Desk:
    """After its first turn: everything is there."""
    made = Desk()
    await made.turn()
    return made


async def test_from_nothing_trust_is_written_before_what_needs_it() -> None:
    desk = Desk()

    await desk.turn()

    core = f"/api/v1/namespaces/{NAMESPACE}"
    assert desk.writes() == [
        f"POST {core}/secrets",
        f"PATCH {WEBHOOK}",
        f"POST {core}/configmaps",
        f"POST {core}/secrets",
    ]
    secret = desk.api.get(CA)
    assert secret is not None
    authority = objects.authority_of(secret)
    assert desk.bundles() == {authority.bundle}
    assert [trusted for _, trusted in desk.served] == [authority.bundle]
    assert is_from(authority.signer, desk.served[0][0].certificate)
    assert desk.keeper.missing is None


async def test_what_is_right_is_left_alone(desk: Desk) -> None:
    assert await desk.turn() == LOOK_SECONDS
    assert desk.writes() == []
    assert len(desk.served) == 1


async def test_a_restarted_allocator_takes_up_what_is_there(desk: Desk) -> None:
    before = desk.data()
    desk.start()

    await desk.turn()

    assert desk.writes() == []
    assert desk.data() == before
    assert [trusted for _, trusted in desk.served] == [*desk.bundles()] * 2


@pytest.mark.parametrize("path", [CA, CONFIG_MAP])
async def test_what_was_deleted_comes_back_as_it_was(desk: Desk, path: str) -> None:
    before = desk.data()
    desk.api.put(path, None)

    await desk.turn()

    assert desk.data() == before


@pytest.mark.parametrize("kind", [trustme.KeyType.ECDSA, trustme.KeyType.RSA], ids=["EC", "RSA"])
async def test_an_authority_that_cert_manager_or_openssl_has_left_is_taken_up(kind: trustme.KeyType) -> None:
    """Shims that run go on trusting, since the signer stays."""
    desk, left = Desk(), trustme.CA(key_type=kind)
    cert, key = (blob.bytes() for blob in (left.cert_pem, left.private_key_pem))
    data = {"tls.crt": base64.b64encode(cert).decode(), "tls.key": base64.b64encode(key).decode()}
    desk.api.put(CA, {"metadata": {"name": "hostport-ca", "namespace": NAMESPACE}, "type": "Opaque", "data": data})
    desk.now = time.time()

    await desk.turn()

    secret, shims = desk.api.get(CA), desk.api.get(SHIM_TLS)
    assert secret
    assert shims
    assert secret["type"] == "Opaque"
    assert desk.bundles() == {cert.decode()}
    assert is_from(objects.authority_of(secret).signer, objects.shim_pair(shims).certificate)


async def test_shims_whose_secret_was_deleted_get_a_new_certificate(desk: Desk) -> None:
    before, trusted = desk.data(), desk.bundles()
    desk.api.put(SHIM_TLS, None)

    await desk.turn()

    after = desk.data()
    assert {path for path in PLACES if after[path] != before[path]} == {SHIM_TLS}
    assert desk.bundles() == trusted


async def test_further_callers_are_trusted_by_the_allocator_and_by_nobody_else(desk: Desk) -> None:
    (bundle,) = desk.bundles()
    further = trustme.CA().cert_pem.bytes().decode()
    troubles = []
    for desk.callers in ("no certificate", further, "no certificate", ""):
        await desk.turn()
        troubles.append(desk.keeper.trouble.partition(":")[0])

    assert [trusted for _, trusted in desk.served] == [bundle, bundle + further, bundle]
    assert troubles == ["--tls-client-ca", "", "--tls-client-ca", ""]
    assert desk.bundles() == {bundle}


async def test_a_webhook_configuration_that_is_applied_anew_gets_its_bundle(desk: Desk) -> None:
    before = desk.data()
    desk.api.put(WEBHOOK, None)
    await desk.turn()
    assert desk.writes() == []
    desk.api.put(WEBHOOK, webhook_configuration(2))

    await desk.turn()

    assert desk.data() == before


def _with(path: str, **data: str) -> Callable[[Desk], None]:
    def spoil(desk: Desk) -> None:
        obj = copy.deepcopy(desk.api.get(path))
        assert obj
        desk.api.put(path, obj | {"data": obj["data"] | data})

    return spoil


NONSENSE = base64.b64encode(b"nonsense").decode()


@pytest.mark.parametrize(
    "spoil",
    [
        _with(CA, **{"tls.crt": NONSENSE}),
        _with(CA, **{"tls.key": ""}),
        _with(CA, **{"tls.key": "*no base64*"}),
        _with(CA, **{"ca.crt": NONSENSE}),
        _with(SHIM_TLS, **{"ca.crt": ""}),
        _with(CONFIG_MAP, **{"ca.crt": "nobody"}),
    ],
)
async def test_what_was_spoilt_is_put_right(desk: Desk, spoil: Callable[[Desk], None]) -> None:
    before = desk.data()
    spoil(desk)

    await desk.turn()
    await desk.turn()

    assert desk.data() == before


async def test_after_the_loss_of_the_authority_its_certificates_stay_trusted(desk: Desk) -> None:
    (old,) = desk.bundles()
    desk.api.put(CA, None)
    desk.start()

    await desk.turn()

    (new,) = desk.bundles()
    assert new.startswith(old)
    assert new != old


async def test_no_authority_is_made_before_it_is_known_whom_the_shims_trust(desk: Desk) -> None:
    (before,) = desk.bundles()
    desk.api.put(CA, None)
    desk.api.fault = {SHIM_TLS: "get"}
    desk.start()
    await desk.turn()
    assert desk.writes() == []
    desk.api.fault = {}

    await desk.turn()

    (after,) = desk.bundles()
    assert after.startswith(before)


async def test_who_does_not_hold_the_lease_writes_nothing() -> None:
    desk = Desk()
    desk.holds_lease = False

    await desk.turn()

    assert desk.writes() == []
    assert desk.keeper.missing == "waiting for the Lease"


async def test_who_stands_by_has_a_certificate_of_the_authority_and_writes_nothing(desk: Desk) -> None:
    desk.start()
    desk.holds_lease = False
    desk.served.clear()

    await desk.turn()

    assert (desk.writes(), desk.keeper.missing, len(desk.served)) == ([], None, 1)
    assert desk.served[0][1] in desk.bundles()


@pytest.mark.parametrize(
    ("passed", "looks"),
    [(LOOK_SECONDS - 1, False), (LOOK_SECONDS, True), (-7200.0, True)],
    ids=["it has just looked", "it is time", "the clock was set back"],
)
async def test_who_stands_by_looks_every_few_seconds_whatever_is_done_to_the_clock(
    desk: Desk, passed: float, *, looks: bool
) -> None:
    desk.holds_lease = False
    await desk.turn()
    desk.now += passed

    await desk.turn()

    assert bool(desk.api.requests) is looks


async def test_who_loses_the_lease_under_way_writes_no_more(desk: Desk) -> None:
    for path in (SHIM_TLS, CONFIG_MAP):
        desk.api.put(path, None)

    def lose(_: str) -> None:
        desk.holds_lease = False

    desk.api.meanwhile = lose
    await desk.turn()

    assert len(desk.writes()) == 1


async def test_another_who_writes_at_the_same_time_is_not_overwritten(desk: Desk) -> None:
    """The later one looks again, and finds what the earlier one has made."""
    desk.now += 9000

    def other_allocator(_: str) -> None:
        desk.api.meanwhile = lambda _: None
        secret = desk.api.get(CA)
        assert secret
        desk.api.put(CA, secret | {"metadata": secret["metadata"] | {"labels": {"by": "another"}}})

    desk.api.meanwhile = other_allocator
    await desk.turn()
    assert "409" in desk.keeper.trouble
    assert len(desk.writes()) == 1

    await desk.turn()

    secret = desk.api.get(CA)
    assert secret
    assert secret["metadata"]["labels"] == {"by": "another"}
    assert "next.crt" in secret["data"]
    assert desk.keeper.trouble == ""


@pytest.mark.parametrize(
    ("place", "fault"),
    [(SHIM_TLS, "write"), (CONFIG_MAP, "get"), (CONFIG_MAP, "write"), (WEBHOOK, "get"), (WEBHOOK, "write")],
)
async def test_a_place_that_fails_is_told_and_holds_up_no_other(place: str, fault: str) -> None:
    desk = Desk()
    desk.api.fault = {place: fault}

    await desk.turn()

    told = desk.keeper.trouble
    desk.api.fault = {}
    await desk.turn()
    assert "scripted" in told
    assert desk.keeper.trouble == ""
    assert len(desk.writes()) == 1
    assert len(desk.bundles()) == 1


async def test_a_successor_waits_for_a_place_that_fails(desk: Desk) -> None:
    desk.now += 9000
    desk.api.fault = {CONFIG_MAP: "write"}
    for _ in range(3):
        await desk.turn()
        desk.now += 900

    secret = desk.api.get(CA)
    assert secret
    authority = objects.authority_of(secret)
    assert authority.successor is not None
    assert authority.spread_since is None


async def test_the_wait_of_a_successor_outlives_the_allocator(desk: Desk) -> None:
    desk.now += 9000
    await desk.turn()
    await desk.turn()
    secret = desk.api.get(CA)
    assert secret
    waiting = objects.authority_of(secret)
    assert waiting.spread_since == desk.now
    desk.now += 1001
    desk.start()

    await desk.turn()

    secret = desk.api.get(CA)
    assert secret
    assert objects.authority_of(secret).signer == waiting.successor
    assert "next.key" not in secret["data"]
    assert "annotations" not in secret["metadata"]


@pytest.mark.parametrize(
    ("error", "is_told"),
    [(ValueError("no certificate"), True), (ZeroDivisionError("ours"), False)],
    ids=["of what somebody wrote", "of our own"],
)
async def test_a_fault_of_what_is_written_is_told_and_one_of_our_own_ends_the_loop(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: Exception, *, is_told: bool
) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(objects, "authority_of", fails)
    if is_told:
        await desk.turn()
        assert desk.keeper.trouble == str(error)
    else:
        with pytest.raises(ZeroDivisionError):
            await desk.turn()


async def test_no_key_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    desk = Desk()
    await desk.turn()
    _with(CA, **{"tls.crt": NONSENSE})(desk)
    for path in PLACES:
        desk.api.fault = {path: "write"}
        desk.now += 9000
        await desk.turn()

    assert caplog.messages != []
    assert "PRIVATE" not in caplog.text
