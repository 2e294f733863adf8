"""`rfaas slurm install`: what it reads of a site's slurm.conf, what it adds, and that every byte comes back."""

import fcntl
import json
import os
import subprocess
import sys
import threading

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rfaas_slurm_plugin.site import block, conf, files, plan
from rfaas_slurm_plugin.site.plan import Wanted
from rfaas_transport.errors import ConfigError
from support.namespace import SmallDisk

PLAIN = """\
ClusterName=site   # ours
SlurmctldHost=head(10.0.0.1)
NodeName=n[1-4] CPUs=4 \\
    RealMemory=8000
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE
PartitionName="long" Nodes=n1
"""


FULL = """
import contextlib, pathlib, sys
from rfaas.cli import daemons
from rfaas_slurm_plugin.harvest.drains import Drain, DrainFile
from rfaas_slurm_plugin.site import files
from rfaas_transport.errors import ConfigError

folder = pathlib.Path(sys.argv[1])
(folder / "slurm.conf").write_bytes(b"a=1\\n")
(folder / "drains.lock").touch()
with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
    while True:
        filler.write(bytes(4096))
changes = [files.Change(folder / "slurm.conf", b"a=1\\n", b"a=2\\n", b"a=1\\n")]
for attempt in (
    lambda: files.write(changes, keep_backup=True),
    lambda: DrainFile(folder).change({"n1": Drain("x", "root", 1)}),
    lambda: daemons.save(folder, [], {}),
):
    try:
        attempt()
    except ConfigError as error:
        print(error.message, error.hint, sep="\\n")
assert (folder / "slurm.conf").read_bytes() == b"a=1\\n"
"""


def make(text, tmp_path, **wanted):
    path = tmp_path / "slurm.conf"
    path.write_text(text)
    return plan.make(conf.read(path), Wanted(**wanted))


LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r#<>"), max_size=30), max_size=4)


@given(st.none() | st.binary(max_size=200).filter(lambda text: b"rfaas" not in text), LINES, LINES)
def test_a_block_that_is_put_in_and_taken_out_leaves_every_byte(text, lines, others):
    once = block.with_block(text, lines)
    assert block.without(once) == text
    assert block.with_block(once, lines) == once
    assert block.without(block.with_block(once, others)) == text


@given(st.binary(max_size=100).filter(lambda text: b"rfaas" not in text), st.binary(max_size=50))
def test_what_others_add_after_a_block_stays(text, more):
    assume(more and b"rfaas" not in more)
    end = b"" if not text or text.endswith(b"\n") else b"\n"
    assert block.without(block.with_block(text, ["a=b"]) + more) == text + end + more


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b"# <<< rfaas\n", b""),
        lambda text: text + text,
        lambda text: text.replace(b"# >>> rfaas", b"#>>> rfaas"),
        lambda text: text.replace(b"# >>> rfaas", b"x=1 # >>> rfaas"),
        lambda text: b"# <<< rfaas\n" + text.replace(b"# <<< rfaas\n", b""),
    ],
)
def test_marks_that_somebody_edited_are_refused(spoil):
    with pytest.raises(ConfigError, match="somebody edited them"):
        block.without(spoil(block.with_block(b"a=1\n", ["b=2"])))


def test_a_site_without_preemption_gets_it_and_a_partition_below_all_others(tmp_path):
    made = make(PLAIN, tmp_path, grace_s=7, nodes="n[1-3]")
    assert made.slurm_conf == [
        "PreemptType=preempt/partition_prio",
        "PreemptMode=CANCEL",
        "PartitionName=harvest Nodes=n[1-3] Default=NO State=UP MaxTime=UNLIMITED PriorityTier=0 PreemptMode=CANCEL "
        "GraceTime=7 TRESBillingWeights=CPU=0.0,Mem=0.0",
    ]
    assert made.restart


def test_a_site_that_preempts_between_partitions_gets_the_partition_alone(tmp_path):
    made = make(PLAIN + "PreemptType=preempt/partition_prio\nPreemptMode=REQUEUE\n", tmp_path)
    assert [line.split()[0] for line in made.slurm_conf] == ["PartitionName=harvest"]
    assert not made.restart


def test_tiers_of_default_lines_and_of_the_old_word_count(tmp_path):
    text = PLAIN.replace("PartitionName=batch", "PartitionName=DEFAULT PriorityTier=8\nPartitionName=batch")
    assert "PriorityTier=7 " in make(text, tmp_path).slurm_conf[-1]
    text = PLAIN.replace("Default=YES", "Priority=5 Default=YES").replace("Nodes=n1", "Nodes=n1 PriorityTier=5")
    assert "PriorityTier=4 " in make(text, tmp_path).slurm_conf[-1]


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("Default=YES", "Default=YES PriorityTier=0"), 5, "PriorityTier 0"),
        (("Default=YES", "PriorityTier=high"), 5, "is no number"),
        (("Default=YES", "PriorityTier=9"), 6, "would be cancelled for those of a higher PriorityTier"),
        (('"long"', "harvest"), 6, "there is a partition 'harvest' already"),
        (("ClusterName=site", "PreemptType=preempt/qos"), 1, "PreemptType=preempt/qos"),
        (("ClusterName=site", "PreemptMode=OFF"), 1, "PreemptMode=OFF stands in the way"),
        (("ClusterName=site", "PreemptType=preempt/partition_prio"), 1, "but PreemptMode=OFF"),
        (("ClusterName=site", "what is this"), 1, "'what is this' is not understood"),
        (("ClusterName=site", "Include nodes*.conf"), 1, "patterns are not understood"),
        (("ClusterName=site", "Include gone.conf"), 1, "gone.conf is not there"),
        (("ClusterName=site", "Include slurm.conf"), 1, "include each other"),
    ],
)
def test_what_stands_in_the_way_is_refused_with_its_file_and_line(tmp_path, change, line, said):
    with pytest.raises(ConfigError, match=rf"slurm\.conf:{line}: ") as refused:
        make(PLAIN.replace(*change), tmp_path)
    assert said in refused.value.message
    assert refused.value.hint


def test_a_line_in_an_included_file_is_named_by_that_file(tmp_path):
    (tmp_path / "parts.conf").write_text("# parts\nPartitionName=harvest Nodes=ALL\n")
    with pytest.raises(ConfigError, match=r"parts\.conf:2: there is a partition"):
        make(PLAIN + "Include parts.conf\n", tmp_path)


def test_a_line_that_goes_on_is_named_by_where_it_begins(tmp_path):
    path = tmp_path / "slurm.conf"
    path.write_text("A=1\nB=2 \\\n  C=3 \\\n  D=4\nE=5\n")
    found = conf.read(path).settings
    assert [found[name].line.number for name in "abcde"] == [1, 2, 2, 2, 5]


HOOK = "/usr/libexec/rfaas/rfaas-hook"


def test_hooks_are_added_where_the_site_has_none(tmp_path):
    made = make(PLAIN, tmp_path, hook=HOOK, spank="/usr/lib/slurm/rfaas_spank.so")
    assert made.slurm_conf[-5:] == [
        *(f"{name}={HOOK}" for name in ("Prolog", "Epilog", "PrologSlurmctld", "EpilogSlurmctld")),
        "PrologFlags=Alloc",
    ]
    assert made.plugstack == ["optional /usr/lib/slurm/rfaas_spank.so"]


def test_a_directory_of_the_sites_prologs_is_kept_and_named(tmp_path):
    made = make(PLAIN + "Prolog=/etc/slurm/prolog.d/*\nPrologFlags=Contain\n", tmp_path, hook=HOOK)
    assert not [line for line in made.slurm_conf if line.startswith(("Prolog=", "PrologFlags="))]
    assert any("slurm.conf:7: link" in step and "/etc/slurm/prolog.d/*" in step for step in made.by_hand)


def test_a_program_of_the_sites_beside_slurmctld_stays_and_is_to_call_the_hook(tmp_path):
    made = make(PLAIN + "PrologSlurmctld=/opt/site/ctld\nEpilogSlurmctld=/opt/site/*\n", tmp_path, hook=HOOK)
    assert not [line for line in made.slurm_conf if "Slurmctld=" in line]
    assert f"Prolog={HOOK}" in made.slurm_conf
    told = "\n".join(made.by_hand)
    assert f"slurm.conf:7: PrologSlurmctld stays the site's: let /opt/site/ctld call {HOOK} first" in told
    assert told.count("may take no pattern there") == 1


@pytest.mark.parametrize("line", ["Prolog=/etc/slurm/prolog.sh", "PrologFlags=NoHold"])
def test_one_prolog_of_the_sites_or_flags_without_alloc_are_refused(tmp_path, line):
    with pytest.raises(ConfigError, match=r"slurm\.conf:7: "):
        make(PLAIN + line + "\n", tmp_path, hook=HOOK)


def test_a_file_that_changed_meanwhile_is_not_written_over(tmp_path):
    path = tmp_path / "slurm.conf"
    path.write_bytes(b"a=1\n")
    with pytest.raises(ConfigError, match="changed while this ran"):
        files.write([files.Change(path, b"a=0\n", b"a=2\n", b"a=0\n")], keep_backup=True)
    assert path.read_bytes() == b"a=1\n"


def test_all_files_are_written_or_none(tmp_path):
    first, second = tmp_path / "slurm.conf", tmp_path / ("long" * 62)  # its copy's name is longer than names can be
    first.write_bytes(b"a=1\n")
    changes = [files.Change(first, b"a=1\n", b"a=2\n", b"a=1\n"), files.Change(second, None, b"b\n", None)]
    with pytest.raises(ConfigError, match="File name too long"):
        files.write(changes, keep_backup=False)
    assert first.read_bytes() == b"a=1\n"
    gone = files.Change(tmp_path / "gone" / "plugstack.conf", None, b"b\n", None)
    with pytest.raises(ConfigError, match="gone: No such file"):
        files.write([changes[0], gone], keep_backup=False)
    assert first.read_bytes() == b"a=1\n"


def test_on_a_full_disk_the_file_is_named_and_what_could_not_be_put_back(tmp_path):
    disk = SmallDisk(tmp_path, 16)
    try:
        done = subprocess.run(
            disk.python("-c", FULL, tmp_path), capture_output=True, text=True, timeout=60, check=False
        )
    finally:
        disk.close()
    assert done.stdout.splitlines() == [
        f"{tmp_path}/slurm.conf: No space left on device",
        "nothing was changed; make room there",
        f"{tmp_path}/drains.json: No space left on device",
        "make room there",
        f"{tmp_path}/daemons.json can't be written: No space left on device",
        "make room there",
    ], done.stderr


def test_who_writes_waits_for_another_writer_and_then_sees_what_changed(tmp_path):
    path = tmp_path / "slurm.conf"
    path.write_bytes(b"a=1\n")
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # another install is between its last look and its end
    said = []

    def write():
        try:
            said.append(files.write([files.Change(path, b"a=1\n", b"a=2\n", b"a=1\n")], keep_backup=False))
        except ConfigError as error:
            said.append(error.message)

    thread = threading.Thread(target=write)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    path.write_bytes(b"a=3\n")
    os.close(folder)
    thread.join(10)
    assert (said, path.read_bytes()) == ([f"{path} changed while this ran"], b"a=3\n")


def test_of_installs_at_once_each_says_what_became_of_it(tmp_path):
    path = tmp_path / "slurm.conf"
    path.write_text(PLAIN)
    command = [sys.executable, "-m", "rfaas", "slurm", "install", "--conf", str(path), "--write", "--json"]
    both = [
        subprocess.Popen([*command, "--partition", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name in ("one", "two")
    ]
    ended = [process.communicate(timeout=60)[0] for process in both]
    there = {name for name in ("one", "two") if f"PartitionName={name}" in path.read_text()}
    wrote = {name for name, text in zip(("one", "two"), ended, strict=True) if json.loads(text).get("written")}
    # both may have written, one after the other; what is there is a whole block of the later
    assert (len(there), there <= wrote, path.read_text().count("# >>> rfaas")) == (1, True, 1), ended
    assert rfaas("uninstall", "--conf", str(path), "--write").returncode == 0
    assert (path.read_text(), os.listdir(tmp_path)) == (PLAIN, ["slurm.conf"])


@pytest.mark.parametrize("after", ["slurm.conf.before-rfaas", "slurm.conf"])
def test_an_install_that_was_killed_is_undone_like_any_other(tmp_path, after):
    """Killed once it had put a file in its place: what it has not done yet is missing, and nothing else."""
    path = tmp_path / "slurm.conf"
    path.write_text(PLAIN)
    (tmp_path / ".slurm.conf.rfaas-k1ll3d").write_text("half a fi")  # and in the middle of the next one
    program = f"""
import os, signal, sys
put = os.replace
def replace(source, target):
    put(source, target)
    if os.fspath(target).endswith({after!r}):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from rfaas_slurm_plugin.cli.install import install
install(["--conf", {str(path)!r}, "--spank", "/usr/lib/slurm/rfaas_spank.so", "--write"])
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (killed.returncode, (tmp_path / after).exists()) == (-9, True), killed.stderr
    again = rfaas("install", "--conf", str(path), "--spank", "/usr/lib/slurm/rfaas_spank.so", "--write")
    assert (again.returncode, "PartitionName=harvest" in path.read_text()) == (0, True), again.stderr
    assert sorted(os.listdir(tmp_path)) == ["plugstack.conf", "slurm.conf", "slurm.conf.before-rfaas"]
    assert rfaas("uninstall", "--conf", str(path), "--write").returncode == 0
    assert (path.read_text(), os.listdir(tmp_path)) == (PLAIN, ["slurm.conf"])


def test_uninstall_alone_clears_up_after_an_install_that_was_killed_before_it_wrote(tmp_path):
    path = tmp_path / "slurm.conf"
    for file in (path, tmp_path / "slurm.conf.before-rfaas"):
        file.write_text(PLAIN)
    assert rfaas("uninstall", "--conf", str(path), "--write").returncode == 0
    assert os.listdir(tmp_path) == ["slurm.conf"]


def test_a_file_with_carriage_returns_is_understood_and_comes_back(tmp_path):
    path = tmp_path / "slurm.conf"
    text = PLAIN.replace("\n", "\r\n").encode()
    path.write_bytes(text)
    assert rfaas("install", "--conf", str(path), "--write").returncode == 0
    assert path.read_bytes().startswith(text)
    assert rfaas("uninstall", "--conf", str(path), "--write").returncode == 0
    assert path.read_bytes() == text
    # or an editor changed all ends of lines afterwards
    dos = block.with_block(PLAIN.encode(), ["a=b"]).replace(b"\n", b"\r\n")
    assert block.without(dos) == text


def test_hooks_that_nobody_can_run_are_not_written_since_nodes_would_be_drained(tmp_path):
    path, hook = tmp_path / "slurm.conf", tmp_path / "rfaas-hook"
    path.write_text(PLAIN)
    options = ("--conf", str(path), "--hooks", str(hook), "--write")
    spoils = [lambda: None, hook.touch, lambda: hook.chmod(0o777), lambda: (hook.unlink(), hook.mkdir())]
    said = []
    for spoil in spoils:
        spoil()
        refused = rfaas("install", *options)
        said.append(refused.stderr.partition("\n")[0].partition(str(hook))[2])
        assert (refused.returncode, "remedy: " in refused.stderr, path.read_text()) == (78, True, PLAIN)
    own = [": No such file or directory", " is no program that everybody may run"]
    assert said == [*own, " belongs to another than root, or others may write to it", own[1]]
    assert rfaas("install", *options[:-1]).returncode == 0  # lines may be looked at before


def test_what_slurmctld_reads_at_its_start_alone_asks_for_a_restart_also_when_it_goes(tmp_path):
    path = tmp_path / "slurm.conf"
    preempts = PLAIN + "PreemptType=preempt/partition_prio\nPreemptMode=CANCEL\n"
    steps = []
    for text, more in ((PLAIN, ()), (preempts, ()), (preempts, ("--hooks", "/bin/true"))):
        path.write_text(text)
        for command in (("install", *more), ("uninstall",)):
            done = rfaas(*command, "--conf", str(path), "--write", "--json")
            steps.append([step.split()[0] for step in json.loads(done.stdout)["next"]])
    restart, reconfigure, check = "systemctl", "scontrol", "rfaas"
    assert steps == [
        [restart, check],
        [restart],
        [reconfigure, check],
        [reconfigure],
        [restart, reconfigure, check],
        [restart, reconfigure],
    ]
    gone = rfaas("uninstall", "--conf", str(tmp_path / "gone.conf"), "--write")
    assert (gone.returncode, "gone.conf is not there" in gone.stderr) == (78, True)


def test_nodes_that_the_site_does_not_have_are_refused_since_slurmctld_ends_at_them(tmp_path):
    assert make(PLAIN + "NodeSet=fat Feature=fat\n", tmp_path, nodes="n[1-2],fat").slurm_conf
    assert make(PLAIN + "MaxNodeCount=9\n", tmp_path, nodes="n9").slurm_conf  # nodes that come by themselves
    with pytest.raises(ConfigError, match=r"has no node n\[7-8\]"):
        make(PLAIN, tmp_path, nodes="n[2,7-8]")


def test_a_link_stays_a_link_and_mode_and_backup_are_kept(tmp_path):
    real, link = tmp_path / "real.conf", tmp_path / "slurm.conf"
    real.write_bytes(b"a=1\n")
    real.chmod(0o640)
    link.symlink_to(real)
    files.write([files.Change(link, b"a=1\n", b"a=2\n", b"a=1\n")], keep_backup=True)
    assert (link.is_symlink(), real.read_bytes(), real.stat().st_mode & 0o777) == (True, b"a=2\n", 0o640)
    assert (tmp_path / "real.conf.before-rfaas").read_bytes() == b"a=1\n"


def rfaas(*arguments):
    command = [sys.executable, "-m", "rfaas", "slurm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ})


def test_the_commands_write_only_when_asked_and_put_back_every_byte(tmp_path):
    path, plugstack = tmp_path / "slurm.conf", tmp_path / "plugstack.conf"
    text = PLAIN.encode().rstrip(b"\n")
    path.write_bytes(text)
    options = ("--conf", str(path), "--spank", "/usr/lib/slurm/rfaas_spank.so")
    for shown in (rfaas("install", *options), rfaas("install", *options, "--dry-run")):
        assert (shown.returncode, "PartitionName=harvest" in shown.stdout) == (0, True), shown.stderr
    assert (path.read_bytes(), plugstack.exists()) == (text, False)
    written = json.loads(rfaas("install", *options, "--write", "--json").stdout)
    assert sorted(written["written"]) == [str(plugstack), str(path)]
    assert json.loads(rfaas("install", *options, "--write", "--json").stdout)["written"] == []
    undone = rfaas("uninstall", "--conf", str(path), "--write")
    assert (undone.returncode, path.read_bytes(), os.listdir(tmp_path)) == (0, text, ["slurm.conf"]), undone.stderr
    refused = rfaas("install", "--conf", str(path), "--nodes", "n[1", "--write")
    assert (refused.returncode, "not closed" in refused.stderr, path.read_bytes()) == (78, True, text)
