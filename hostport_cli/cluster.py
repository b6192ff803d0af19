"""The objects of an installation in its cluster, and what stands in them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from hostport_cli.kubectl import Kubectl

CONFIGURATION = "hostport-operator"
WEBHOOK_SUFFIX = "hostport.io"
BINDINGS = "bindings.pods.hostport.io"
"""The entry that tells Pods their address: it is asked when a Pod gets its node."""
REGISTRATION = "/apis/admissionregistration.k8s.io/v1"
CONFIGURATION_PATH = f"{REGISTRATION}/mutatingwebhookconfigurations/{CONFIGURATION}"


async def webhook_configuration(kubectl: Kubectl) -> Any:
    """The MutatingWebhookConfiguration; raises KubectlError."""
    return await kubectl.get(CONFIGURATION_PATH)


def webhook_of(configuration: Any) -> Any:
    """The entry for Pods that is asked last: what it says of silence counts."""
    webhooks = [each for each in configuration.get("webhooks") or [] if each.get("name") != BINDINGS]
    return webhooks[-1] if webhooks else {}


def ca_bundle(configuration: Any) -> bytes:
    """PEM; empty where there is none, or none that can be read."""
    try:
        return base64.b64decode(webhook_of(configuration).get("clientConfig", {}).get("caBundle") or "", validate=True)
    except (binascii.Error, ValueError):
        return b""


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a LabelSelector selects an object with these labels; one without rules selects everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(_holds(rule, labels) for rule in selector.get("matchExpressions") or [])


def labels_for(selector: Any) -> dict[str, str]:
    """Labels that such a selector selects, the fewest; where its rules exclude each other it still selects nothing."""
    labels = dict(selector.get("matchLabels") or {})
    for rule in selector.get("matchExpressions") or []:
        if rule["operator"] in {"In", "Exists"} and not _holds(rule, labels):
            labels[rule["key"]] = (rule.get("values") or [""])[0]
    return labels


def _holds(rule: Any, labels: dict[str, str]) -> bool:
    value, values = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False
