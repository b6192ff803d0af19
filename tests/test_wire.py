"""Programs of a release and those of today understand each other: the contract that each release froze in
proto/released is read by the code of today, and the other way round."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message_factory import GetMessageClass

from hostport.v1 import allocator_pb2 as pb
from testing.documented import ROOT

RELEASED = sorted((ROOT / "proto" / "released").glob("*.binpb"))
DEEPEST = 4  # messages within messages, where one holds itself


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("proto_lint", path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


LINT = module(ROOT / "proto" / "lint.py")


def contract(path: Path) -> FileDescriptorProto:
    (file,) = FileDescriptorSet.FromString(path.read_bytes()).file
    return file


def pool_of(path: Path) -> descriptor_pool.DescriptorPool:
    """A release's messages, beside those of today and apart from them."""
    pool = descriptor_pool.DescriptorPool()
    for imported in pb.DESCRIPTOR.dependencies:
        add(pool, imported)
    pool.Add(contract(path))
    return pool


def add(pool: descriptor_pool.DescriptorPool, file: Any) -> None:
    for imported in file.dependencies:
        add(pool, imported)
    pool.AddSerializedFile(file.serialized_pb)


def filled(message: Any, depth: int = 0) -> Any:
    """The message with something in every field; of a oneof in the last."""
    for at, field in enumerate(message.DESCRIPTOR.fields, 1):
        if field.message_type and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            key: Any = scalar(entry["key"], at)
            getattr(message, field.name)[key] = scalar(entry["value"], at)
        elif field.message_type and (depth == DEEPEST or field.message_type.full_name == "google.protobuf.Any"):
            continue
        elif field.message_type and field.is_repeated:
            filled(getattr(message, field.name).add(), depth + 1)
        elif field.message_type:
            getattr(message, field.name).SetInParent()
            filled(getattr(message, field.name), depth + 1)
        elif field.is_repeated:
            getattr(message, field.name).extend([scalar(field, at), scalar(field, at + 1)])
        else:
            setattr(message, field.name, scalar(field, at))
    return message


def scalar(field: FieldDescriptor, at: int) -> Any:
    if field.enum_type:
        return field.enum_type.values[-1].number
    return {
        FieldDescriptor.CPPTYPE_STRING: str(at) if field.type == FieldDescriptor.TYPE_STRING else bytes([at]),
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: at / 2,
        FieldDescriptor.CPPTYPE_FLOAT: at / 2,
    }.get(field.cpp_type, at)


def messages(path: Path) -> list[str]:
    return [message.name for message in contract(path).message_type]


ROWS = [pytest.param(path, name, id=f"{path.stem} {name}") for path in RELEASED for name in messages(path)]


def test_there_is_a_release_to_hold_against() -> None:
    assert RELEASED


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_nothing_that_a_release_has_was_removed_renumbered_or_retyped(path: Path) -> None:
    today = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)

    assert LINT.breaks([contract(path)], [today]) == []


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_what_a_program_of_a_release_says_is_read_by_one_of_today(path: Path, name: str) -> None:
    theirs = filled(GetMessageClass(pool_of(path).FindMessageTypeByName(f"hostport.v1.{name}"))())

    read = GetMessageClass(pb.DESCRIPTOR.message_types_by_name[name]).FromString(theirs.SerializeToString())

    assert json_format.MessageToDict(read) == json_format.MessageToDict(theirs)


@pytest.mark.parametrize(("path", "name"), ROWS)
def test_what_a_program_of_today_says_is_read_by_one_of_a_release(path: Path, name: str) -> None:
    """What it does not know it leaves, and loses nothing of it."""
    ours = filled(GetMessageClass(pb.DESCRIPTOR.message_types_by_name[name])())
    theirs = GetMessageClass(pool_of(path).FindMessageTypeByName(f"hostport.v1.{name}"))

    read = theirs.FromString(ours.SerializeToString())

    assert is_part(json_format.MessageToDict(read), json_format.MessageToDict(ours))
    assert type(ours).FromString(read.SerializeToString()) == ours


def is_part(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and is_part(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(is_part(*pair) for pair in zip(part, whole, strict=True))
    is_unknown = isinstance(part, int) and isinstance(whole, str)  # an enum's value that is new stays a number
    return is_unknown or bool(part == whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda file: file.service[0].method.pop(), r"hostport\.v1\.\w+/\w+ is gone", id="a call is removed"
        ),
        pytest.param(
            lambda file: owner(file).field.pop(0), r"hostport\.v1\.Owner\.\w+ is gone", id="a field is removed"
        ),
        pytest.param(
            lambda file: setattr(owner(file).field[0], "number", 99), "Owner.* was .* = 1, .* = 99", id="renumbered"
        ),
        pytest.param(
            lambda file: setattr(owner(file).field[0], "type", 5), "was .*TYPE_STRING.* is .*TYPE_INT32", id="retyped"
        ),
        pytest.param(
            lambda file: file.enum_type[0].value.pop(0),
            r"hostport\.v1\.\w+\.\w+ is gone",
            id="an enum's value is removed",
        ),
    ],
)
def test_a_change_that_breaks_a_release_is_named(change: Any, says: str) -> None:
    today = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    change(today)

    problems = LINT.breaks([contract(RELEASED[-1])], [today])

    assert any(re.search(says, problem) for problem in problems), problems


def owner(file: FileDescriptorProto) -> Any:
    return next(message for message in file.message_type if message.name == "Owner")


def test_what_is_new_breaks_nothing() -> None:
    today = FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
    owner(today).field.add(name="new", number=900, type=9, label=1, json_name="new")

    assert LINT.breaks([contract(RELEASED[-1])], [today]) == []
