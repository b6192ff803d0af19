"""What does not go together with hostNetwork, named by the field that the user wrote.

The API server would refuse such a Pod later, with words about a hostNetwork that nobody wrote; or would admit it, and
it would break (a service mesh redirects the traffic of the whole node).
"""

from __future__ import annotations

from collections.abc import Iterator

from hostport.contract import Reason
from shim.fields import boolean, json_object, json_objects, text, text_map
from shim.outcomes import Mistake, mistake, quoted
from shim.pods import Pod
from shim.settings import ENABLED

MESH_CONTAINERS = frozenset({"istio-proxy", "istio-init"})
OS_LABEL = "kubernetes.io/os"


def forbidden_by_host_network(pod: Pod) -> Iterator[Mistake]:
    """One mistake for each field. Raises FieldError where one has an impossible type."""
    spec = pod.spec
    if boolean(spec, "hostUsers", "spec") is False:
        yield _forbidden("spec.hostUsers", "false is not allowed with hostNetwork")
    if spec.get("hostnameOverride") is not None:
        yield _forbidden("spec.hostnameOverride", "it is not allowed with hostNetwork")
    yield from _sysctls(pod)
    yield from _windows(pod)
    yield from _meshes(pod)
    yield from _init_ports(pod)


def _sysctls(pod: Pod) -> Iterator[Mistake]:
    context = json_object(pod.spec, "securityContext", "spec")
    for _, path, sysctl in json_objects(context, "sysctls", "spec.securityContext"):
        name = text(sysctl, "name", path)
        if name.replace("/", ".").startswith("net."):
            yield _forbidden(path, f"{quoted(name)} would change the node's own network")


def _windows(pod: Pod) -> Iterator[Mistake]:
    if text(json_object(pod.spec, "os", "spec"), "name", "spec.os") == "windows":
        yield _forbidden("spec.os.name", "Windows Pods have no hostNetwork")
    if text_map(pod.spec, "nodeSelector", "spec").get(OS_LABEL) == "windows":
        yield _forbidden(f"spec.nodeSelector[{OS_LABEL}]", "Windows Pods have no hostNetwork")


def _meshes(pod: Pod) -> Iterator[Mistake]:
    for container in pod.containers:
        if container.name in MESH_CONTAINERS:
            message = f"{container.name} works on the Pod's own network, which hostNetwork replaces by the node's"
            yield _forbidden(f"{container.path}.name", f'{message}; set sidecar.istio.io/inject: "false"')


def _init_ports(pod: Pod) -> Iterator[Mistake]:
    """Ports of ordinary init containers are left alone, and hostNetwork wants the two numbers equal there as well."""
    for container in pod.containers:
        for port in () if container.is_counted else container.all_ports:
            if port.host_port not in {0, port.container_port}:
                yield _forbidden(f"{port.path}.hostPort", "an init container's hostPort must equal its containerPort")


def _forbidden(field: str, why: str) -> Mistake:
    return mistake(Reason.HOST_NETWORK_FORBIDDEN, field, f"{why}. Remove it, or remove {ENABLED}")
