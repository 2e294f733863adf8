"""The table of docs/faults.md names the fault tests; each must be there, and none be missing."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ROWS = re.findall(r"^\| (T\d\d) \|(.*)\|$", (ROOT / "docs" / "faults.md").read_text(), re.MULTILINE)


def files_of(row):
    return re.findall(r"`(tests/(?:faults|rdma)/\w+\.py)`", row.rpartition(" | ")[2])


def test_every_row_has_what_is_injected_promised_seen_and_files_that_exist():
    assert len(ROWS) >= 13
    for number, row in ROWS:
        assert [bool(cell.strip()) for cell in re.split(r"(?<!\\)\|", row)] == [True] * 4, number
        assert files_of(row), number
        assert [name for name in files_of(row) if not (ROOT / name).is_file()] == [], number


def test_every_numbered_test_is_in_the_row_of_its_number():
    named = {(number, name) for number, row in ROWS for name in files_of(row)}
    found = [path.relative_to(ROOT) for path in (ROOT / "tests" / "faults").glob("test_t[0-9][0-9]_*.py")]
    assert {(path.name[5:8].upper(), str(path)) for path in found} <= named
