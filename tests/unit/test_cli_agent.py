"""`rfaas agent` looks its settings up like everything else: option, environment, rfaas.toml, default."""

import os
from pathlib import Path

import pytest

from rfaas.cli.agent import SETTING_OF, _arguments
from rfaas.settings import BY_NAME
from rfaas_transport.errors import ConfigError

NOTHING = dict.fromkeys((*SETTING_OF, "lasting"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory without settings in or around it."""
    for name in [name for name in os.environ if name.startswith("RFAAS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def arguments(**options):
    """The agent's command line as a map; what has no value is True."""
    words, found = _arguments({**NOTHING, **options}), {}
    while words:
        name = words.pop(0)
        found[name] = words.pop(0) if words and not words[0].startswith("--") else True
    return found


def test_every_setting_is_a_line_of_the_table():
    assert set(SETTING_OF.values()) <= set(BY_NAME)
    read_by_the_agent = {"agent.tasks_per_worker", "agent.transport_security"}
    of_agents = {name for name in BY_NAME if name.startswith("agent.")} - read_by_the_agent
    assert of_agents <= set(SETTING_OF.values())


def test_without_any_setting_it_offers_all_to_the_users_own_allocator(here, tmp_path):
    found = arguments()
    assert found["--state-dir"] == str(tmp_path / "state" / "rfaas")
    assert int(found["--cores"]) == len(os.sched_getaffinity(0))
    assert (found["--grace-s"], found["--abandoned-after-s"], found["--by-hand"]) == ("5.0", "60.0", True)
    assert not {"--allocator", "--drain-s", "--label", "--node", "--sched", "--end-in-s"} & set(found)


def test_each_source_wins_over_the_next(here, monkeypatch):
    (here / "rfaas.toml").write_text('[local]\ncores = 2\ngrace_s = "9s"\n[agent]\nlabel = "file"\ndrain_s = 4\n')
    found = arguments()
    assert [found[name] for name in ("--cores", "--grace-s", "--label", "--drain-s")] == ["2", "9.0", "file", "4.0"]
    monkeypatch.setenv("RFAAS_LOCAL_CORES", "3")
    monkeypatch.setenv("RFAAS_AGENT_LABEL", "variable")
    assert [arguments()[name] for name in ("--cores", "--label")] == ["3", "variable"]
    assert [arguments(cores=4, label="option")[name] for name in ("--cores", "--label")] == ["4", "option"]


def test_idle_can_be_taken_back(here, monkeypatch):
    monkeypatch.setenv("RFAAS_AGENT_IDLE", "yes")
    assert arguments()["--sched"] == "idle"
    assert "--sched" not in arguments(idle=False)


def test_the_allocator_is_its_own_setting_else_that_of_programs(here, monkeypatch, tmp_path):
    mine, programs = tmp_path / "mine", tmp_path / "programs"
    mine.mkdir()
    programs.mkdir()
    (here / "rfaas.toml").write_text(f'allocator = "{programs}"\n')
    assert arguments()["--state-dir"] == str(programs)
    (here / "rfaas.toml").write_text(f'allocator = "{programs}"\n[agent]\nallocator = "../mine"\n')
    assert Path(arguments()["--state-dir"]) == here / "../mine"
    assert arguments(allocator=str(programs))["--state-dir"] == str(programs)
    (here / "rfaas.toml").write_text("allocator = 'embedded'\n")
    assert arguments()["--state-dir"] == str(tmp_path / "state" / "rfaas")


@pytest.mark.parametrize("variable", ["RFAAS_ALLOCATOR", "RFAAS_AGENT_ALLOCATOR"])
def test_an_address_takes_credentials_from_the_file(here, monkeypatch, variable):
    (here / "rfaas.toml").write_text('[agent]\ncredentials = "keys"\n')
    monkeypatch.setenv(variable, "head:4123")
    found = arguments()
    assert (found["--allocator"], found["--state-dir"]) == ("head:4123", str(here / "keys"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[local]\ngrace_s = 'soon'\n", r"rfaas.toml: local.grace_s"),
        ("[agent]\nallocator = 'head:99999'\n", r"rfaas.toml: agent.allocator='head:99999': there is no port 99999"),
        ("[agent]\nallocator = 'nowhere'\n", r"rfaas.toml: agent.allocator .*nowhere is neither a state directory"),
        ("[agent]\ncredentials = 'keys'\n", r"rfaas.toml: agent.credentials goes with --allocator HOST:PORT"),
        ("[agent]\ngrace = 3\n", r"agent.grace is no setting(.|\n)*did you mean"),
    ],
)
def test_what_is_wrong_is_named_by_its_source(here, text, said):
    (here / "rfaas.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        arguments()
