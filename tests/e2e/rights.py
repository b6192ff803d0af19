"""The roles of deploy/base/allocator-rbac.yaml, with all their rules or with one rule less.

A test that takes each rule away says of each what is lost with it. So a rule that nobody needs shows, and so does one
that was added without a word of what it is for.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml

from e2e.binaries import CHECKOUT
from e2e.control_plane import ControlPlane
from e2e.secured import ACCOUNT, SYSTEM, wait_until_allowed

Json = dict[str, Any]

NOTHING = "nothing"
USER = f"system:serviceaccount:{SYSTEM}:{ACCOUNT}"
_FILE = CHECKOUT / "deploy" / "base" / "allocator-rbac.yaml"


def roles(name: str) -> list[Json]:
    """The Role and the ClusterRole of that name."""
    documents = yaml.safe_load_all(_FILE.read_text(encoding="utf-8"))
    return [each for each in documents if each["kind"] in {"Role", "ClusterRole"} and each["metadata"]["name"] == name]


def rules(name: str) -> list[str]:
    return [_name_of(rule) for role in roles(name) for rule in role["rules"]]


def take_away(plane: ControlPlane, name: str, lost: str) -> None:
    """Applies the roles without that rule, or whole without NOTHING, and waits until the API server has heard of it."""
    left = copy.deepcopy(roles(name))
    for role in left:
        role["rules"] = [rule for rule in role["rules"] if _name_of(rule) != lost]
    plane.kubectl.apply(*left)
    kept = [rule for role in left for rule in role["rules"]]
    for role in roles(name):
        for rule in role["rules"]:
            is_kept = rule in kept
            if is_kept or not any(_allows_the_same(other, rule) for other in kept):
                wait_until_allowed(plane, USER, rule["verbs"][0], _what(rule), SYSTEM, expected=is_kept)


def _name_of(rule: Json) -> str:
    return f"{'/'.join(rule['verbs'])} {'/'.join(rule['resources'])}"


def _allows_the_same(other: Json, rule: Json) -> bool:
    return rule["verbs"][0] in other["verbs"] and rule["resources"] == other["resources"]


def _what(rule: Json) -> str:
    resource = f"{rule['resources'][0]}.{rule['apiGroups'][0]}".rstrip(".")
    return ":".join((resource, *rule.get("resourceNames", [])[:1]))
