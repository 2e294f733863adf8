"""`rfaas up` and `rfaas down` as a user types them: real daemons, wrong input, nothing left."""

import json
import os
import signal
import subprocess
import sys

import pytest

from rfaas.cli.daemons import Daemon, start_ticks
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def rfaas(tmp_path):
    """Run the command in a directory of the test's own; ends what a failing test left up."""

    def run(*arguments):
        command = [sys.executable, "-m", "rfaas", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    yield run
    for record in tmp_path.glob("*/daemons.json"):
        run("down", "--state-dir", record.parent.name)


def status(rfaas):
    return json.loads(rfaas("status", "--json", "--state-dir", "state").stdout)


def test_a_relative_state_directory_is_meant_from_where_the_command_runs(rfaas, tmp_path):
    up = rfaas("up", "--cores", "1", "--state-dir", "state")
    assert up.returncode == 0, up.stderr
    assert (tmp_path / "state" / "allocator.json").exists()
    record = json.loads((tmp_path / "state" / "daemons.json").read_text())
    down = rfaas("down", "--purge", "--state-dir", "state")
    assert down.returncode == 0, down.stderr
    assert not (tmp_path / "state").exists()
    assert not any(Daemon(**daemon).alive for daemon in record["daemons"])


def test_what_was_up_before_is_no_slice_any_more(rfaas):
    for _ in range(2):
        up = rfaas("up", "--cores", "1", "--state-dir", "state")
        assert up.returncode == 0, up.stderr
        slices = status(rfaas)["slices"]
        assert [each["state"] for each in slices] == ["up"]
        rfaas("down", "--state-dir", "state")


def test_this_host_offers_memory_for_all_its_cores_and_some_is_left(rfaas):
    rfaas("up", "--state-dir", "state")
    (view,) = status(rfaas)["slices"]
    with open("/proc/meminfo") as meminfo:
        total_bytes = 1024 * int(meminfo.readline().removeprefix("MemTotal:").split()[0])
    assert 0 < view["memory_bytes"] <= 0.8 * total_bytes
    rfaas("down", "--state-dir", "state")
    rfaas("up", "--state-dir", "state", "--memory-mib", "300")
    assert status(rfaas)["slices"][0]["memory_bytes"] == 300 << 20


def test_what_the_allocator_allows_and_charges_is_set_by_file_or_option(rfaas, tmp_path):
    """The option counts where both say something; the file where the option is silent."""
    hosts = {"schema": "rfaas-inventory/1", "complete": True, "hosts": [{"name": "n1", "cores": 4, "memory": "8GiB"}]}
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    (tmp_path / "rfaas.toml").write_text(
        '[policy]\ninventory = "hosts.json"\nquota = "cores=7"\n[policy.prices]\ncore_s = 3600\ncurrency = "EUR"\n'
    )
    up = rfaas("up", "--cores", "2", "--state-dir", "state", "--quota", "cores=1")
    assert up.returncode == 0, up.stderr
    known = json.loads(rfaas("inventory", "list", "--json", "--state-dir", "state").stdout)
    assert known["complete"]
    assert "n1" in [host["name"] for host in known["hosts"]]
    program = (
        "import rfaas\nwith rfaas.Executor(2, memory='64MiB', allocator='state') as ex:\n"
        "    print(len(set(ex.map(pow, [2] * 20, range(20)))))\n"
        "with rfaas.Executor(1, cores=2, memory='64MiB', allocator='state') as ex:\n"
        "    print(ex.submit(pow, 2, 2).exception().hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["20", "one worker is beyond the quota of 1 core"], done.stderr
    accounts = json.loads(rfaas("accounting", "--json", "--state-dir", "state").stdout)["accounts"]
    assert accounts
    assert all(account["currency"] == "EUR" and account["cost"] > 0 for account in accounts)


def test_a_wrong_quota_starts_nothing(rfaas, tmp_path):
    for quota, said in (("coers=2", "did you mean cores"), ("no-such-user:cores=2", "there is no such user")):
        up = rfaas("up", "--state-dir", "state", "--quota", quota)
        assert (up.returncode, said in up.stderr) == (78, True), up.stderr
        assert not (tmp_path / "state" / "daemons.json").exists()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_start_leaves_no_daemon(tmp_path, ending):
    command = [sys.executable, "-m", "rfaas", "up", "--cores", "1", "--state-dir", "state"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as up:
        address = tmp_path / "state" / "allocator.json"
        wait_until(address.exists, timeout_s=30)
        pid = json.loads(address.read_text())["pid"]
        up.send_signal(ending)
        up.communicate(timeout=30)
        assert up.returncode != 0
    assert start_ticks(pid) == 0
    assert not (tmp_path / "state" / "daemons.json").exists()


def test_a_start_that_was_killed_can_be_ended(rfaas, tmp_path):
    command = [sys.executable, "-m", "rfaas", "up", "--cores", "1", "--state-dir", "state"]
    with subprocess.Popen(command, cwd=tmp_path) as up:
        wait_until((tmp_path / "state" / "daemons.json").exists, timeout_s=30)
        up.kill()
    address = tmp_path / "state" / "allocator.json"
    wait_until(address.exists, timeout_s=30)
    pid = json.loads(address.read_text())["pid"]
    assert "allocator" in rfaas("down", "--state-dir", "state").stdout
    assert start_ticks(pid) == 0


@pytest.mark.parametrize("damage", [lambda record: record.unlink(), lambda record: record.write_text("{")])
def test_without_a_record_the_allocator_is_asked_to_end_all(rfaas, tmp_path, damage):
    assert rfaas("up", "--cores", "1", "--state-dir", "state").returncode == 0
    record = tmp_path / "state" / "daemons.json"
    running = [Daemon(**daemon) for daemon in json.loads(record.read_text())["daemons"]]
    damage(record)
    down = rfaas("down", "--state-dir", "state")
    assert (down.returncode, "allocator" in down.stdout) == (0, True), down.stderr
    wait_until(lambda: not any(daemon.alive for daemon in running), timeout_s=10)


@pytest.mark.parametrize("victim", ["allocator", "agent"])
def test_up_starts_again_what_died_and_leaves_the_rest(rfaas, tmp_path, victim):
    assert rfaas("up", "--cores", "1", "--state-dir", "state").returncode == 0
    record = tmp_path / "state" / "daemons.json"
    before = {daemon["name"]: Daemon(**daemon) for daemon in json.loads(record.read_text())["daemons"]}
    os.kill(before[victim].pid, signal.SIGKILL)
    wait_until(lambda: not before[victim].alive, timeout_s=10)
    again = rfaas("up", "--cores", "1", "--state-dir", "state")
    assert (again.returncode, f"started {victim} again" in again.stdout) == (0, True), again.stderr
    after = {daemon["name"]: Daemon(**daemon) for daemon in json.loads(record.read_text())["daemons"]}
    assert all(daemon.alive for daemon in after.values())
    assert [name for name in after if after[name].pid == before[name].pid] == [n for n in before if n != victim]
    wait_until(lambda: any(each["state"] == "up" for each in status(rfaas)["slices"]), timeout_s=20)
    assert rfaas("up", "--cores", "1", "--state-dir", "state").returncode == 78


@pytest.mark.parametrize("victims", [["agent"], ["agent", "allocator"]], ids="+".join)
def test_an_agent_that_is_started_again_succeeds_the_one_that_died(rfaas, tmp_path, victims):
    """What the dead one held is free, and its slice is this one: no node is shown twice, no core is held for ever."""
    assert rfaas("up", "--cores", "1", "--state-dir", "state").returncode == 0
    hold = "import rfaas; ex = rfaas.Executor(1, memory='1MiB'); print(ex.invoke(pow, 2, 5), flush=True); input()"
    environ = {**os.environ, "RFAAS_ALLOCATOR": str(tmp_path / "state")}
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    ) as holder:
        assert holder.stdout.readline() == b"32\n"
        (before,) = status(rfaas)["slices"]
        assert (before["free_cores"], len(before["leases"])) == (0, 1)
        record = json.loads((tmp_path / "state" / "daemons.json").read_text())
        running = {daemon["name"]: Daemon(**daemon) for daemon in record["daemons"]}
        for name in victims:
            os.kill(running[name].pid, signal.SIGKILL)
        wait_until(lambda: not any(running[name].alive for name in victims), timeout_s=10)
        assert rfaas("up", "--cores", "1", "--state-dir", "state").returncode == 0
        wait_until(lambda: _leases(rfaas) not in ([], [before["leases"][0]["lease"]]), timeout_s=20)
        (after,) = status(rfaas)["slices"]
        assert (after["slice"], after["state"], after["epoch"] > before["epoch"]) == (before["slice"], "up", True)
        holder.communicate(timeout=20)


def _leases(rfaas):
    return [lease["lease"] for view in status(rfaas)["slices"] for lease in view["leases"]]


def test_an_interpreter_that_is_not_there_is_an_error_with_a_remedy(rfaas, tmp_path):
    up = rfaas("up", "--daemon-python", "/proc/nonexistent/python", "--state-dir", "state")
    assert (up.returncode, "remedy: is --daemon-python right?" in up.stderr) == (78, True), up.stderr
    assert "Traceback" not in up.stderr
    assert not (tmp_path / "state" / "daemons.json").exists()


@pytest.mark.parametrize("garbage", ["{garbage", "[]", "{}", '{"host": "x", "settings": {}, "daemons": [{"pid": 1}]}'])
def test_a_broken_record_of_daemons_is_an_error_with_a_remedy(rfaas, tmp_path, garbage):
    (tmp_path / "state" / "log").mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    (tmp_path / "state" / "daemons.json").write_text(garbage)
    for command in ("up", "down"):
        done = rfaas(command, "--state-dir", "state")
        assert (done.returncode, "remove it if nothing runs" in done.stderr) == (78, True), done.stderr
    (tmp_path / "state" / "daemons.json").unlink()


def test_a_directory_that_is_no_state_directory_is_not_told_to_be_closed(rfaas, tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    done = rfaas("status", "--state-dir", "state")
    assert (done.returncode, "no allocator serves" in done.stderr) == (69, True), done.stderr
    assert "chmod" not in done.stderr
