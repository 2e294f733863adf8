"""What is said of disturbances, from texts as /proc has them."""

from dataclasses import replace

from rfaas.bench import noise
from rfaas.bench.noise import Machine

STAT = """cpu  300 0 100 1000 10 0 5 40 0 0
cpu0 200 0 50 500 5 0 5 20 0 0
cpu1 100 0 50 500 5 0 0 20 0 0
intr 12345
ctxt 67890
"""
LATER = """cpu  400 0 200 1400 10 0 5 70 0 0
cpu0 250 0 100 800 5 0 5 50 0 0
cpu1 150 0 100 600 5 0 0 20 0 0
"""
QUIET = Machine(
    stat=STAT,
    loadavg="0.10 0.20 0.30 1/234 5678\n",
    status="Name:\tpython\nvoluntary_ctxt_switches:\t10\nnonvoluntary_ctxt_switches:\t3\n",
    governors={0: "performance", 1: "performance"},
    siblings={0: "0", 1: "1"},
    throttled_us=0,
    others=0.05,
    at_s=100.0,
)
DONE = replace(QUIET, at_s=110.0)
APART = {"client_cpu": 0, "worker_cpu": 1}


def words(before, after, **cpus):
    return {found.what: found.text for found in noise.findings(before, after, **{**APART, **cpus})}


def test_a_quiet_machine_has_nothing_to_report():
    assert words(QUIET, DONE) == {}


def test_stolen_time_is_that_of_the_pinned_cpus():
    after = replace(DONE, stat=LATER)
    assert words(QUIET, after) == {"steal": "the hypervisor took 7.0 % of CPU 0"}
    assert words(QUIET, after, client_cpu=1) == {"one-cpu": words(QUIET, after, client_cpu=1)["one-cpu"]}
    both = noise.findings(QUIET, after, client_cpu=None, worker_cpu=None)
    assert [found.what for found in both] == ["unpinned", "steal"]


def test_sides_that_share_a_cpu_or_a_core_are_named():
    assert "share CPU 1" in words(QUIET, DONE, client_cpu=1)["one-cpu"]
    threads = replace(QUIET, siblings={0: "0-1", 1: "0-1"})
    assert words(threads, DONE) == {"siblings": "CPU 0 and CPU 1 are threads of one core"}


def test_too_many_processes_and_a_loaded_machine_are_named():
    one_cpu = replace(QUIET, siblings={0: "0"})
    assert set(words(one_cpu, DONE)) == {"oversubscribed"}
    busy = replace(QUIET, loadavg="0.75 0.20 0.30 3/234 5678", others=1.6)
    assert words(busy, DONE)["load"] == "1.6 other processes wanted a CPU when it began (load average 0.75)"
    our_own = replace(QUIET, loadavg="2.00 0.20 0.30 1/234 5678")  # of what we measured a minute ago
    assert words(our_own, DONE) == {}


def test_a_governor_that_saves_power_is_named_for_the_pinned_cpus_only():
    saving = replace(QUIET, governors={0: "performance", 1: "powersave", 2: "ondemand"})
    assert "powersave" in words(saving, DONE)["governor"]
    assert "governor" not in words(saving, DONE, worker_cpu=0)


def test_being_put_off_the_cpu_and_throttled_is_named():
    after = replace(DONE, status="nonvoluntary_ctxt_switches:\t1003\n", throttled_us=2500)
    found = words(QUIET, after)
    assert found["switches"] == "this process was put off its CPU 100 times a second"
    assert "for 2.5 ms" in found["throttled"]


def test_texts_that_say_nothing_are_no_noise():
    blank = Machine("", "", "", {}, {}, None, 0.0, 0.0)
    assert words(blank, replace(blank, at_s=1.0)) == {"oversubscribed": "2 processes that want a CPU each have 1"}


def test_the_kernels_ways_of_writing():
    times = noise.cpu_times(STAT)
    assert times[0] == (255, 505, 20)
    assert times[0].total == 780
    assert noise.cpu_times("cpu0 1 2 3 4\n")[0] == (6, 4, 0)  # kernels before 2.6.11
    assert noise.cpu_list("0-2,8\n") == {0, 1, 2, 8}
    assert noise.cpu_list("") == frozenset()
    assert noise.running("0.10 0.20 0.30 7/234 5678\n") == 7
    assert noise.running("nonsense") == noise.running("") == noise.running("1 2 3 x/y z") == 0
    assert noise.throttled_us("usage_usec 5\nthrottled_usec 7\n") == 7
    assert noise.throttled_us("usage_usec 5\n") is None


def test_this_machine_can_be_read(tmp_path):
    here = Machine.read(0.02)
    assert noise.cpu_times(here.stat)
    assert noise.involuntary_switches(here.status) >= 0
    assert here.others >= 0
    nothing = Machine.read(0.0, tmp_path, tmp_path)
    assert nothing == Machine("", "", "", {}, {}, None, 0.0, nothing.at_s)


# --- a worker on another machine ------------------------------------------------------------------------------------


def apart(here, there, client_cpu=0, worker_cpu=0):
    return {found.text for found in noise.findings_apart(here, there, "n2", client_cpu, worker_cpu)}


def test_cpus_of_the_same_number_on_two_machines_are_not_shared():
    assert apart((QUIET, DONE), (QUIET, DONE)) == set()
    one_cpu = replace(QUIET, siblings={0: "0"})
    assert apart((one_cpu, replace(one_cpu, at_s=110.0)), (QUIET, DONE)) == set()


def test_what_disturbs_the_worker_s_machine_is_said_with_its_name():
    busy = replace(QUIET, loadavg="4.00 0.20 0.30 3/234 5678", others=3.0)
    (text,) = apart((QUIET, DONE), (busy, replace(busy, stat=STAT, at_s=110.0)))
    assert text == "on n2, where the worker is: 3.0 other processes wanted a CPU when it began (load average 4.00)"
    stolen = (QUIET, replace(DONE, stat=LATER))
    assert apart((QUIET, DONE), stolen, worker_cpu=1) == set()
    assert apart((QUIET, DONE), stolen) == {"on n2, where the worker is: the hypervisor took 7.0 % of CPU 0"}
    assert apart(stolen, (QUIET, DONE)) == {"the hypervisor took 7.0 % of CPU 0"}
