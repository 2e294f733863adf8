"""Marks, and what else the guard reads: pages of live and dead writers, wrong files, figures of the kernel."""

import fcntl
import os
import struct
import subprocess
import sys
import time

import pytest

import rfaas
from rfaas import _marking
from rfaas_executors.guard_watch import MAGIC, PAGE_BYTES, HostTasks, MarkReader, Pressure, Steal, some_total_us
from support.c_build import FLAGS

HEAD = struct.Struct("=8s32s64sQ16x")
PROGRAM = """
#include <rfaas_mark.h>
int main(int argc, char **argv) {
    for (int i = 0; i < atoi(argv[1]); i++) rfaas_mark();
    if (argc > 2) { puts(rfaas_mark_path_); fflush(stdout); getchar(); }
    return 0;
}
"""


@pytest.fixture
def marks(tmp_path, monkeypatch):
    _marking.end_marks()
    monkeypatch.setenv("RFAAS_GUARD_MARKS_DIR", str(tmp_path))
    yield tmp_path
    _marking.end_marks()


def page(path, count, stamps_ns, *, node=b"", magic=MAGIC, size=PAGE_BYTES):
    """A page as docs/spec/012-marks.md has it, written by hand; the descriptor holds the lock of its writer."""
    data = HEAD.pack(magic, b"lmp", node, count) + struct.pack("=32Q", *stamps_ns)
    path.write_bytes(data.ljust(PAGE_BYTES, b"\0")[:size])
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_marks_of_python_are_read_as_iterations(marks):
    rfaas.mark()
    reader, offset_s = MarkReader(str(marks)), 5.0
    [nothing] = reader.read(0.0, offset_s).values()
    assert nothing == ()
    before_s = time.monotonic()
    for _ in range(3):
        rfaas.mark()
    [iterations] = reader.read(0.1, offset_s).values()
    assert len(iterations) == 3
    assert all(begin_s < end_s for begin_s, end_s in iterations)
    assert before_s + offset_s <= iterations[-1][1] <= time.monotonic() + offset_s
    assert [reader.read(0.2, offset_s)[name] for name in reader.read(0.2, offset_s)] == [()]
    _marking.end_marks()
    assert list(marks.iterdir()) == []
    assert reader.read(9.0, offset_s) == {}


def test_of_many_marks_the_last_that_are_whole_are_read(marks):
    rfaas.mark()
    reader = MarkReader(str(marks))
    reader.read(0.0, 0.0)
    for _ in range(1000):
        rfaas.mark()
    [iterations] = reader.read(0.1, 0.0).values()
    assert 25 <= len(iterations) <= 31
    reader.close()


def test_without_a_place_marks_go_nowhere(monkeypatch):
    for place in ("none", "/nowhere/at/all"):
        _marking.end_marks()
        monkeypatch.setenv("RFAAS_GUARD_MARKS_DIR", place)
        rfaas.mark()
        rfaas.mark()
        assert _marking.marks_path() == ""
    _marking.end_marks()


def test_a_forked_child_marks_on_a_page_of_its_own(marks):
    rfaas.mark()
    mine = _marking.marks_path()
    child = os.fork()
    if child == 0:
        rfaas.mark()
        os._exit(0 if _marking.marks_path() not in ("", mine) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.path.exists(mine)
    rfaas.mark()
    assert _marking.marks_path() == mine


def test_a_program_in_c_marks_and_what_a_killed_one_left_is_removed(marks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    (folder / "program.c").write_text(PROGRAM)
    binary = folder / "program"
    include = ["-I", os.path.join(os.path.dirname(__file__), "../../../transport/include")]
    subprocess.run(["cc", *FLAGS, *include, folder / "program.c", "-o", binary], check=True, timeout=60)
    subprocess.run([binary, "5"], check=True, timeout=10)
    assert list(marks.iterdir()) == []
    with subprocess.Popen([binary, "5", "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        path = process.stdout.readline().strip()
        reader = MarkReader(str(marks))
        reader.read(0.0, 0.0)
        assert reader.programs == {"program"}
        process.kill()
    assert os.path.exists(path)
    assert reader.read(5.0, 0.0) != {"program": ()}
    assert not os.path.exists(path)
    assert reader.programs == set()


def test_wrong_files_are_passed_over(tmp_path):
    held = [
        page(tmp_path / "rfaas-mark-0-1-1", 3, range(32), magic=b"RFMARKS9"),
        page(tmp_path / "rfaas-mark-0-2-1", 3, range(32), size=200),
        page(tmp_path / "rfaas-mark-0-3-1", 3, range(32), node=b"elsewhere"),
    ]
    os.mkfifo(tmp_path / "rfaas-mark-0-4-1")
    (tmp_path / "rfaas-mark-0-5-1").symlink_to("/etc/passwd")
    reader = MarkReader(str(tmp_path), "here")
    assert reader.read(0.0, 0.0) == {}
    for descriptor in held:
        os.close(descriptor)


def test_a_page_that_is_cut_short_or_runs_backwards_says_nothing(tmp_path):
    descriptor = page(tmp_path / "rfaas-mark-0-1-1", 3, [99 - i for i in range(32)])
    reader = MarkReader(str(tmp_path))
    reader.read(0.0, 0.0)
    os.pwrite(descriptor, struct.pack("=Q", 9), 104)
    assert list(reader.read(0.1, 0.0).values()) == [()]
    os.ftruncate(descriptor, 0)
    assert list(reader.read(0.2, 0.0).values()) == [()]
    os.close(descriptor)
    reader.close()


def test_tasks_of_other_jobs_are_found_by_their_environment_and_their_waiting_is_seen():
    environment = {**os.environ, "SLURM_JOB_ID": "77", "SLURMD_NODENAME": "n1"}
    command = [sys.executable, "-c", "while True: pass"]
    ours = [sys.executable, "-c", "import time; time.sleep(60)", "rfaas_executors"]
    with subprocess.Popen(command, env=environment) as process, subprocess.Popen(ours, env=environment) as agent:
        try:
            tasks, elsewhere = HostTasks("5", "n1", shared=False), HostTasks("5", "n2", shared=False)
            mine = HostTasks("77", "n1", shared=False)
            for one in (tasks, elsewhere, mine):
                one.stretch(0.0, 0.0)
            time.sleep(0.3)
            stretch = tasks.stretch(0.1, 0.0)  # of a tenth of a second: it ran, however busy this machine is
            assert stretch is not None
            assert stretch >= 1.0
            assert tasks.programs
            assert {task.split("/")[0] for task in tasks._times} == {str(process.pid)}
            assert elsewhere.stretch(0.1, 0.0) is None
            assert mine.stretch(0.1, 0.0) is None
        finally:
            process.kill()
            agent.kill()


def test_pressure_of_a_cgroup_becomes_a_stretch(tmp_path):
    folder = tmp_path / "job_7"
    folder.mkdir()
    line = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    (folder / "cpu.pressure").write_text(line.format(1_000_000))
    pressure = Pressure(tmp_path)
    assert pressure.stretch({"/job_7"}, 1.0) is None
    (folder / "cpu.pressure").write_text(line.format(1_200_000))
    assert pressure.stretch({"/job_7"}, 1.0) == pytest.approx(1.25)
    assert pressure.stretch({"", "/gone"}, 1.0) is None
    assert some_total_us(str(folder / "none")) is None


def test_steal_is_a_part_of_all_time(tmp_path):
    path = tmp_path / "stat"
    path.write_text("cpu  10 0 10 80 0 0 0 0 0 0\n")
    steal = Steal(str(path))
    path.write_text("cpu  20 0 20 140 0 0 0 20 0 0\n")
    assert steal.part() == pytest.approx(0.2)
    assert steal.part() == 0.0
