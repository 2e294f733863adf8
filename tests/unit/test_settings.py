"""One table of settings: which source wins, what is said of wrong ones, and that the documentation is the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rfaas.config import configure
from rfaas.settings import BY_NAME, TABLE, Settings, files, kinds
from rfaas.settings.document import SECTIONS, document
from rfaas_transport.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Files of project, user and machine in a directory of the test's; returns a function that writes one."""
    monkeypatch.setattr(files, "SYSTEM_FILE", tmp_path / "etc" / "rfaas.toml")
    paths = {
        "project": tmp_path / "work" / "rfaas.toml",
        "user": tmp_path / "xdg" / "rfaas" / "rfaas.toml",
        "system": tmp_path / "etc" / "rfaas.toml",
    }

    def write(kind, text):
        paths[kind].parent.mkdir(parents=True, exist_ok=True)
        paths[kind].write_text(text)
        return paths[kind]

    (tmp_path / "work" / "deep" / "er").mkdir(parents=True)
    return write


def load(tmp_path, environ=None, options=None):
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), **(environ or {})}
    return Settings.load(environ, directory=tmp_path / "work" / "deep" / "er", options=options)


# --- which source wins ----------------------------------------------------------------------------------------


def test_the_first_that_says_something_wins(home, tmp_path):
    """Each layer is taken away in turn, and the next one is heard."""
    for n, kind in enumerate(("project", "user", "system"), 4):
        home(kind, f"[harvest]\nmax_cores = {n}\n")
    environ = {"RFAAS_HARVEST_MAX_CORES": "3"}
    options = {"harvest.max_cores": "2"}
    assert load(tmp_path, environ, options).find("harvest.max_cores", 1)[1:3] == (1, "argument")
    assert load(tmp_path, environ, options).find("harvest.max_cores")[1:3] == (2, "command line")
    assert load(tmp_path, environ).find("harvest.max_cores")[1:3] == (3, "environment")
    for n, kind in enumerate(("project", "user", "system"), 4):
        found = load(tmp_path).find("harvest.max_cores")
        assert (found.value, found.source) == (n, kind)
        Path(found.where).unlink()
    assert load(tmp_path).find("harvest.max_cores")[1:] == (0, "default", "")


def test_a_layer_that_says_nothing_is_passed_over_key_by_key(home, tmp_path):
    home("project", "[executor]\ncores = 2\n")
    home("user", 'log = "debug"\n[executor]\ncores = 3\nmemory = "2GiB"\n')
    settings = load(tmp_path, {"RFAAS_LOG": ""})
    assert settings.value("executor.cores") == 2
    assert settings.value("executor.memory") == 2 << 30
    assert settings.value("log") == "debug"


def test_another_project_file_or_none_can_be_named(home, tmp_path):
    home("project", "[executor]\ncores = 2\n")
    other = home("user", "[executor]\ncores = 3\n").with_name("other.toml")
    other.write_text("[executor]\ncores = 4\n")
    assert load(tmp_path, {"RFAAS_CONFIG": str(other)}).value("executor.cores") == 4
    assert load(tmp_path, {"RFAAS_CONFIG": "none"}).value("executor.cores") == 3
    with pytest.raises(ConfigError, match="RFAAS_CONFIG"):
        load(tmp_path, {"RFAAS_CONFIG": str(tmp_path / "gone.toml")})


def test_a_relative_path_is_meant_from_where_it_stands(home, tmp_path):
    home("project", 'state_dir = "state"\n')
    assert load(tmp_path).value("state_dir") == str(tmp_path / "work" / "state")


def test_an_executor_takes_what_its_arguments_leave_out(home, tmp_path, monkeypatch):
    home("project", '[executor]\nmemory = "64MiB"\nacquire_timeout_s = "1m"\nidempotent = true\nretries = 2\n')
    monkeypatch.chdir(tmp_path / "work")
    environ = {"RFAAS_EXECUTOR_CORES": "3", "RFAAS_ALLOCATOR": "embedded"}
    config = configure(environ, memory=1 << 20)
    assert (config.memory_bytes, config.cores, config.acquire_timeout_s) == (1 << 20, 3, 60.0)
    assert (config.calls.idempotent, config.calls.retries) == (True, 2)
    assert configure(environ, acquire_timeout_s="none").acquire_timeout_s is None


def test_what_daemons_are_told_says_the_same_again(home, tmp_path):
    home(
        "project", 'event_log = "log"\nenv_pass = ["A", "B"]\n[local]\nmemory = "1GiB"\n[executor]\nidempotent = true\n'
    )
    settings = load(tmp_path, {"RFAAS_EXECUTOR_CALL_TIMEOUT_S": "none"})
    again = Settings.load({**settings.exported(), "RFAAS_CONFIG": "none"}, directory=Path("/"))
    for name in ("event_log", "env_pass", "local.memory", "executor.idempotent", "executor.call_timeout_s"):
        assert again.value(name) == settings.value(name)
    assert "RFAAS_LEASES_TTL_S" not in settings.exported()


# --- wrong ones -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[executor]\nmemori = 1\n",
            r"rfaas.toml:2: executor.memori is no setting\n  remedy: did you mean executor.memory\?",
        ),
        ("[exekutor]\ncores = 1\n", r"rfaas.toml:1: exekutor is no setting\n  remedy: did you mean \[executor\]\?"),
        (
            "memory = '1GiB'\n",
            r"rfaas.toml:1: memory is no setting\n  remedy: did you mean executor.memory or local.memory\?",
        ),
        ("zzzqqq = 1\n", r"zzzqqq is no setting\n  remedy: `rfaas config show`"),
        ("[executor\n", r"is no TOML: .*line 1"),
        ("[executor]\ncores = 1\ncores = 2\n", r"is no TOML"),
        ("executor = 3\n", r"executor is a section\n  remedy: write \[executor\]"),
    ],
)
def test_a_wrong_file_says_where_and_what_was_meant(home, tmp_path, text, said):
    home("project", text)
    with pytest.raises(ConfigError, match=said):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("executor.cores", "0"),
        ("executor.cores", "two"),
        ("executor.cores", 1.5),
        ("executor.cores", True),
        ("executor.memory", "1 gibbon"),
        ("executor.memory", "-1GiB"),
        ("executor.memory", 0),
        ("executor.idempotent", "maybe"),
        ("executor.idempotent", 2),
        ("executor.transport", "pigeon"),
        ("executor.call_timeout_s", "0"),
        ("executor.call_timeout_s", "1 fortnight"),
        ("executor.call_timeout_s", "10s 5"),
        ("leases.ttl_s", "100ms"),
        ("harvest.cycle_s", float("nan")),
        ("harvest.nodes", 7),
        ("harvest.nodes", ["n1", 2]),
        ("harvest.partition", " "),
        ("log", "loud"),
        ("state_dir", ""),
        ("state_dir", "a\0b"),
    ],
)
def test_a_wrong_value_names_its_source_and_a_remedy(name, value):
    place = files.Place("project", Path("/p/rfaas.toml"))
    with pytest.raises(ConfigError, match=rf"(?s)/p/rfaas.toml: {name}=.*remedy: \w"):
        Settings({}, {}, [(place, {name: value})]).find(name)
    with pytest.raises(ConfigError, match=rf"(?s){BY_NAME[name].key}=.*remedy: \w"):
        Settings({}, {}, []).find(name, value)
    if isinstance(value, str) and value:
        with pytest.raises(ConfigError, match=rf"(?s){BY_NAME[name].environment}=.*remedy: \w"):
            Settings({}, {BY_NAME[name].environment: value}, []).find(name)


def test_a_variable_that_is_nearly_ours_is_refused_and_a_strangers_is_not(tmp_path):
    with pytest.raises(ConfigError, match=r"RFAAS_EXECUTOR_MEMORI is no setting\n.*mean RFAAS_EXECUTOR_MEMORY"):
        load(tmp_path, {"RFAAS_EXECUTOR_MEMORI": "1GiB"})
    load(tmp_path, {"RFAAS_PYTHON": "/usr/bin/python3", "RFAAS_OF_MY_SITE": "x", "RFAAS_SLICE": "y"})


def test_a_file_that_others_can_write_or_own_is_not_believed(home, tmp_path, monkeypatch):
    path = home("project", "[executor]\ncores = 2\n")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match=r"everybody can write it[\s\S]*chmod o-w"):
        load(tmp_path)
    path.chmod(0o664)
    assert load(tmp_path).value("executor.cores") == 2
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    if path.stat().st_uid != 0:  # root's files are believed by everybody
        with pytest.raises(ConfigError, match="belongs to uid"):
            load(tmp_path)


def test_a_file_that_changes_is_read_again(home, tmp_path):
    home("project", "[executor]\ncores = 2\n")
    assert load(tmp_path).value("executor.cores") == 2
    home("project", "[executor]\ncores = 13\n")
    assert load(tmp_path).value("executor.cores") == 13


# --- the table -------------------------------------------------------------------------------------------------


def test_the_documentation_is_the_table():
    assert (ROOT / "docs" / "configuration.md").read_text() == document(), (
        "run: python -m rfaas.settings.document > docs/configuration.md"
    )


def test_every_line_of_the_table_is_whole():
    assert len(BY_NAME) == len(TABLE)
    for setting in TABLE:
        assert setting.section in SECTIONS
        assert setting.about
        assert setting.why
        assert not setting.about.endswith(" ")
        if setting.kind.unit in ("s", "min"):
            assert setting.key.endswith(f"_{setting.kind.unit}")
        if setting.default not in (None, ()):  # what its kind reads back is the default itself
            assert setting.kind.parse(kinds.write(setting.default), setting.name, Path("/")) == setting.default


def test_names_of_sections_and_first_keys_do_not_meet():
    """TOML has no file with both."""
    assert not {s.key for s in TABLE if not s.section} & {s.section for s in TABLE}


def test_one_file_names_the_allocator_and_says_what_it_allows(home, tmp_path):
    home("project", "allocator = 'embedded'\n[policy]\nquota = 'cores=2'\n")
    assert load(tmp_path).value("allocator") == "embedded"
    assert load(tmp_path).value("policy.quota") == "cores=2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[allocator]\nquota = 'cores=3'\n", r"rfaas.toml:1: .allocator. is no section any more"),
        ("\n[allocator.prices]\ncore_s = 1\n", r"rfaas.toml:2: .allocator. is no section any more"),
        ("allocator.inventory = 'hosts.json'\n", r"rfaas.toml:1: .allocator. is no section any more"),
        ("allocator = 'embedded'\n[allocator]\nquota = 'cores=3'\n", "is no TOML"),
    ],
)
def test_a_section_of_before_is_an_error_that_names_it_as_it_is_called_now(home, tmp_path, text, said):
    home("project", text)
    with pytest.raises(ConfigError, match=rf"{said}(.|\n)*remedy: .*called .policy."):
        load(tmp_path)


@pytest.mark.parametrize("key", ["quota", "quotas", "prices", "inventory"])
def test_so_is_a_variable_of_before(tmp_path, key):
    with pytest.raises(ConfigError, match=rf"RFAAS_ALLOCATOR_{key.upper()} .*\n.*called RFAAS_POLICY_{key.upper()}"):
        load(tmp_path, {f"RFAAS_ALLOCATOR_{key.upper()}": "x"})


@pytest.mark.parametrize(
    "text",
    [
        """
[policy.quota]
cores = 8
memory = "16GiB"
[policy.quotas]
ann = { leases = 4 }
4242 = { memory = 1024 }
[policy.prices]
core_s = 0.5
currency = "EUR"
""",
        """
[policy]
quota = " cores=8, memory=16GiB"
quotas = ["ann:leases=4", "4242:memory=1024"]
prices = "core_s=0.5,currency=EUR"
""",
    ],
)
def test_the_policy_is_a_table_or_text_and_reaches_daemons(home, tmp_path, text):
    home("project", text)
    settings = load(tmp_path)
    again = Settings.load({**settings.exported(), "RFAAS_CONFIG": "none"}, directory=Path("/"))
    for each in (settings, again):
        assert each.value("policy.quota") == "cores=8,memory=16GiB"
        assert each.value("policy.quotas") == ("ann:leases=4", "4242:memory=1024")
        assert each.value("policy.prices") == "core_s=0.5,currency=EUR"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("quota", "cores", "'cores' is not NAME=VALUE"),
        ("quota", "coers=2", "did you mean cores"),
        ("quota", "cores=-1", "cores='-1' is no limit"),
        ("quota", "cores=1.5", "is no limit"),
        ("quota", "memory=much", "quota.memory='much'"),
        ("quota", "", "says nothing"),
        ("quota", {"cores": True}, "is no limit"),
        ("quota", 3, "says nothing"),
        ("quotas", "cores=2", "names no users"),
        ("quotas", ":cores=2", "'' is no user"),
        ("quotas", {"ann": 3}, "quotas.ann=3 says nothing"),
        ("prices", "core_s=-1", "is no price"),
        ("prices", {"core_s": "nan"}, "is no price"),
        ("prices", {"currency": "a,b=1"}, "is no word"),
    ],
)
def test_a_wrong_policy_says_what_would_be_right(key, value, said):
    with pytest.raises(ConfigError, match=said):
        BY_NAME[f"policy.{key}"].kind.parse(value, f"policy.{key}", Path("/"))


# --- the command -------------------------------------------------------------------------------------------------


def rfaas(*arguments, cwd, **environ):
    command = [sys.executable, "-W", "error", "-m", "rfaas", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RFAAS_", "XDG_"))}
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, env={**kept, "HOME": str(cwd), **environ}
    )
    return done.returncode, done.stdout, done.stderr


def test_config_show_says_where_each_value_comes_from(tmp_path):
    (tmp_path / "rfaas.toml").write_text("[executor]\nmemory = '2GiB'\n")
    code, out, said = rfaas("config", "show", "--json", cwd=tmp_path, RFAAS_EXECUTOR_CORES="2")
    assert (code, said) == (0, "")
    told = {each["name"]: each for each in json.loads(out)["settings"]}
    assert (told["executor.cores"]["value"], told["executor.cores"]["where"]) == (2, "RFAAS_EXECUTOR_CORES")
    assert (told["executor.memory"]["value"], told["executor.memory"]["unit"]) == (2 << 30, "bytes")
    assert told["executor.memory"]["where"] == str(tmp_path / "rfaas.toml")
    assert told["leases.ttl_s"]["source"] == "default"
    assert set(told) == set(BY_NAME)
    code, out, _ = rfaas("config", "show", "--set", cwd=tmp_path, RFAAS_EXECUTOR_CORES="2")
    assert [line.split() for line in out.splitlines()] == [
        ["SETTING", "VALUE", "SOURCE"],
        ["executor.cores", "2", "environment", "RFAAS_EXECUTOR_CORES"],
        ["executor.memory", "2GiB", "project", str(tmp_path / "rfaas.toml")],
    ]


def test_config_check_and_every_command_say_what_is_wrong(tmp_path):
    bad = tmp_path / "rfaas.toml"
    bad.write_text("[leases]\nttl_s = 'soon'\n")
    assert rfaas("config", "check", "gone.toml", cwd=tmp_path)[0] == 78
    code, _, said = rfaas("config", "check", "rfaas.toml", cwd=tmp_path)
    assert (code, "ttl_s='soon' is not a duration" in said) == (78, True), said
    bad.write_text("[lease]\nttl_s = 3\n")
    for arguments in (("config", "show"), ("status",), ("up",)):
        code, _, said = rfaas(*arguments, cwd=tmp_path)
        assert (code, "did you mean [leases]?" in said, "Traceback" in said) == (78, True, False), said
    code, out, said = rfaas("status", "--json", cwd=tmp_path)
    assert (code, said, json.loads(out)["code"]) == (78, "", "config")
    bad.write_text("[leases]\nttl_s = 3\n")
    assert rfaas("config", "check", "rfaas.toml", cwd=tmp_path) == (0, "rfaas.toml: 1 settings, nothing wrong\n", "")


def test_config_path_lists_the_files(tmp_path):
    (tmp_path / "rfaas.toml").touch()
    code, out, said = rfaas("config", "path", cwd=tmp_path)
    assert (code, said) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["project", "yes", str(tmp_path / "rfaas.toml")]
    assert [row[0] for row in rows[1:]] == ["project", "user", "system"]
