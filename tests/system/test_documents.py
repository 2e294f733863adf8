"""Every program that the documents show is run as its reader would, and prints what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS_S = 120
DOCUMENTS = [
    path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if " run\n" in path.read_text()
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_programs_in_the_documents_do_what_stands_there(document, monkeypatch):
    monkeypatch.setenv("RFAAS_ALLOCATOR", "embedded")
    command = [sys.executable, ROOT / "tools" / "check_docs.py", "--run", document]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUNS_S)
    assert (done.returncode, done.stdout) == (0, "1 documents, 0 problems\n"), done.stderr


def test_the_documents_that_teach_by_programs_are_among_them():
    taught = {"README", "arrays", "c", "functions", "futures", "malleable", "native", "reclaim"}
    assert taught <= {path.stem for path in DOCUMENTS}
