"""Checks proto/hostport by the rules of buf STANDARD and COMMENTS that matter here, on the descriptors of protoc.

For machines without buf: names, zero values, one request and response for each call, a comment on everything. And by
buf's rule WIRE_JSON: what a release has (proto/released) keeps its name, number and type.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parent
GOOGLE = Path(status_pb2.__file__).parents[2]  # where google/rpc/status.proto lies

# Field numbers in descriptor.proto, of which the paths of comments are made.
MESSAGE, ENUM, SERVICE, FIELD, NESTED, NESTED_ENUM, VALUE, METHOD = 4, 5, 6, 2, 3, 4, 2, 2
Path_ = tuple[int, ...]


def main() -> int:
    files = describe()
    problems = [problem for file in files for problem in lint(file)]
    problems += [
        f"{path.name}: {problem}"
        for path in released()
        for problem in breaks(FileDescriptorSet.FromString(path.read_bytes()).file, files)
    ]
    print("\n".join(problems) or "proto: ok")
    return 1 if problems else 0


def describe() -> list[FileDescriptorProto]:
    """Our contract with its comments. What has upstream's names goes by upstream's rules."""
    ours = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("hostport/**/*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"-I{GOOGLE}", f"-o{out.name}"]
        subprocess.run([*command, "--include_source_info", *ours], check=True)
        return list(FileDescriptorSet.FromString(Path(out.name).read_bytes()).file)


def released() -> list[Path]:
    """The descriptor sets of the releases, one file each."""
    return sorted((ROOT / "released").glob("*.binpb"))


def breaks(before: Iterable[FileDescriptorProto], now: Iterable[FileDescriptorProto]) -> list[str]:
    """What programs of a release would miss or read wrong today, a sentence each."""
    was, is_now = dict(_parts(before)), dict(_parts(now))
    return [
        f"{name} is gone" if name not in is_now else f"{name} was {what}, and is {is_now[name]}"
        for name, what in was.items()
        if is_now.get(name) != what
    ]


def _parts(files: Iterable[FileDescriptorProto]) -> Iterator[tuple[str, str]]:
    """What the wire and JSON consist of: each method, field and enum value by name, with what must stay of it."""
    for file in files:
        for service in file.service:
            for method in service.method:
                streams = "stream " * method.client_streaming, "stream " * method.server_streaming
                signature = f"{streams[0]}{method.input_type} -> {streams[1]}{method.output_type}"
                yield f"{file.package}.{service.name}/{method.name}", signature
        yield from _parts_of_enums(file.enum_type, file.package)
        for message in file.message_type:
            yield from _parts_of_message(message, file.package)


def _parts_of_message(message: DescriptorProto, scope: str) -> Iterator[tuple[str, str]]:
    name = f"{scope}.{message.name}"
    for field in message.field:
        kind = FieldDescriptorProto.Type.Name(field.type)
        label = FieldDescriptorProto.Label.Name(field.label)
        yield f"{name}.{field.name}", f"{label} {kind}{field.type_name} = {field.number}"
    yield from _parts_of_enums(message.enum_type, name)
    for nested in message.nested_type:
        yield from _parts_of_message(nested, name)


def _parts_of_enums(enums: Iterable[EnumDescriptorProto], scope: str) -> Iterator[tuple[str, str]]:
    for enum in enums:
        for value in enum.value:
            yield f"{scope}.{enum.name}.{value.name}", f"= {value.number}"


def lint(file: FileDescriptorProto) -> Iterator[str]:
    commented = {tuple(place.path) for place in file.source_code_info.location if place.leading_comments.strip()}
    if str(Path(file.name).parent).replace("/", ".") != file.package:
        yield f"{file.name}: package {file.package} is not its folder"
    if not re.search(r"\.v[0-9]+$", file.package):
        yield f"{file.name}: package {file.package} has no version"
    for at, service in enumerate(file.service):
        yield from _service(service, (SERVICE, at), commented)
    for at, message in enumerate(file.message_type):
        yield from _message(message, (MESSAGE, at), commented)
    for at, enum in enumerate(file.enum_type):
        yield from _enum(enum, (ENUM, at), commented)


def _service(service: ServiceDescriptorProto, path: Path_, commented: set[Path_]) -> Iterator[str]:
    yield from _comment(service.name, path, commented)
    if not service.name.endswith("Service"):
        yield f"{service.name}: a service is called ...Service"
    for at, method in enumerate(service.method):
        yield from _comment(f"{service.name}.{method.name}", (*path, METHOD, at), commented)
        for kind, name in (("Request", method.input_type), ("Response", method.output_type)):
            if name.rpartition(".")[2] != method.name + kind:
                yield f"{service.name}.{method.name}: its {kind.lower()} is {name}, not {method.name}{kind}"


def _message(message: DescriptorProto, path: Path_, commented: set[Path_]) -> Iterator[str]:
    if message.options.map_entry:
        return
    yield from _comment(message.name, path, commented)
    if not re.fullmatch(r"([A-Z][a-z0-9]+)+", message.name):
        yield f"{message.name}: a message is PascalCase"
    for at, field in enumerate(message.field):
        yield from _comment(f"{message.name}.{field.name}", (*path, FIELD, at), commented)
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name):
            yield f"{message.name}.{field.name}: a field is lower_snake_case"
    for at, nested in enumerate(message.nested_type):
        yield from _message(nested, (*path, NESTED, at), commented)
    for at, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*path, NESTED_ENUM, at), commented)


def _enum(enum: EnumDescriptorProto, path: Path_, commented: set[Path_]) -> Iterator[str]:
    yield from _comment(enum.name, path, commented)
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    for at, value in enumerate(enum.value):
        yield from _comment(value.name, (*path, VALUE, at), commented)
        if not re.fullmatch(prefix + r"[A-Z0-9_]+", value.name):
            yield f"{value.name}: a value of {enum.name} is called {prefix}..."
    if enum.value[0].name != prefix + "UNSPECIFIED":
        yield f"{enum.name}: its zero value is not {prefix}UNSPECIFIED"


def _comment(what: str, path: Path_, commented: set[Path_]) -> Iterator[str]:
    if path not in commented:
        yield f"{what}: has no comment"


if __name__ == "__main__":
    sys.exit(main())
