"""A caller is read from what it shows, as Kubernetes reads it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import trustme

from allocator.access.guard import ANYBODY, Caller, Role, from_certificate
from allocator.access.reviews import from_review
from hostport.contract.limits import LONGEST_REQUEST_ID

AUTHORITY = trustme.CA()


def certificate(**names: Any) -> bytes:
    return AUTHORITY.issue_cert("client.test", **names).cert_chain_pems[0].bytes()


def test_a_certificate_names_a_user_and_its_groups() -> None:
    caller = from_certificate(certificate(common_name="carol", organization_name="media"), "hostport-shim")

    assert caller is not None
    assert math.isfinite(caller.until)
    assert caller == Caller(name="carol", groups=("media", "system:authenticated"), until=caller.until)


def test_a_shim_is_a_certificate_with_the_name_of_shims() -> None:
    pem = certificate(common_name="hostport-shim")

    assert [c.role for n in ("hostport-shim", "other") if (c := from_certificate(pem, n))] == [Role.SHIM, Role.USER]


@pytest.mark.parametrize("pem", [certificate(), b"no certificate"], ids=["no common name", "no certificate"])
def test_what_names_nobody_is_nobody(pem: bytes) -> None:
    assert from_certificate(pem, "hostport-shim") is None


USER = {
    "username": "system:serviceaccount:media:relay",
    "uid": "u1",
    "groups": ["system:serviceaccounts", "system:authenticated"],
    "extra": {"b": ["2"], "a": ["1", "3"]},
}


def test_an_accepted_token_names_a_user() -> None:
    status = {"authenticated": True, "user": USER, "audiences": ["hostport.io"]}

    assert from_review(status, "hostport.io") == Caller(
        name="system:serviceaccount:media:relay",
        uid="u1",
        groups=("system:serviceaccounts", "system:authenticated"),
        extra=(("a", ("1", "3")), ("b", ("2",))),
    )


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="an empty status"),
        pytest.param({"authenticated": False, "user": USER, "audiences": ["hostport.io"]}, id="not authenticated"),
        pytest.param({"authenticated": "true", "user": USER, "audiences": ["hostport.io"]}, id="a word for true"),
        pytest.param({"authenticated": True, "user": USER, "audiences": ["vault"]}, id="another audience"),
        pytest.param({"authenticated": True, "user": USER}, id="a server that knows no audiences"),
        pytest.param({"authenticated": True, "user": None, "audiences": ["hostport.io"]}, id="no user"),
        pytest.param({"authenticated": True, "user": {}, "audiences": ["hostport.io"]}, id="a user without a name"),
    ],
)
def test_any_other_token_names_nobody(status: dict[str, Any]) -> None:
    assert from_review(status, "hostport.io") is None


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("system:serviceaccount:media:relay", "media"), ("carol", ""), ("system:serviceaccounts:x", "")],
)
def test_a_service_account_has_a_namespace(name: str, namespace: str) -> None:
    assert Caller(name=name).namespace == namespace


def test_a_request_id_is_its_users_own_and_one_for_all_shims() -> None:
    shims = Caller(role=Role.SHIM, name="hostport-shim")

    assert [caller.own("r1") for caller in (Caller(name="carol"), shims, ANYBODY)] == ["5:carol/r1", "r1", "r1"]
    assert Caller(name="carol").own("") == ""


NAMESPACE, ACCOUNT, REQUEST = "n" * 63, "s" * 253, "r" * LONGEST_REQUEST_ID


@pytest.mark.parametrize(
    ("name", "request_id"),
    [
        ("carol", REQUEST),
        (f"system:serviceaccount:{NAMESPACE}:{ACCOUNT}", "3d9f1f8e-5a1b-4c0e-8a55-6a0b3e1a2f11"),
        ("x" * 5000, "r1"),
    ],
    ids=["a long request_id", "a ServiceAccount with a long name", "a user of another issuer"],
)
def test_a_request_id_is_kept_within_its_one_bound_whoever_calls(name: str, request_id: str) -> None:
    own = Caller(name=name).own(request_id)

    others = {Caller(name=f"{name}2").own(request_id), Caller(name=name).own(f"{request_id}2"), request_id}
    assert len(own) <= LONGEST_REQUEST_ID
    assert own not in others
    assert own == Caller(name=name).own(request_id)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a/b", "c"), ("a", "b/c")),
        (("a", "/b"), ("a/", "b")),
        (("1:a", "b"), ("1", "a/b")),
        (("a/3:b", "c"), ("a", "3:b/c")),
    ],
)
def test_two_users_never_share_a_request_id_whatever_they_are_called(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    first, second = (Caller(name=name).own(request_id) for name, request_id in (one, other))

    assert first != second
