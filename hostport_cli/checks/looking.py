"""Looks at everything that a check judges, all at once. A thing that cannot be seen is a fact like any other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from hostport.client.errors import HostportError
from hostport.contract.annotations import Annotation
from hostport.v1 import allocator_pb2 as pb
from hostport.version import VERSION
from hostport.x509 import not_after
from hostport_cli import wording
from hostport_cli.checks.facts import RIGHTS, Forwarded, InstallationFacts, RequiredRight, ShownCertificate, Unseen
from hostport_cli.checks.probing import forwarded
from hostport_cli.cluster import (
    CONFIGURATION,
    REGISTRATION,
    WEBHOOK_SUFFIX,
    ca_bundle,
    labels_for,
    webhook_configuration,
    webhook_of,
)
from hostport_cli.exits import CliError, Exit, words
from hostport_cli.kubectl import Kubectl, KubectlError, together
from hostport_cli.session import SERVICE, Session

T = TypeVar("T")

HANDSHAKE_SECONDS = 5.0
BINDING = "hostport-ports-given"
PROBE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "generateName": "hostport-check-",
        "annotations": {
            Annotation.ENABLED.text: "true",
            Annotation.POLICY.text: "Dynamic",
            Annotation.NETWORK.text: "Host",
        },
    },
    "spec": {
        "containers": [{"name": "check", "image": "hostport-check", "ports": [{"containerPort": 80}]}],
        "automountServiceAccountToken": False,
    },
}


async def look(session: Session, namespace: str, *, probes_host_port: bool = False) -> InstallationFacts:
    """Everything at once, but for what the shim shows: that needs the webhook's configuration."""
    kubectl = session.kubectl
    configuration = await seen(webhook_configuration(kubectl))
    async with asyncio.TaskGroup() as at_once:
        start = at_once.create_task
        version = start(seen(api_version(kubectl)))
        others = start(seen(_other_configurations(kubectl)))
        backed = start(seen(_backed(kubectl)))
        shims = start(seen(_pods(kubectl, session.install_namespace, "hostport-shim")))
        shown = start(seen(_shown(kubectl, configuration)))
        dry_run = start(seen(kubectl.post(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", tried_pod(configuration))))
        status = start(seen(_allocator_status(session)))
        leases = start(seen(_leases(kubectl)))
        rights = start(seen(_missing_rights(kubectl, session.install_namespace)))
    probe = _forwarded(kubectl, namespace, shims.result()) if probes_host_port else None
    return InstallationFacts(
        forwarded=await seen(probe) if probe is not None else None,
        version=version.result(),
        configuration=configuration,
        others=others.result(),
        is_backed=backed.result(),
        shims=shims.result(),
        shown=shown.result(),
        dry_run=dry_run.result(),
        status=status.result(),
        leases=leases.result(),
        rights=rights.result(),
        now=wording.now(),
        program=VERSION,
    )


def tried_pod(configuration: Any) -> dict[str, Any]:
    """With the labels that the webhook's objectSelector asks for, if that can be seen."""
    selector = {} if isinstance(configuration, Unseen) else webhook_of(configuration).get("objectSelector") or {}
    return {**PROBE, "metadata": {**PROBE["metadata"], "labels": labels_for(selector)}}


async def seen(thing: Awaitable[T]) -> T | Unseen:
    """What comes of looking, or why it could not be seen."""
    try:
        return await thing
    except KubectlError as error:
        return Unseen(str(error), error.reason)
    except HostportError as error:
        return Unseen(words(error), error.reason)
    except (CliError, OSError) as error:
        return Unseen(str(error))


async def _forwarded(kubectl: Kubectl, namespace: str, shims: list[Any] | Unseen) -> Forwarded:
    """With the image of a shim, which is there already."""
    if isinstance(shims, Unseen) or not shims:
        raise CliError("there is no shim whose image could be used")
    return await forwarded(kubectl, namespace, shims[0]["spec"]["containers"][0]["image"])


async def api_version(kubectl: Kubectl) -> str:
    """Of the API server, such as v1.36.1."""
    return str((await kubectl.get("/version"))["gitVersion"])


async def _other_configurations(kubectl: Kubectl) -> list[str]:
    """Webhook configurations with a webhook of ours, but for the one that is expected."""
    items = (await kubectl.get(f"{REGISTRATION}/mutatingwebhookconfigurations"))["items"]
    return [
        each["metadata"]["name"]
        for each in items
        if each["metadata"]["name"] != CONFIGURATION
        and any(webhook["name"].endswith(WEBHOOK_SUFFIX) for webhook in each.get("webhooks") or [])
    ]


async def _backed(kubectl: Kubectl) -> bool:
    return await kubectl.find(f"{REGISTRATION}/validatingadmissionpolicybindings/{BINDING}") is not None


async def _pods(kubectl: Kubectl, namespace: str, name: str) -> list[Any]:
    selector = quote(f"app.kubernetes.io/name={name}", safe="")
    found: list[Any] = (await kubectl.get(f"/api/v1/namespaces/{namespace}/pods?labelSelector={selector}"))["items"]
    return found


async def _allocator_status(session: Session) -> pb.GetStatusResponse:
    async with session.allocator() as allocator:
        status: pb.GetStatusResponse = await allocator.call("GetStatus", pb.GetStatusRequest())
    return status


async def _leases(kubectl: Kubectl) -> list[Any]:
    path = f"/apis/coordination.k8s.io/v1/leases?fieldSelector=metadata.name%3D{SERVICE}"
    found: list[Any] = (await kubectl.get(path))["items"]
    return found


# -- rights


async def _missing_rights(kubectl: Kubectl, namespace: str) -> list[RequiredRight] | None:
    if await kubectl.find(f"/api/v1/namespaces/{namespace}/serviceaccounts/{SERVICE}") is None:
        return None
    allowed = await together(*(_is_allowed(kubectl, namespace, right) for right in RIGHTS))
    return [right for right, is_allowed in zip(RIGHTS, allowed, strict=True) if not is_allowed]


async def _is_allowed(kubectl: Kubectl, namespace: str, right: RequiredRight) -> bool:
    resource, _, subresource = right.resource.partition("/")
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{namespace}:{SERVICE}",
            "groups": ["system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{namespace}"],
            "resourceAttributes": {
                "verb": right.verb,
                "resource": resource,
                "subresource": subresource,
                "group": right.group,
                "name": right.name,
                "namespace": namespace if right.is_own else "",
            },
        },
    }
    answer = await kubectl.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


# -- certificate


async def _shown(kubectl: Kubectl, configuration: Any) -> ShownCertificate:
    """What the shim shows to somebody who trusts caBundle alone, as the API server does."""
    if isinstance(configuration, Unseen):
        raise CliError("there is no webhook that says where the shim is")
    client = webhook_of(configuration).get("clientConfig") or {}
    async with _way(kubectl, client) as (host, port, name):
        distrust = await _distrust(host, port, name, ca_bundle(configuration))
        where = f"{name}:{port}" if client.get("url") else name
        return ShownCertificate(where, await _expiry(host, port, name), distrust)


@contextlib.asynccontextmanager
async def _way(kubectl: Kubectl, client: Any) -> AsyncIterator[tuple[str, int, str]]:
    """Host and port to connect to, and the name that the certificate must have."""
    if client.get("url"):
        parts = urlsplit(client["url"])
        yield parts.hostname or "", parts.port or 443, parts.hostname or ""
        return
    service = client.get("service") or {}
    target = f"service/{service.get('name')}"
    async with kubectl.forward(service.get("namespace", ""), target, str(service.get("port", 443))) as address:
        host, _, port = address.rpartition(":")
        yield host, int(port), f"{service.get('name')}.{service.get('namespace')}.svc"


async def _distrust(host: str, port: int, name: str, bundle: bytes) -> str:
    """Why a client that trusts the bundle alone would not talk to it; empty: it would."""
    if not bundle.strip():
        return "caBundle is empty"
    try:
        context = ssl.create_default_context(cadata=bundle.decode("ascii"))
    except (ssl.SSLError, ValueError):
        return "caBundle holds no certificate that can be read"
    try:
        await _handshake(host, port, name, context)
    except ssl.SSLCertVerificationError as error:
        return f"{error.verify_message}"
    return ""


async def _expiry(host: str, port: int, name: str) -> float:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return not_after(ssl.DER_cert_to_PEM_cert(await _handshake(host, port, name, context)))


async def _handshake(host: str, port: int, name: str, context: ssl.SSLContext) -> bytes:
    """The certificate that is shown, DER.

    Raises:
        CliError: nobody answers, or not with TLS.
        ssl.SSLCertVerificationError: it is not trusted.

    """
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    except ssl.SSLCertVerificationError:
        raise
    except TimeoutError as error:
        raise CliError(f"no TLS handshake with the shim within {HANDSHAKE_SECONDS:g} s", Exit.UNREACHABLE) from error
    except OSError as error:
        raise CliError(f"no TLS connection to the shim: {error}", Exit.UNREACHABLE) from error
    shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown
