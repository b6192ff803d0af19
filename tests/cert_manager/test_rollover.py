"""The authority of cert-manager changes, and the certificates follow one after the other: no creation of a Pod fails."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
from e2e.control_plane import create_namespace
from e2e.manifests import hostport, pod, port
from e2e.processes import wait_for, wait_until
from e2e.soak import Clients, Tally, Witness

from cert_manager.installed import ALLOCATOR, CA, DELAY, SHIM, Installed, read

CLIENTS = 16
AFTERWARDS = DELAY + 6  # seconds: until what waits is shown, and some
ASKING = hostport(policy="Dynamic", min_port=26000, max_port=26999)


def create_soon(installed: Installed, namespace: str, name: str) -> None:
    kubectl = installed.plane.kubectl.within(namespace)
    asking = pod(name, ASKING, port(80))
    wait_for("a Pod with ports", lambda: kubectl.try_apply(asking), lambda run: run.code == 0, seconds=40)


def new_key(installed: Installed) -> None:
    installed.certificates.replace_key(CA)


def same_key(installed: Installed) -> None:
    installed.certificates.renew(CA)


@pytest.mark.parametrize(
    ("change", "order"),
    [
        (new_key, (SHIM, ALLOCATOR)),
        (new_key, (ALLOCATOR, SHIM)),
        (same_key, (SHIM, ALLOCATOR)),
    ],
    ids=["another key, the shim first", "another key, the allocator first", "renewed, the shim first"],
)
def test_no_creation_fails_while_one_certificate_follows_before_the_other(
    installed: Installed, change: Callable[[Installed], None], order: tuple[str, str], request: pytest.FixtureRequest
) -> None:
    namespace = f"case-{request.node.callspec.indices['change']}"
    create_namespace(installed.plane, namespace, labels={})
    create_soon(installed, namespace, "before-0")
    clients = Clients(installed.plane.api, namespace, {}, count=CLIENTS, webhook=installed.shim.base)
    witness = Witness(installed.plane.api, namespace)
    before = {name: installed.certificates.secret(name) for name in (CA, *order)}
    with witness.watching(), clients.working():
        begin = time.monotonic()
        change(installed)
        for name in order:
            installed.certificates.renew(name)
            installed.until_mounted(name)
            time.sleep(AFTERWARDS)
        end = time.monotonic()

    after = {name: installed.certificates.secret(name) for name in (CA, *order)}
    tell(request.node.callspec.id, clients.tally, begin, end)
    assert (clients.tally.unavailable, dict(clients.tally.others), witness.conflicts) == (0, {}, [])
    assert all(after[name]["tls.crt"] != before[name]["tls.crt"] for name in after)
    assert (key_of(after[CA]["tls.crt"]) == key_of(before[CA]["tls.crt"])) is (change is same_key)
    assert all(after[name]["ca.crt"] == after[CA]["tls.crt"] for name in order)


def test_who_starts_in_mid_roll_over_trusts_whom_the_others_show(installed: Installed) -> None:
    """The shim's certificate comes from the new authority, and the allocator's from the old one, for weeks."""
    namespace = "case-restart"
    create_namespace(installed.plane, namespace, labels={})
    create_soon(installed, namespace, "before-0")
    new_key(installed)
    installed.certificates.renew(SHIM)
    installed.until_mounted(SHIM)
    time.sleep(DELAY)

    assert installed.shim.stop() == 0
    installed.shim.start()
    create_soon(installed, namespace, "shim-0")
    installed.allocator.restart()
    create_soon(installed, namespace, "allocator-0")

    told = installed.shim.metrics()
    assert told.count("hostport_authority_trusted_until_timestamp_seconds{") == 2


def test_the_api_server_is_told_of_an_authority_by_the_injector_and_keeps_the_former(installed: Installed) -> None:
    create_namespace(installed.plane, "case-bundle", labels={})
    create_soon(installed, "case-bundle", "before-0")
    old = installed.bundle()
    new_key(installed)
    installed.certificates.renew(SHIM)

    wait_until("the new authority to be in caBundle", lambda: installed.bundle() != old)

    assert old.strip() in installed.bundle()


def key_of(text: str) -> object:
    return read(text)[0].public_key()


def tell(case: str, tally: Tally, begin: float, end: float) -> None:
    failed = tally.unavailable + tally.others.total()
    sys.stderr.write(
        f"\n| {case} | {len(tally.created)} created | {failed} failed |"
        f" longest pause {tally.longest_pause(begin, end):.2f} s | {end - begin:.0f} s |\n"
    )
