"""Who may talk to the allocator, with the API server's own ServiceAccounts, tokens and RBAC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.api import Kubectl
from e2e.control_plane import ControlPlane, create_namespace
from e2e.processes import wait_until
from e2e.secured import AUDIENCE, SYSTEM, Secured, apply_rights, lease, token_of, wait_until_allowed
from hostport.v1 import allocator_pb2 as pb

EDITOR, VIEWER = "hostport-portleases-editor", "hostport-portleases-viewer"
LEASES = "portleases.hostport.io"
FRESH_SECONDS = 10
"""How long an answer counts: with us, and once more with the API server."""


@pytest.fixture(scope="module")
def secured(plane: ControlPlane, product_session: object, folder: Path) -> Iterator[Secured]:
    apply_rights(plane)
    made = Secured(plane, folder, "allocator-secured")
    with made.running() as process:
        made.wait_until_ready(process)
        yield made


@pytest.fixture
def media(plane: ControlPlane, kubectl: Kubectl) -> Kubectl:
    """A namespace with a ServiceAccount that may lease there."""
    kubectl("create", "serviceaccount", "relay")
    kubectl("create", "rolebinding", "relay", f"--clusterrole={EDITOR}", f"--serviceaccount={kubectl.namespace}:relay")
    may_lease(plane, kubectl)
    return kubectl


def may_lease(plane: ControlPlane, kubectl: Kubectl, *, expected: bool = True) -> None:
    user = f"system:serviceaccount:{kubectl.namespace}:relay"
    wait_until_allowed(plane, user, "create", LEASES, str(kubectl.namespace), expected=expected)


def relay_token(plane: ControlPlane, kubectl: Kubectl, audience: str = AUDIENCE) -> str:
    return token_of(plane, str(kubectl.namespace), "relay", audience)


def test_a_service_account_leases_where_a_role_binding_lets_it(
    plane: ControlPlane, secured: Secured, media: Kubectl
) -> None:
    with secured.bearing(relay_token(plane, media)) as relay:
        granted = relay("Allocate", lease()).allocation

        assert granted.owner.namespace == media.namespace
        assert relay.lease("default") == "PERMISSION_DENIED"
        assert relay.outcome("ListAllocations", pb.ListAllocationsRequest(namespace=str(media.namespace))) == "OK"
        assert relay.outcome("ListAllocations", pb.ListAllocationsRequest()) == "PERMISSION_DENIED"
        assert relay.outcome("Renew", pb.RenewRequest(id=granted.id)) == "OK"
        assert relay.outcome("Release", pb.ReleaseRequest(id=granted.id)) == "OK"


def test_a_token_of_another_audience_is_nobodys(plane: ControlPlane, secured: Secured, media: Kubectl) -> None:
    """The one that is mounted into every Pod is for the API server."""
    for audience in ("", "vault"):
        with secured.bearing(relay_token(plane, media, audience)) as relay:
            assert relay.lease() == "UNAUTHENTICATED"


def test_a_token_of_a_service_account_that_is_gone_is_nobodys(
    plane: ControlPlane, secured: Secured, media: Kubectl
) -> None:
    with secured.bearing(relay_token(plane, media)) as relay:
        assert relay.lease() == "OK"
        media("delete", "serviceaccount", "relay")

        wait_until("its token to end", lambda: relay.lease() == "UNAUTHENTICATED", seconds=2 * FRESH_SECONDS + 10)


def test_a_service_account_without_the_right_leases_nothing(
    plane: ControlPlane, secured: Secured, kubectl: Kubectl
) -> None:
    kubectl("create", "serviceaccount", "relay")
    with secured.bearing(relay_token(plane, kubectl)) as relay:
        assert relay.lease() == "PERMISSION_DENIED"


def test_a_right_that_is_taken_away_ends_within_seconds(plane: ControlPlane, secured: Secured, media: Kubectl) -> None:
    with secured.bearing(relay_token(plane, media)) as relay:
        assert relay.lease() == "OK"
        media("delete", "rolebinding", "relay")
        may_lease(plane, media, expected=False)

        wait_until("the right to end", lambda: relay.lease() == "PERMISSION_DENIED", seconds=2 * FRESH_SECONDS + 10)


def test_anothers_lease_is_neither_seen_nor_ended(plane: ControlPlane, secured: Secured, media: Kubectl) -> None:
    other = create_namespace(plane, f"{media.namespace}-2")
    other("create", "serviceaccount", "relay")
    other("create", "rolebinding", "relay", f"--clusterrole={EDITOR}", f"--serviceaccount={other.namespace}:relay")
    may_lease(plane, other)
    with secured.bearing(relay_token(plane, media)) as mine, secured.bearing(relay_token(plane, other)) as theirs:
        granted = theirs("Allocate", lease()).allocation
        for method, request in (
            ("GetAllocation", pb.GetAllocationRequest(id=granted.id)),
            ("Renew", pb.RenewRequest(id=granted.id)),
            ("Release", pb.ReleaseRequest(id=granted.id)),
        ):
            assert mine.outcome(method, request) == "ALLOCATION_NOT_FOUND"

        assert theirs("GetAllocation", pb.GetAllocationRequest(id=granted.id)).allocation == granted
    plane.kubectl("delete", "namespace", str(other.namespace), "--wait=false")


def test_a_certificate_is_a_user_whose_groups_may_be_granted(
    plane: ControlPlane, secured: Secured, kubectl: Kubectl
) -> None:
    kubectl("create", "rolebinding", "team", f"--clusterrole={EDITOR}", "--group=media-team")
    wait_until_allowed(plane, "carol", "create", LEASES, str(kubectl.namespace), groups=["media-team"])
    with secured.certified("carol", "media-team") as carol, secured.certified("dave", "other-team") as dave:
        assert carol.lease(str(kubectl.namespace)) == "OK"
        assert carol.lease() == "PERMISSION_DENIED", f"without a namespace it is {SYSTEM}"
        assert dave.lease(str(kubectl.namespace)) == "PERMISSION_DENIED"


@pytest.mark.workloads
def test_who_may_view_a_namespace_sees_its_leases_and_takes_none(
    plane: ControlPlane, secured: Secured, kubectl: Kubectl
) -> None:
    """The viewer's rights are aggregated into the default roles, those of the editor are not."""
    for role in ("view", "edit", "admin"):
        kubectl("create", "serviceaccount", role)
        kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--serviceaccount={kubectl.namespace}:{role}")
        user = f"system:serviceaccount:{kubectl.namespace}:{role}"
        wait_until_allowed(plane, user, "list", LEASES, str(kubectl.namespace))
        with secured.bearing(token_of(plane, str(kubectl.namespace), role, AUDIENCE)) as caller:
            assert (
                caller.outcome("ListAllocations", pb.ListAllocationsRequest(namespace=str(kubectl.namespace))) == "OK"
            )
            assert caller.lease() == "PERMISSION_DENIED"


def test_no_token_is_in_the_log(plane: ControlPlane, secured: Secured, media: Kubectl) -> None:
    tokens = [relay_token(plane, media, audience) for audience in (AUDIENCE, "vault")]
    for token in tokens:
        with secured.bearing(token) as relay:
            relay.lease()

    wait_until("both calls to be logged", lambda: "UNAUTHENTICATED" in secured.log.read_text(encoding="utf-8"))
    log = secured.log.read_text(encoding="utf-8")
    assert [part for token in tokens for part in token.split(".") if part in log] == []
