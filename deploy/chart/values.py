"""Every value of the chart, told once: values.yaml, values.schema.json and the table of its README come from here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
YES_NO: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": {"type": "object"}}
NAMES: Schema = {"type": "array", "items": {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}}
FLAGS: Schema = {"type": "array", "items": {"type": "string", "pattern": "^--[a-z0-9-]+(=.*)?$"}}
DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
HOURS: Schema = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}
ISSUER: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {key: {"type": "string"} for key in ("name", "kind", "group")},
}
NUMBERS: Schema = {"type": "string", "pattern": "^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$"}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def at_least(least: int) -> Schema:
    return {"type": "integer", "minimum": least}


@dataclass(frozen=True, slots=True)
class Value:
    """One value: where it stands, what it is unless somebody says otherwise, what it may be, and what it is for."""

    path: str
    default: Any
    schema: Schema
    doc: str


def values(resources: Mapping[str, Any]) -> tuple[Value, ...]:
    """All of them. The resources of each program are those of deploy/base."""
    return (
        Value(
            "image.repository",
            "localhost/hostport-operator",
            {"type": "string", "pattern": "^[^@:]+(:[0-9]+/[^@:]+)?$"},
            "Where the images are, without `-allocator`, `-shim` and a tag: what stands before the tag in "
            "`make images IMG=...`.",
        ),
        Value("image.tag", "", TEXT, "Tag of both images. Empty: the chart's appVersion."),
        Value("image.allocatorDigest", "", DIGEST, "`sha256:...` of the allocator's image; wins over the tag."),
        Value("image.shimDigest", "", DIGEST, "`sha256:...` of the shim's image; wins over the tag."),
        Value(
            "image.pullPolicy",
            "",
            one_of("", "Always", "IfNotPresent", "Never"),
            "Empty: what Kubernetes makes of the tag.",
        ),
        Value("image.pullSecrets", [], OBJECTS, "Secrets for the registry, as `[{name: registry}]`."),
        Value(
            "failurePolicy",
            "Fail",
            one_of("Fail", "Ignore"),
            "What becomes of a Pod that asks for ports while no shim answers. `Fail`: it is refused and its controller "
            "tries again. `Ignore`: it goes on, and a policy refuses it with a sentence, unless admissionPolicies are "
            "off.",
        ),
        Value(
            "excludedNamespaces",
            [],
            NAMES,
            "Namespaces that are left alone, beside kube-system, kube-node-lease and the release's own.",
        ),
        Value(
            "secondQuestion",
            True,
            YES_NO,
            "Whether another shim is asked where the first did not answer. `false`: a creation that a shim had in hand "
            "when it died is refused, and its controller tries again; the API server has one entry to judge for each "
            "Pod of the cluster in place of three and a policy.",
        ),
        Value(
            "onlyLabelledNamespaces",
            False,
            YES_NO,
            "`true`: Pods are given ports in namespaces with the label `hostport.io/webhook=enabled` alone; Pods of "
            "other namespaces cost the API server no look. There a Pod that asks is given nothing, and nobody says so. "
            "test.namespace needs the label as well.",
        ),
        Value(
            "certificates.mode",
            "builtin",
            one_of("builtin", "certManager", "existingSecret"),
            "`builtin`: the allocator is the authority and renews everything. `certManager`: cert-manager does, and "
            "must be installed. `existingSecret`: the Secrets hostport-shim-tls and hostport-allocator-tls are yours.",
        ),
        Value(
            "certificates.caBundle",
            "",
            {"type": "string", "pattern": "^([A-Za-z0-9+/=]+)?$"},
            "With `existingSecret`: the authority of the shim's certificate, as base64 of PEM.",
        ),
        Value(
            "certificates.issuerRef",
            {},
            ISSUER,
            "With `certManager`: your own issuer, as `{name: corporate, kind: ClusterIssuer}`. It must put its "
            "authority into `ca.crt`. Empty: an authority of our own.",
        ),
        Value("certificates.duration", "2160h", HOURS, "With `certManager`: life of a certificate."),
        Value("certificates.renewBefore", "720h", HOURS, "With `certManager`: how long before its end it is renewed."),
        Value("certificates.caDuration", "87600h", HOURS, "With `certManager`: life of the authority of our own."),
        Value(
            "certificates.caRenewBefore",
            "17520h",
            HOURS,
            "With `certManager`: how long before its end it is renewed, with its key; more than a certificate lives.",
        ),
        Value(
            "priorityClassName",
            "system-cluster-critical",
            TEXT,
            "So that neither program is evicted for another Pod. Empty: the cluster's default.",
        ),
        Value(
            "whenFull",
            "",
            one_of("", "Deny", "Pending"),
            "What becomes of a Pod when every node is full. Empty: `Deny`.",
        ),
        Value(
            "reservedPorts",
            "",
            NUMBERS,
            "Numbers that are never handed out, as `22,9100,10248-10259`. Empty: the program's own list.",
        ),
        Value(
            "discloseHolders",
            "",
            one_of("", "same-namespace", "all"),
            "Whom a denial names as the holder of a port. Empty: `same-namespace`.",
        ),
        Value("logLevel", "", one_of("", "debug", "info", "warning", "error"), "Of both programs. Empty: `info`."),
        Value(
            "allocator.replicas",
            1,
            at_least(1),
            "2: one serves, one stands by on another node. A lost node then costs 40 s without new Pods, not 120.",
        ),
        *_program("allocator", resources["allocator"]),
        Value("shim.replicas", 2, at_least(1), "Two or more, so that no Pod waits while one of them moves."),
        *_program("shim", resources["shim"]),
        Value(
            "podDisruptionBudget.enabled",
            True,
            YES_NO,
            "Keeps node drains from taking all shims, or all allocators, at once.",
        ),
        Value(
            "podDisruptionBudget.minAvailable", 1, at_least(1), "Less than shim.replicas, or no node could be drained."
        ),
        Value("networkPolicy.enabled", True, YES_NO, "Who may talk to whom, where the network enforces it."),
        Value(
            "admissionPolicies.enabled",
            True,
            YES_NO,
            "What the API server checks itself: our annotations stay as they are, the allocator changes nothing but "
            "caBundle of the webhook, and with failurePolicy `Ignore` a Pod that asked for ports is not stored without "
            "any.",
        ),
        Value(
            "flowControl.enabled", True, YES_NO, "A queue of its own in the API server for the allocator's requests."
        ),
        Value("alerts.enabled", False, YES_NO, "The alerts, as a PrometheusRule; needs the Prometheus operator."),
        Value(
            "alerts.labels",
            {},
            OBJECT,
            "By which your Prometheus finds its rules, as `{release: prometheus}`.",
        ),
        Value(
            "test.namespace",
            "default",
            {"type": "string", "minLength": 1},
            "Where `helm test` tries a Pod as a dry run. Not the release's own namespace: there no Pod is given ports.",
        ),
    )


def _program(name: str, resources: Any) -> tuple[Value, ...]:
    return (
        Value(f"{name}.resources", resources, OBJECT, f"Of the {name}'s container."),
        Value(
            f"{name}.extraArgs",
            [],
            FLAGS,
            f"More flags, see `python -m {name} serve --help`. The last of its kind counts.",
        ),
        Value(f"{name}.nodeSelector", {}, OBJECT, f"Where the {name} may run."),
        Value(f"{name}.tolerations", [], OBJECTS, f"Of the {name}, beside those for lost nodes."),
    )


def values_yaml(table: tuple[Value, ...], head: str) -> str:
    """The defaults, each with its words."""
    lines, above = [head], ""
    for value in table:
        *parents, key = value.path.split(".")
        parent = ".".join(parents)
        if parent != above and parents:
            lines.append(f"\n{parent}:")
        elif not parents:
            lines.append("")
        above, indent = parent, "  " * len(parents)
        lines += [f"{indent}# {line}" for line in _wrapped(value.doc, 116 - len(indent))]
        lines.append(f"{indent}{key}: {_flow(value.default)}")
    return "\n".join(lines) + "\n"


def schema_json(table: tuple[Value, ...]) -> str:
    """What `helm install` accepts. `global` is Helm's own: it is there where the chart is part of another."""
    root: dict[str, Any] = _closed()
    root |= {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of hostport-operator"}
    root["properties"]["global"] = {"type": "object"}
    for value in table:
        *parents, key = value.path.split(".")
        place = root
        for parent in parents:
            place = place["properties"].setdefault(parent, _closed())
        place["properties"][key] = {**value.schema, "description": value.doc}
    return json.dumps(root, indent=2) + "\n"


def markdown(table: tuple[Value, ...]) -> Iterator[str]:
    yield "| value | default | |"
    yield "|---|---|---|"
    for value in table:
        default = "" if value.default == "" else f"`{_flow(value.default)}`"
        yield f"| `{value.path}` | {default} | {value.doc} |"


def _closed() -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def _flow(value: Any) -> str:
    """JSON is YAML."""
    return json.dumps(value)


def _wrapped(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width:
            yield line
            line = word
        else:
            line = f"{line} {word}".strip()
    yield line
