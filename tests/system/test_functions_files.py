"""Files that come along: modules and data of this program, on a worker that never saw its directory."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import rfaas
from support import functions as f
from support.waiting import wait_until

TIMEOUT_S = 60


@pytest.fixture
def files(tmp_path):
    (tmp_path / "helpers_that_ship.py").write_text(
        "import shipped_pkg\ndef double(x):\n    return shipped_pkg.two() * x\n"
    )
    (tmp_path / "shipped_pkg").mkdir()
    (tmp_path / "shipped_pkg" / "__init__.py").write_text("from .inner import two\n")
    (tmp_path / "shipped_pkg" / "inner.py").write_text("def two():\n    return 2\n")
    (tmp_path / "table.csv").write_text("1,2\n3,4\n")
    (tmp_path / "tool.sh").write_text("#!/bin/sh\necho from the tool $1\n")
    (tmp_path / "tool.sh").chmod(0o755)
    return [tmp_path / name for name in ("helpers_that_ship.py", "shipped_pkg", "table.csv", "tool.sh")]


def homes():
    """Directories of shipped files on this machine."""
    return set(Path(tempfile.gettempdir()).glob("rfaas-files-*"))


def use_module(x):
    import helpers_that_ship

    return helpers_that_ship.double(x), helpers_that_ship.__file__


def read_table():
    return rfaas.shipped("table.csv").read_text(), str(rfaas.shipped())


def run_tool():
    return subprocess.run([rfaas.shipped("tool.sh"), "5"], capture_output=True, text=True, check=True).stdout


def spoil():
    """Try to change what others share."""
    path = rfaas.shipped("table.csv")
    return oct(path.stat().st_mode & 0o777)


def test_modules_and_data_are_found_by_every_worker_and_gone_at_the_end(files):
    before = homes()
    with rfaas.Executor(2, allocator="embedded", files=files) as ex:
        values = list(ex.map(use_module, range(8)))
        assert [value for value, _ in values] == [2 * n for n in range(8)]
        assert len({path for _, path in values}) == 1  # one copy for both workers
        text, directory = ex.submit(read_table).result(TIMEOUT_S)
        assert text == "1,2\n3,4\n"
        assert not Path(directory).is_relative_to(files[0].parent)
        assert ex.submit(run_tool).result(TIMEOUT_S) == "from the tool 5\n"
        assert ex.submit(spoil).result(TIMEOUT_S) == "0o444"
        assert len(homes() - before) == 1
    wait_until(lambda: homes() <= before, TIMEOUT_S, "the files to be gone")


def test_functions_of_a_shipped_module_are_known_by_name_and_an_initializer_finds_it(files, monkeypatch):
    monkeypatch.syspath_prepend(str(files[0].parent))
    import helpers_that_ship

    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry != str(files[0].parent)])
    with rfaas.Executor(
        1, allocator="embedded", files=files, initializer=helpers_that_ship.double, initargs=(1,)
    ) as ex:
        assert ex.submit(helpers_that_ship.double, 4).result(TIMEOUT_S) == 8
    with rfaas.Executor(1, allocator="embedded") as ex:
        error = ex.submit(helpers_that_ship.double, 4).exception(TIMEOUT_S)
        assert type(error) is rfaas.SerializationError
        assert "No module named 'helpers_that_ship'" in error.message
        assert "files=" in error.hint
    for name in ("helpers_that_ship", "shipped_pkg", "shipped_pkg.inner"):
        sys.modules.pop(name, None)


def test_changed_files_are_those_of_a_new_executor(tmp_path):
    data = tmp_path / "data.txt"

    def read():
        return rfaas.shipped("data.txt").read_text()

    data.write_text("old")
    with rfaas.Executor(1, allocator="embedded", files=[data]) as ex:
        data.write_text("new")
        assert ex.submit(read).result(TIMEOUT_S) == "old"
    with rfaas.Executor(1, allocator="embedded", files=[data]) as ex:
        assert ex.submit(read).result(TIMEOUT_S) == "new"


def test_a_file_that_is_not_there_says_which_are(files):
    with rfaas.Executor(1, allocator="embedded", files=files) as ex:
        error = ex.submit(rfaas.shipped, "tables.csv").exception(TIMEOUT_S)
        assert type(error) is FileNotFoundError
        assert "'tables.csv' came along; there are: helpers_that_ship.py, shipped_pkg, table.csv, tool.sh" in str(error)
        assert type(ex.submit(rfaas.shipped, "../x").exception(TIMEOUT_S)) is FileNotFoundError
    with pytest.raises(LookupError, match="no files came along"):
        rfaas.shipped("table.csv")


def test_a_worker_that_is_replaced_finds_the_files_too(files):
    with rfaas.Executor(1, allocator="embedded", files=files) as ex:
        assert ex.submit(use_module, 1).result(TIMEOUT_S)[0] == 2
        with pytest.raises(rfaas.WorkerLost):
            ex.submit(os._exit, 3).result(TIMEOUT_S)
        assert ex.submit(use_module, 1).result(TIMEOUT_S)[0] == 2


def test_a_killed_session_process_leaves_files_until_the_next_ones_come(files):
    before = homes()
    with rfaas.Executor(1, allocator="embedded", files=files) as ex:
        assert ex.submit(use_module, 1).result(TIMEOUT_S)[0] == 2
        killed = ex._engine.session_pid
        os.kill(killed, 9)  # its worker may answer once more
        wait_until(
            lambda: ex.submit(f.nothing).exception(TIMEOUT_S) is None and ex._engine.session_pid != killed, TIMEOUT_S
        )
        assert ex.submit(use_module, 1).result(TIMEOUT_S)[0] == 2
    wait_until(lambda: homes() <= before, TIMEOUT_S, "the files to be gone")
