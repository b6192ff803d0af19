"""Where clients outside the cluster reach a node. Pure.

Rules:

* The label `hostport.io/external-address` of a Node says it, where traffic comes through something in front of the node
  (NAT, a load balancer): an IPv4 address, or a DNS name. Labels have no colons, so an IPv6 address cannot stand there.
* Else it is the node's ExternalIP, else its InternalIP: the first that the Node names, of each family by itself.
* A label that is neither says nothing. Whoever may label Nodes decides where clients are sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

import msgspec

from hostport.contract.annotations import EXTERNAL_ADDRESS

_DNS_NAME = re.compile(r"(?!.*\.[0-9]+\Z)(?![0-9]+\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class NodeAddress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What clients dial: of both families the one that the node names first; empty where there is none."""

    address: str = ""
    ipv4: str = ""
    ipv6: str = ""


NOWHERE = NodeAddress()


def address_of(labels: Mapping[str, str], named: Iterable[tuple[str, str]]) -> NodeAddress:
    """The address of a node.

    labels: those of its Node. named: its addresses as (type, address), in the order of `status.addresses`; what is no
    address, and types that are none of ExternalIP and InternalIP, are passed over.
    """
    found: dict[str, str] = {}
    by_type: dict[str, list[tuple[str, str]]] = {"ExternalIP": [], "InternalIP": []}
    for kind, text in named:
        family = family_of(text)
        if kind in by_type and family:
            by_type[kind].append((family, text))
    for some in by_type.values():
        for family, text in some:
            found.setdefault("address", text)
            found.setdefault(family, text)
    label = labels.get(EXTERNAL_ADDRESS, "")
    if family_of(label) == "ipv4":
        found |= {"address": label, "ipv4": label}
    elif _DNS_NAME.fullmatch(label):
        found = {"address": label}
    return NodeAddress(**found) if found else NOWHERE


def family_of(text: str) -> str:
    """`ipv4` or `ipv6`; empty where the text is no address."""
    try:
        return f"ipv{ip_address(text).version}"
    except ValueError:
        return ""
