"""What an executor may be told, and which allocator is found."""

import os
import socket
from pathlib import Path

import pytest

from rfaas.config import (
    CallSettings,
    Embedded,
    StateDir,
    check_worker_life,
    choose_allocator,
    configure,
    make_call_settings,
    make_config,
    state_dir,
    usable_cpus,
)
from rfaas.control.address import AllocatorAddress, network_namespace
from rfaas_transport._core import DEFAULT_MAX_PAYLOAD_BYTES
from rfaas_transport.errors import ConfigError

DEFAULTS = {
    "max_workers": None,
    "memory": "1GiB",
    "cores": 1,
    "allocator": "embedded",
    "transport": "auto",
    "hot_for_s": 0,
    "acquire_timeout_s": None,
    "daemon_python": None,
    "calls": CallSettings(),
    "environ": {},
}


def write_allocator_json(directory, unix, host=None):
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    AllocatorAddress(
        state_dir=directory,
        unix=str(unix),
        tls="",
        host=host or socket.gethostname(),
        netns=network_namespace(),
        pid=os.getpid(),
        started_boot_ns=0,
        alloc_id="0" * 32,
    ).write()


@pytest.fixture
def listener(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        yield tmp_path / "s"


def test_the_defaults_are_accepted():
    config = make_config(**DEFAULTS)
    assert (config.max_workers, config.memory_bytes, config.choice) == (usable_cpus(), 2**30, Embedded())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_workers", 0),
        ("max_workers", -1),
        ("max_workers", 2.5),
        ("max_workers", True),
        ("max_workers", 1_000_000),
        ("memory", "much"),
        ("cores", 0),
        ("transport", "pigeon"),
        ("hot_for_s", -1),
        ("acquire_timeout_s", 0),
        ("acquire_timeout_s", "soon"),
        ("acquire_timeout_s", 1e300),
        ("daemon_python", "/proc/nonexistent/python"),
        ("daemon_python", "/"),
        ("allocator", "/proc/nonexistent/state"),
        ("allocator", 7),
        ("allocator", ""),
    ],
)
def test_a_wrong_value_names_its_setting_and_a_remedy(name, value):
    with pytest.raises(ConfigError, match=rf"(?s){name}=.*remedy: \w") as caught:
        make_config(**{**DEFAULTS, name: value})
    assert isinstance(caught.value, ValueError)


def test_what_only_looks_true_does_not_let_a_function_run_twice():
    with pytest.raises(ConfigError, match="neither True nor False"):
        make_call_settings(idempotent="no", retries=0, call_timeout_s=None)


def test_a_time_beyond_all_floats_and_a_home_of_nobody_are_refused():
    with pytest.raises(ConfigError, match="too long"):
        make_call_settings(idempotent=False, retries=0, call_timeout_s=10**400)
    with pytest.raises(ConfigError, match="write the path in full"):
        choose_allocator("~nobody-of-this-name/state", {})


def test_retries_without_idempotent_are_refused():
    with pytest.raises(ConfigError, match="idempotent=True"):
        make_call_settings(idempotent=False, retries=1, call_timeout_s=None)


def test_a_call_timeout_may_be_written_with_a_unit():
    settings = make_call_settings(idempotent=True, retries=2, call_timeout_s="1m")
    assert settings == CallSettings(idempotent=True, retries=2, call_timeout_s=60.0)


def test_the_argument_goes_before_the_environment(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    environ = {"RFAAS_ALLOCATOR": str(other)}
    assert choose_allocator(tmp_path, environ) == StateDir(tmp_path)
    assert choose_allocator(None, environ) == StateDir(other)
    assert choose_allocator("embedded", environ) == Embedded()


def test_a_wrong_environment_is_named(tmp_path):
    with pytest.raises(ConfigError, match="RFAAS_ALLOCATOR"):
        choose_allocator(None, {"RFAAS_ALLOCATOR": str(tmp_path / "none")})


def test_without_any_allocator_the_embedded_one_is_chosen(tmp_path):
    assert choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path)}) == Embedded()


def test_an_allocator_that_runs_is_found(tmp_path, listener):
    write_allocator_json(tmp_path / "state", listener)
    assert choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path / "state")}) == StateDir(tmp_path / "state")


def test_a_killed_allocator_is_no_reason_to_run_functions_here(tmp_path):
    write_allocator_json(tmp_path, tmp_path / "gone")
    with pytest.raises(ConfigError, match="was not stopped") as caught:
        choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path)})
    assert "rfaas down" in caught.value.hint
    assert choose_allocator("embedded", {"RFAAS_STATE_DIR": str(tmp_path)}) == Embedded()


def test_where_a_site_lends_an_allocator_need_not_run_nor_have_been_stopped(tmp_path):
    environ = {"RFAAS_STATE_DIR": str(tmp_path / "state"), "RFAAS_SITE_ALLOCATOR": "10.1.0.1:7411"}
    meant = StateDir(tmp_path / "state", "10.1.0.1:7411")
    assert choose_allocator(None, environ) == meant
    (tmp_path / "state").mkdir()
    write_allocator_json(tmp_path / "state", tmp_path / "gone")
    assert choose_allocator(None, environ) == meant
    assert choose_allocator("embedded", environ) == Embedded()
    assert choose_allocator(None, {**environ, "RFAAS_SLICE": "0011"}) == Embedded()
    assert choose_allocator(
        None, {**environ, "RFAAS_SITE_ALLOCATOR": "none", "RFAAS_STATE_DIR": str(tmp_path / "x")}
    ) == (Embedded())
    with pytest.raises(ConfigError, match="is no HOST:PORT"):
        choose_allocator(None, {**environ, "RFAAS_SITE_ALLOCATOR": "fabric"})


def test_a_user_without_a_home_directory_uses_this_machine(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert choose_allocator(None, {"RFAAS_CONFIG": "none"}) == Embedded()
    with pytest.raises(ConfigError, match="no home directory"):
        state_dir({"RFAAS_CONFIG": "none"})


@pytest.mark.parametrize(
    ("initializer", "initargs", "max_tasks", "kind", "said"),
    [
        (3, (), None, TypeError, "pass its arguments as initargs"),
        (print, 5, None, TypeError, r"written \(5,\)"),
        (None, (), 1.5, TypeError, "None means no limit"),
        (None, (), True, TypeError, "None means no limit"),
        (None, (), 0, ConfigError, "whole number from 1"),
    ],
)
def test_a_wrong_worker_s_life_is_named_with_its_remedy(initializer, initargs, max_tasks, kind, said):
    with pytest.raises(kind, match=said):
        check_worker_life(initializer, initargs, max_tasks)
    check_worker_life(print, [1, 2], 3)


def test_a_function_that_names_no_allocator_means_its_own_cores(tmp_path, listener):
    write_allocator_json(tmp_path / "state", listener)
    environ = {"RFAAS_STATE_DIR": str(tmp_path / "state"), "RFAAS_SLICE": "0011"}
    assert choose_allocator(None, environ) == Embedded()
    assert choose_allocator(tmp_path / "state", environ) == StateDir(tmp_path / "state")


def test_a_function_that_names_an_allocator_waits_for_cores_a_limited_time(tmp_path):
    inside = {"RFAAS_SLICE": "0011"}
    asked = {**DEFAULTS, "allocator": tmp_path, "environ": inside}
    assert make_config(**asked).acquire_timeout_s == 60.0
    assert make_config(**{**asked, "acquire_timeout_s": 5}).acquire_timeout_s == 5.0
    assert make_config(**{**asked, "environ": {}}).acquire_timeout_s is None
    assert make_config(**{**asked, "allocator": "embedded"}).acquire_timeout_s is None


def test_an_allocator_of_another_host_is_believed(tmp_path):
    write_allocator_json(tmp_path, tmp_path / "gone", host="elsewhere")
    assert choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path)}) == StateDir(tmp_path)


def test_a_broken_allocator_json_is_said(tmp_path):
    write_allocator_json(tmp_path, tmp_path / "gone")
    (tmp_path / "allocator.json").write_text("{")
    with pytest.raises(ConfigError, match="can't be read"):
        choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path)})


def test_a_state_directory_that_others_can_enter_is_no_reason_to_run_functions_here(tmp_path, listener):
    write_allocator_json(tmp_path / "state", listener)
    (tmp_path / "state").chmod(0o755)
    with pytest.raises(ConfigError, match="others can get at it"):
        choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path / "state")})


@pytest.mark.parametrize("error", [PermissionError, NotADirectoryError, FileNotFoundError])
def test_a_place_where_nobody_can_look_has_no_allocator(tmp_path, monkeypatch, error):
    def refuse(path, *, directory=False):
        raise error(13, "refused", str(path))

    monkeypatch.setattr("rfaas.control.address.check_private", refuse)
    assert choose_allocator(None, {"RFAAS_STATE_DIR": str(tmp_path)}) == Embedded()


def test_the_state_directory_follows_the_environment():
    assert state_dir({"RFAAS_STATE_DIR": "/a", "XDG_STATE_HOME": "/b"}) == Path("/a")
    assert state_dir({"XDG_STATE_HOME": "/b"}) == Path("/b/rfaas")
    assert state_dir({}) == Path.home() / ".local/state/rfaas"


def test_a_working_directory_that_is_gone_matters_only_to_files_made_there(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    environ = {"HOME": str(tmp_path)}
    assert configure(environ, allocator="embedded").output.to == "caller"
    assert configure(environ, allocator="embedded", output="files", output_dir="/tmp/x").output.directory == "/tmp/x"
    with pytest.raises(ConfigError, match="working directory, which can't be found") as caught:
        configure(environ, allocator="embedded", output="files")
    assert "output_dir" in caught.value.hint


def test_no_payload_limit_is_above_what_a_channel_takes(tmp_path):
    environ = {"HOME": str(tmp_path), "RFAAS_CONFIG": "none"}
    most = configure(environ, allocator="embedded", payload_limit="4GiB").payload_limit_bytes
    assert most == DEFAULT_MAX_PAYLOAD_BYTES
    with pytest.raises(ConfigError, match="payload_limit='5GiB' is too large"):
        configure(environ, allocator="embedded", payload_limit="5GiB")
