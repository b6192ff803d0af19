"""The Pod as the shim sees it, parsed once: what may be asked for, and where in the object it stands. Pure.

Longer than 350 lines because a Pod is read in one walk, and typed access to JSON is each of its steps.

Rules:

* Everything that the patch will touch is read here and has its right type afterwards; whatever else the Pod holds is
  never looked at, so that fields of later Kubernetes versions pass through.
* Access to JSON is typed, and an error names the field. `null` is the same as absent, as it is for the API server, save
  for the elements of a list. A wrong type is never coerced: `true`, `"80"` and 80.0 are no integers.
* Text is valid Unicode: the parser refuses half a surrogate pair, which no wire format can carry.
* Containers are known by their place, not by their name: nobody has validated yet that names differ.
* The ports that count are those of `spec.containers` in order, then those of restartable init containers in order.
  Mirrors the scheduler's GetHostPorts, which decides what a Pod occupies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import msgspec

from hostport.contract.limits import HIGHEST_PORT
from shim.outcomes import quoted

Json = Mapping[str, Any]

_TEXT_ALONE = {str}
TEXT = "a string"


class FieldError(ValueError):
    """The sender's fault: a field has a type that its schema does not allow."""

    def __init__(self, path: str, expected: str, value: object) -> None:
        remedy = ": write it in quotes" if expected == TEXT and isinstance(value, bool | int | float) else ""
        super().__init__(f"{path} must be {expected}, not {_kind(value)}{remedy}")


def json_object(parent: Json, key: str, path: str) -> Json:
    """The object at a key; empty when absent. Raises FieldError where something else stands there."""
    value = parent.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise FieldError(join(path, key), "an object", value)
    return value


def json_objects(parent: Json, key: str, path: str) -> Iterator[tuple[int, str, Json]]:
    """The elements of a list of objects, each with its position and its path; none when absent.

    Raises FieldError where something else stands there.
    """
    found = parent.get(key)
    if found is None:
        return
    where = join(path, key)
    if not isinstance(found, list):  # as `json_list` and `as_object`, which would be called for each element
        raise FieldError(where, "a list", found)
    for at, value in enumerate(found):
        element = f"{where}[{at}]"
        if not isinstance(value, dict):
            raise FieldError(element, "an object", value)
        yield at, element, value


def json_list(parent: Json, key: str, path: str) -> Sequence[Any]:
    """The list at a key; empty when absent. Raises FieldError where something else stands there."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise FieldError(join(path, key), "a list", value)
    return value


def text(parent: Json, key: str, path: str) -> str:
    """The text at a key; empty when absent. Raises FieldError where something else stands there."""
    value = parent.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise FieldError(join(path, key), TEXT, value)
    return value


def integer(parent: Json, key: str, path: str) -> int:
    """The integer at a key, of any size; 0 when absent. Raises FieldError where something else stands there."""
    value = parent.get(key)
    if value is None:
        return 0
    if not is_integer(value):
        raise FieldError(join(path, key), "an integer", value)
    return value


def boolean(parent: Json, key: str, path: str) -> bool | None:
    """The boolean at a key; None when absent. Raises FieldError where something else stands there."""
    value = parent.get(key)
    if value is not None and not isinstance(value, bool):
        raise FieldError(join(path, key), "true or false", value)
    return value


def text_map(parent: Json, key: str, path: str) -> dict[str, str]:
    """A map of text to text; a null value is empty text, as it is for the API server.

    Raises FieldError where something else stands there.
    """
    found = json_object(parent, key, path)
    if {*map(type, found.values())} <= _TEXT_ALONE:
        return dict(found)
    where = join(path, key)
    return {name: "" if value is None else as_text(value, f"{where}[{quoted(name)}]") for name, value in found.items()}


def texts(parent: Json, key: str, path: str) -> tuple[str, ...]:
    """The elements of a list of text; none when absent. Raises FieldError where something else stands there."""
    found = json_list(parent, key, path)
    if {*map(type, found)} <= _TEXT_ALONE:
        return tuple(found)
    return tuple([as_text(value, f"{join(path, key)}[{at}]") for at, value in enumerate(found)])


def as_object(value: object, path: str) -> Json:
    """The value, which stands at a path. Raises FieldError where it is no object."""
    if not isinstance(value, dict):
        raise FieldError(path, "an object", value)
    return value


def as_text(value: object, path: str) -> str:
    """The value, which stands at a path. Raises FieldError where it is no text."""
    if not isinstance(value, str):
        raise FieldError(path, TEXT, value)
    return value


def is_integer(value: object) -> TypeGuard[int]:
    return type(value) is int  # `true` is an int to isinstance


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    names = {dict: "an object", list: "a list", str: "the string", type(None): "null"}
    name = names.get(type(value), "")
    return name if isinstance(value, dict | list) or value is None else f"{name} {quoted(value)}".strip()


PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
HOOKS = ("postStart", "preStop")
LOOPBACK = frozenset({"", "127.0.0.1", "::1", "localhost"})
"""Where a probe finds a hostNetwork Pod itself, whatever its address is."""


class BlockEntry(msgspec.Struct, frozen=True, gc=False):
    """An entry that an earlier admission added for one of a block's other numbers."""

    pointer: str
    container_port: int
    host_port: int


class PodPort(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One containerPort entry. Zero means unset; numbers are as large as the user wrote them.

    `count`: how many consecutive numbers it stands for; more than one is a block. `alignment`: the first of them is a
    multiple of it. `others`: the entries of a block's other numbers that stand in the Pod already (`shim.blocks`).
    """

    pointer: str
    path: str
    container: str
    name: str
    protocol: str
    container_port: int
    host_port: int
    host_ip: str
    count: int = 1
    alignment: int = 1
    others: tuple[BlockEntry, ...] = ()

    @property
    def socket(self) -> tuple[str, int]:
        """Container and number: ports that have both in common listen on one number, and are given one."""
        return self.container, self.container_port


class NumericProbe(msgspec.Struct, frozen=True, gc=False):
    """A probe or lifecycle handler that names a port by number. `pointer` is that of the number, `path` its own."""

    pointer: str
    port: int
    path: str = ""
    host: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it asks the Pod itself."""
        return self.host.lower() in LOOPBACK or self.host.startswith("127.")


class CommandLine(msgspec.Struct, frozen=True, gc=False):
    """Words that are run: `args`, `command`, or the command of an exec probe or hook. `field` names them to people."""

    pointer: str
    field: str
    words: tuple[str, ...]


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container or init container. `env` is None when the field is absent."""

    pointer: str
    path: str
    name: str
    is_counted: bool
    all_ports: tuple[PodPort, ...]
    env: tuple[Json, ...] | None
    probes: tuple[NumericProbe, ...]
    commands: tuple[CommandLine, ...] = ()

    @property
    def ports(self) -> tuple[PodPort, ...]:
        """The ports that count: an ordinary init container has none."""
        return self.all_ports if self.is_counted else ()


class Controller(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Who made the Pod: its controller reference, at `path`."""

    path: str
    api_version: str
    kind: str
    name: str
    uid: str


class NewPod(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod of the API server's CREATE. After `containers` stand the init containers; `ports` are those that count."""

    spec: Json
    name: str
    generate_name: str
    namespace: str
    node_name: str
    labels: dict[str, str]
    has_labels: bool
    annotations: dict[str, str]
    controller: Controller | None
    is_applied: bool
    host_network: bool
    dns_policy: str
    containers: tuple[Container, ...]
    ports: tuple[PodPort, ...]

    @property
    def has_groups(self) -> bool:
        """Whether several ports of a container have one containerPort."""
        return len({port.socket for port in self.ports}) < len(self.ports)

    @property
    def blocks(self) -> list[PodPort]:
        """The ports that are blocks, or were."""
        return [port for port in self.ports if port.count > 1 or port.others]


def parse_pod(raw: Json) -> NewPod:
    """Raises FieldError where a field that matters here has an impossible type."""
    metadata, spec = json_object(raw, "metadata", ""), json_object(raw, "spec", "")
    annotations = text_map(metadata, "annotations", "metadata")
    containers = (*_containers(spec, "containers"), *_containers(spec, "initContainers"))
    return NewPod(
        spec=spec,
        name=text(metadata, "name", "metadata"),
        generate_name=text(metadata, "generateName", "metadata"),
        namespace=text(metadata, "namespace", "metadata"),
        node_name=text(spec, "nodeName", "spec"),
        labels=text_map(metadata, "labels", "metadata"),
        has_labels=metadata.get("labels") is not None,
        annotations=annotations,
        controller=_controller(metadata),
        is_applied="kubectl.kubernetes.io/last-applied-configuration" in annotations or _server_side_applied(metadata),
        host_network=boolean(spec, "hostNetwork", "spec") is True,
        dns_policy=text(spec, "dnsPolicy", "spec"),
        containers=containers,
        ports=tuple([port for container in containers for port in container.ports]),
    )


def _controller(metadata: Json) -> Controller | None:
    """The controller that made the Pod; None for a bare Pod."""
    for _, path, owner in json_objects(metadata, "ownerReferences", "metadata"):
        if boolean(owner, "controller", path):
            return Controller(
                path=path,
                api_version=text(owner, "apiVersion", path),
                kind=text(owner, "kind", path),
                name=text(owner, "name", path),
                uid=text(owner, "uid", path),
            )
    return None


def _server_side_applied(metadata: Json) -> bool:
    for _, path, entry in json_objects(metadata, "managedFields", "metadata"):
        if text(entry, "operation", path) == "Apply":
            return True
    return False


def _containers(spec: Json, key: str) -> Iterator[Container]:
    for at, path, raw in json_objects(spec, key, "spec"):
        pointer, name = f"/spec/{key}/{at}", text(raw, "name", path)
        yield Container(
            pointer=pointer,
            path=path,
            name=name,
            is_counted=key == "containers" or text(raw, "restartPolicy", path) == "Always",
            all_ports=_container_ports(raw, path, pointer, name),
            env=_env(raw, path),
            probes=tuple(_probes(raw, path, pointer)),
            commands=tuple(_commands(raw, path, pointer)),
        )


def _container_ports(container: Json, path: str, pointer: str, name: str) -> tuple[PodPort, ...]:
    found = [
        PodPort(
            pointer=f"{pointer}/ports/{at}",
            path=port_path,
            container=name,
            name=text(raw, "name", port_path),
            protocol=text(raw, "protocol", port_path) or "TCP",
            container_port=integer(raw, "containerPort", port_path),
            host_port=integer(raw, "hostPort", port_path),
            host_ip=text(raw, "hostIP", port_path),
        )
        for at, port_path, raw in json_objects(container, "ports", path)
    ]
    return tuple(found)


def _env(container: Json, path: str) -> tuple[Json, ...] | None:
    if container.get("env") is None:
        return None
    entries = tuple(json_objects(container, "env", path))
    for _, entry_path, entry in entries:
        text(entry, "name", entry_path)
        text(entry, "value", entry_path)
        source = json_object(json_object(entry, "valueFrom", entry_path), "fieldRef", f"{entry_path}.valueFrom")
        for key in ("apiVersion", "fieldPath") if source else ():
            text(source, key, f"{entry_path}.valueFrom.fieldRef")
    return tuple(entry for _, _, entry in entries)


def _probes(container: Json, path: str, pointer: str) -> Iterator[NumericProbe]:
    for key, handlers in _asking(container, path):
        where, at = f"{path}.{key.replace('/', '.')}", f"{pointer}/{key}"
        for kind in ("httpGet", "tcpSocket", "grpc"):
            handler = json_object(handlers, kind, where)
            if is_integer(handler.get("port")):
                yield NumericProbe(
                    f"{at}/{kind}/port", handler["port"], where, text(handler, "host", f"{where}.{kind}")
                )


def _commands(container: Json, path: str, pointer: str) -> Iterator[CommandLine]:
    for key in ("command", "args"):
        if container.get(key):
            yield CommandLine(f"{pointer}/{key}", key, texts(container, key, path))
    for key, handlers in _asking(container, path):
        if handlers.get("exec"):
            where = f"{path}.{key.replace('/', '.')}"
            run = json_object(handlers, "exec", where)
            yield CommandLine(
                f"{pointer}/{key}/exec/command", key.rpartition("/")[2], texts(run, "command", f"{where}.exec")
            )


def _asking(container: Json, path: str) -> Iterator[tuple[str, Json]]:
    """The probes and hooks that are there, each by its place in the container."""
    for key in PROBES:
        if container.get(key) is not None:
            yield key, json_object(container, key, path)
    if container.get("lifecycle") is not None:
        lifecycle = json_object(container, "lifecycle", path)
        for key in HOOKS:
            if lifecycle.get(key) is not None:
                yield f"lifecycle/{key}", json_object(lifecycle, key, f"{path}.lifecycle")


def undeclared(pod: NewPod) -> dict[int, str]:
    """The numbers that probes and hooks ask the Pod itself at and that no port of it has; each with the first path.

    An ordinary init container is over by then: its ports are none of those.
    """
    asking = [probe for container in pod.containers for probe in container.probes if probe.is_here]
    if not asking:
        return {}
    declared = {port.container_port for port in pod.ports if port.protocol == "TCP"}
    found: dict[int, str] = {}
    for probe in asking:
        if probe.port not in declared and 1 <= probe.port <= HIGHEST_PORT:
            found.setdefault(probe.port, probe.path)
    return found
