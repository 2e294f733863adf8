"""What a client says of itself, and by which name its session process is found."""

import os
import subprocess
import sys

import pytest

from rfaas.session import environment, names

# --- environment ----------------------------------------------------------------------------------------------


def test_it_names_the_running_interpreter():
    env = environment.current()
    assert env["python"] == sys.executable
    assert env["version"] == list(sys.version_info[:3])
    assert env["implementation"] == "cpython"
    assert env["cwd"] == os.getcwd()


def test_paths_are_absolute_and_the_empty_one_is_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "lib", "/opt/x"])
    assert environment.current()["path"] == [str(tmp_path), str(tmp_path / "lib"), "/opt/x"]


def test_only_known_and_named_variables_are_passed(monkeypatch):
    for name, value in {"LANG": "C", "SECRET": "x", "MINE": "1", "OTHER": "2", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RFAAS_ENV_PASS", "MINE,OTHER SLURM_PROCID ABSENT")
    variables = environment.current()["vars"]
    assert (variables["LANG"], variables["MINE"], variables["OTHER"]) == ("C", "1", "2")
    assert not {"SECRET", "SLURM_PROCID", "ABSENT"} & set(variables)


def test_modules_imported_already_are_named_for_preloading(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", sys)
    monkeypatch.delitem(sys.modules, "sklearn", raising=False)
    preload = environment.current()["preload"]
    assert "pandas" in preload
    assert "sklearn" not in preload


def test_a_removed_working_directory_is_no_failure(tmp_path):
    # Imported first: under CPython 3.13.0 `import socket` alone fails where the working directory is gone.
    program = (
        "import os; from rfaas.session import environment; os.rmdir(os.getcwd()); print(environment.current()['cwd'])"
    )
    here = tmp_path / "gone"
    here.mkdir()
    done = subprocess.run([sys.executable, "-c", program], cwd=here, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("/\n", "")


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "I_MPI_RANK"])
def test_launcher_variables_are_stripped(name):
    assert environment.without_launcher({name: "1", "PATH": "/bin"}) == {"PATH": "/bin"}


# --- names ----------------------------------------------------------------------------------------------------


def test_a_process_start_tells_processes_apart():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert names.process_start(child.pid) >= names.process_start(os.getpid())
    finally:
        child.communicate(b"\n", timeout=30)
    with pytest.raises(OSError, match=str(child.pid)):
        names.process_start(child.pid)


def test_a_process_whose_name_holds_brackets_has_a_start_too(tmp_path):
    odd = tmp_path / "a) b (c"
    odd.symlink_to("/bin/cat")
    child = subprocess.Popen([odd], stdin=subprocess.PIPE)
    try:
        assert names.process_start(child.pid) > 0
    finally:
        child.communicate(b"", timeout=30)


def test_jobs_and_allocators_have_session_processes_of_their_own(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    login = names.personal_key("a" * 32)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    keys = {login, names.personal_key("a" * 32), names.personal_key("b" * 32), names.embedded_key(1, 2)}
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    keys.add(names.personal_key("a" * 32))
    assert len(keys) == 5
    assert {len(key) for key in keys} == {32}


def test_a_socket_name_is_abstract_and_fits_the_kernel():
    name = names.socket_name(4_294_967_294, "f" * 32)
    assert name.startswith("\0rfaas-session-4294967294-")
    assert len(name) < 108
