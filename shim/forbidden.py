"""What hostNetwork forbids deep in a Pod: each field as the user wrote it, and what is wrong with it. Pure.

Rule: only what a Pod has is looked at, so that nearly every Pod passes this module by.
"""

from __future__ import annotations

from collections.abc import Iterator

from shim.outcomes import quoted
from shim.pods import Container, Json, json_object, json_objects, text, text_map

OS_LABEL = "kubernetes.io/os"

Forbidden = Iterator[tuple[str, str]]


def ports_of_init_container(container: Container) -> Forbidden:
    """Those of an ordinary one, which are left alone: the API server makes them host ports, and takes none twice."""
    seen: set[tuple[str, str, int]] = set()
    for port in container.all_ports:
        if port.host_port not in {0, port.container_port}:
            yield f"{port.path}.hostPort", "an init container's hostPort must equal its containerPort"
        socket = (port.protocol, port.host_ip, port.container_port)
        if socket in seen:
            yield port.path, f"with hostNetwork an init container has {port.container_port}/{port.protocol} once"
        seen.add(socket)


def sysctls(spec: Json) -> Forbidden:
    """What would change the node's network. Raises FieldError where a type is wrong."""
    context = json_object(spec, "securityContext", "spec")
    for _, path, sysctl in json_objects(context, "sysctls", "spec.securityContext"):
        name = text(sysctl, "name", path)
        if name.replace("/", ".").startswith("net."):
            yield path, f"{quoted(name)} would change the node's own network"


def windows(spec: Json) -> Forbidden:
    """A Pod for Windows, where there is no hostNetwork. Raises FieldError where a type is wrong."""
    if text(json_object(spec, "os", "spec"), "name", "spec.os") == "windows":
        yield "spec.os.name", "Windows Pods have no hostNetwork"
    if text_map(spec, "nodeSelector", "spec").get(OS_LABEL) == "windows":
        yield f"spec.nodeSelector[{OS_LABEL}]", "Windows Pods have no hostNetwork"
