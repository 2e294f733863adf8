"""The family of errors: as the table of specification 001 says, and whole after a journey between processes."""

import pickle
import re
from pathlib import Path

import pytest

import rfaas
from rfaas_transport import errors
from rfaas_transport.errors import ReasonCode, RfaasError
from rfaas_transport.frame import ExtensionType, Kind, Status

SPEC = Path(__file__).parent.parent.parent / "docs" / "spec" / "001-invocation.md"
SECTION = SPEC.read_text().split("## 6. Errors, reason codes")[1].split("## 7.")[0]
CLASSES = {
    found.__name__: found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, RfaasError) and found is not RfaasError
}


def table():
    """(code, class, also a, retriable) of each row."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if "|" in line]
    return [
        tuple(row[:4]) for row in rows if len(row) == 5 and re.fullmatch(r"[a-z-]+[a-z]", row[0]) and row[0] != "code"
    ]


def test_the_table_and_the_classes_are_the_same():
    of_classes = {
        (
            cls.code,
            name,
            next((base.__name__ for base in cls.__bases__ if not issubclass(base, RfaasError)), ""),
            "yes" if cls.retriable else "no",
        )
        for name, cls in CLASSES.items()
    }
    assert len(table()) > 20
    assert set(table()) == of_classes
    assert len({cls.code for cls in CLASSES.values()}) == len(CLASSES)


def test_reason_codes_are_those_of_the_table():
    pairs = re.findall(r"\| (\d+) \| ([a-z-]+) ", SECTION)
    assert len({number for number, _ in pairs}) == len(pairs)
    assert {int(number): name for number, name in pairs} == {code.value: code.text for code in ReasonCode if code}


def test_attributes_are_those_that_the_section_names():
    listed = re.findall(r"`(\w+)`", SECTION.partition("with the attributes")[2].partition(". Picklable")[0])
    assert set(listed) == {"code", "retriable", *vars(RfaasError()).keys()} - {"message"}


def test_every_error_and_no_other_is_public():
    internal = {"NotFound"}  # between session process and agent
    assert {name for name in CLASSES if name not in internal} | {"RfaasError", "ReasonCode"} == {
        name for name in rfaas.__all__ if hasattr(errors, name)
    }


def rows(text):
    """Cells of each table row in a part of the specification."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in lines]


def test_kinds_statuses_and_extensions_are_those_of_the_specification():
    text = SPEC.read_text()
    kinds = re.findall(
        r"(\d+) ([A-Z_]+)(?! \(reserved|[A-Z_])(?=[,. |])", text.split("## 2. Kinds")[1].split("An unknown")[0]
    )
    assert {int(number): name for number, name in kinds} == {kind.value: kind.name for kind in Kind}
    statuses = rows(text.split("## 4. Status")[1].split("## 5.")[0])
    assert {int(row[0]): row[1] for row in statuses if row[0].isdigit()} == {s.value: s.name for s in Status}
    extensions = rows(text.split("**Extensions** follow")[1].split("A frame has at most")[0])
    named = {int(row[0], 16): row[1].upper() for row in extensions if re.fullmatch("0x[0-9a-f]{4}", row[0])}
    assert named == {extension.value: extension.name for extension in ExtensionType}


@pytest.mark.parametrize("cls", CLASSES.values(), ids=CLASSES)
def test_an_error_survives_pickling_with_all_that_it_says(cls):
    error = cls(
        "what happened",
        may_have_run=True,
        phase="STARTED",
        reason_code=1,
        node="n1",
        lease_id=b"\1" * 16,
        epoch=7,
        attempt=2,
        grace_s=3.5,
        checkpoint=b"state",
        hint="do this",
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert again.__dict__ == error.__dict__
    assert (again.reason_code, again.phase, again.grace_s) == (ReasonCode.SLURM_PREEMPT, "STARTED", 3.5)
    assert str(again) == "what happened\n  remedy: do this"
    assert again.args == ("what happened",)


def test_an_error_without_a_hint_is_its_message_alone():
    assert str(errors.WorkerLost("gone")) == "gone"
    assert errors.WorkerLost().reason_code is ReasonCode.NONE
