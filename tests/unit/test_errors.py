"""The family of errors: as the table of specification 001 says, and whole after a journey between processes."""

import pickle
import re
from pathlib import Path

import pytest

from rfaas_transport import errors
from rfaas_transport.errors import ReasonCode, RfaasError

SPEC = Path(__file__).parent.parent.parent / "docs" / "spec" / "001-invocation.md"
SECTION = SPEC.read_text().split("## 6. Errors, reason codes")[1]
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
    assert {int(number): name for number, name in pairs} == {code.value: code.text for code in ReasonCode if code}


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
