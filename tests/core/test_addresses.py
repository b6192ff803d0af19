"""Where clients outside the cluster reach a node."""

from __future__ import annotations

import pytest

from allocator.core.addresses import NOWHERE, NodeAddress, address_of

V4 = [("InternalIP", "10.0.0.7"), ("ExternalIP", "198.51.100.7")]
V6 = [("InternalIP", "fd00::7"), ("ExternalIP", "2001:db8::7")]
OUTSIDE = NodeAddress(address="198.51.100.7", ipv4="198.51.100.7")


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        pytest.param(V4, OUTSIDE, id="the external one"),
        pytest.param(V4[:1], NodeAddress(address="10.0.0.7", ipv4="10.0.0.7"), id="the internal one where it is alone"),
        pytest.param(
            [*V4, *V6], NodeAddress(address="198.51.100.7", ipv4="198.51.100.7", ipv6="2001:db8::7"), id="IPv4 first"
        ),
        pytest.param(
            [*V6, *V4], NodeAddress(address="2001:db8::7", ipv4="198.51.100.7", ipv6="2001:db8::7"), id="IPv6 first"
        ),
        pytest.param(
            [*V4, *V6[:1]],
            NodeAddress(address="198.51.100.7", ipv4="198.51.100.7", ipv6="fd00::7"),
            id="of the other family the internal one",
        ),
        pytest.param([*V4, ("ExternalIP", "198.51.100.8")], OUTSIDE, id="the first of several"),
        pytest.param(
            [("Hostname", "n1"), ("ExternalDNS", "n1.example"), ("InternalDNS", "n1.local")],
            NOWHERE,
            id="names are none",
        ),
        pytest.param([("ExternalIP", "n1.example"), ("ExternalIP", "")], NOWHERE, id="what is no address"),
        pytest.param([], NOWHERE, id="none"),
    ],
)
def test_the_address_of_a_node_is_its_external_one_else_its_internal_one(
    named: list[tuple[str, str]], expected: NodeAddress
) -> None:
    assert address_of({}, named) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("203.0.113.9", NodeAddress(address="203.0.113.9", ipv4="203.0.113.9", ipv6="2001:db8::7")),
        ("media-7.example.org", NodeAddress(address="media-7.example.org")),
        ("media7", NodeAddress(address="media7")),
        ("7media.example", NodeAddress(address="7media.example")),
    ],
    ids=["an address", "a name", "a short name", "a name that begins with a digit"],
)
def test_the_label_of_the_node_comes_first(label: str, expected: NodeAddress) -> None:
    assert address_of({"hostport.io/external-address": label}, [*V4, *V6]) == expected


@pytest.mark.parametrize("label", ["", "true.", "a_b", "Media.example", "999.1.1.1", "203.0.113", "7", "-a", "a..b"])
def test_a_label_that_is_neither_an_address_nor_a_name_says_nothing(label: str) -> None:
    assert address_of({"hostport.io/external-address": label}, V4) == OUTSIDE
