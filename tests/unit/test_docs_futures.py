"""The table of docs/futures.md names tests; each must be there, and none be skipped in silence."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_test_that_the_table_names_exists():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "futures.md").read_text()))
    defined = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE))
    assert len(named) > 40
    assert named - defined == set()


def test_every_row_of_the_tables_names_one_but_the_one_without_a_counterpart():
    rows = [line for line in (ROOT / "docs" / "futures.md").read_text().splitlines() if line.startswith("| ")]
    bare = [row for row in rows if "`test_" not in row and "---" not in row and not row.startswith("| what")]
    assert [row.split("|")[1].strip() for row in bare] == ["`mp_context`"]
