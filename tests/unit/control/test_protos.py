"""The committed stubs are those of the committed `.proto` files, and every field there says what it is."""

import importlib
import re
from pathlib import Path

import pytest

import rfaas.control.proto

FOLDER = Path(rfaas.control.proto.__file__).parent
PROTOS = sorted(path.stem for path in FOLDER.glob("*.proto"))
FIELD = re.compile(r"^\s+(?:repeated |optional )?[\w.<>, ]+ (\w+) = (\d+);(.*)$")


def messages_of(name):
    """{message: {field: number}} as the text of a file says, and the lines of fields without a comment."""
    messages, bare, current = {}, [], None
    for line in (FOLDER / f"{name}.proto").read_text().splitlines():
        if begin := re.match(r"message (\w+) \{", line):
            current = messages.setdefault(begin[1], {})
        elif field := FIELD.match(line):
            current[field[1]] = int(field[2])
            in_oneof = int(field[2]) >= 10 and line.startswith("    ")  # its type's own comment says what it is
            bare += [] if "//" in field[3] or in_oneof else [line]
    return messages, bare


@pytest.mark.parametrize("name", PROTOS)
def test_the_stubs_have_the_messages_and_fields_of_the_proto(name):
    stubs = importlib.import_module(f"rfaas.control.proto.{name}_pb2")
    made = {
        message: {field.name: field.number for field in descriptor.fields}
        for message, descriptor in stubs.DESCRIPTOR.message_types_by_name.items()
    }
    assert made == messages_of(name)[0]


@pytest.mark.parametrize("name", PROTOS)
def test_every_field_says_what_it_is(name):
    assert messages_of(name)[1] == []


def test_there_are_the_services_of_the_spec():
    spec = (Path(__file__).parents[3] / "docs" / "spec" / "003-control.md").read_text()
    named = set(re.findall(r"^\| (Agents|Leases|Offers|Admin) \|", spec, re.MULTILINE))
    texts = "".join((FOLDER / f"{name}.proto").read_text() for name in PROTOS)
    assert named == set(re.findall(r"^service (\w+)", texts, re.MULTILINE)) == {"Agents", "Leases", "Offers", "Admin"}
