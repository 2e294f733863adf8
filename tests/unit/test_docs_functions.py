"""The tables of docs/functions.md name tests; each must be there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_test_that_the_tables_name_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "functions.md").read_text()))
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE))
    assert len(named) > 30
    assert named - defined == set()


def test_every_row_of_the_tables_names_one_but_the_one_that_is_none_of_ours():
    rows = [line for line in (ROOT / "docs" / "functions.md").read_text().splitlines() if line.startswith("| ")]
    bare = [row for row in rows if "`test_" not in row and "---" not in row and not row.startswith("| what")]
    assert [row.split("|")[1].strip() for row in bare] == ["other limits"]
