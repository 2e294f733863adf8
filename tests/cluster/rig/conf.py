"""The files that nodes see in place of the machine's: Slurm's configuration, hosts, users and groups.

Pure text: must not touch the machine. The reasons for the unusual lines stand beside them.
"""

from pathlib import Path

from cluster.rig.settings import HEAD, USERS, Account, Layout, Settings

SUBNET = "10.77.0"  # inside the head's network namespace only, so every instance can have the same
MUNGE_SOCKET = "/run/rig/munge.socket"
JWT_KEY = "/var/lib/slurm/slurmctld/jwt.key"  # slurmctld's alone


def address(node: str) -> str:
    """The node's IPv4 address: .1 for the head, .11 for n1."""
    return f"{SUBNET}.1" if node == HEAD else f"{SUBNET}.{10 + int(node[1:])}"


def slurm_conf(settings: Settings) -> str:
    """slurm.conf, for Slurm 22.05 to 26.05: a default partition for rigid jobs, a preemptible one to harvest with."""
    tracking = (
        "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup\nJobAcctGatherType=jobacct_gather/cgroup"
        if settings.cgroups
        else "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/linux"
    )
    return f"""\
ClusterName=rig
SlurmctldHost={HEAD}({address(HEAD)})
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={MUNGE_SOCKET}
CredType=cred/munge
SlurmctldPort=6817
SlurmdPort=6818
SrunPortRange=60001-63000
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/rig/slurmctld.pid
SlurmdPidFile=/run/rig/slurmd-%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
LogTimeFormat=iso8601_ms
# set_grace rewrites this file: slurmd need not warn that its copy was another
DebugFlags=NO_CONF_HASH
MailProg=/bin/true
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout={settings.slurmd_timeout_s}
KillWait={settings.kill_wait_s}
MinJobAge=300
MpiDefault={"none" if settings.root else "pmix"}
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# a node may declare more CPUs and memory than this machine has
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters={settings.scheduler}
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
DefMemPerCPU=500
{tracking}
JobAcctGatherFrequency=5
NodeName=n[1-{settings.nodes}] NodeAddr={SUBNET}.[11-{10 + settings.nodes}] CPUs={settings.cpus} Sockets=1 \
CoresPerSocket={settings.cpus} ThreadsPerCore=1 RealMemory={settings.memory_mib} State=UNKNOWN
PartitionName=rigid Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
{harvest_partition(settings.grace_s)}
{f"AuthAltTypes=auth/jwt{chr(10)}AuthAltParameters=jwt_key={JWT_KEY}" if settings.jwt else ""}
{settings.extra_conf}"""


def harvest_partition(grace_s: int) -> str:
    """The line of the preemptible partition, the only one that changes while a cluster lives."""
    return (
        "PartitionName=harvest Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 "
        f"PreemptMode=CANCEL GraceTime={grace_s}"
    )


def with_grace(text: str, grace_s: int) -> str:
    """slurm.conf with another GraceTime of the harvest partition."""
    lines = text.splitlines()
    changed = [harvest_partition(grace_s) if line.startswith("PartitionName=harvest ") else line for line in lines]
    return "\n".join(changed) + "\n"


def cgroup_conf(settings: Settings) -> str:
    """cgroup.conf; cores cannot be constrained to CPUs that the machine does not have, so only who asks is bound."""
    return f"""\
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainCores={"yes" if settings.bound else "no"}
ConstrainRAMSpace=yes
ConstrainDevices=no
"""


# Slurm since 23.02 wants a file system of cgroup v2, whatever is tracked by it; 22.05 does not know the word
NO_CGROUPS = "CgroupPlugin=disabled\n"


def write(layout: Layout, settings: Settings) -> None:
    """Write every file that the nodes' /etc is bound to."""
    files = {
        "slurm.conf": slurm_conf(settings),
        # PMIx would keep its sockets in /tmp by job and step alone: nodes that share a /tmp collide there
        "mpi.conf": "PMIxCliTmpDirBase=/var/lib/slurm/slurmd\n",
        "plugstack.conf": "",  # in place of the distribution's
        "cgroup.conf": cgroup_conf(settings) if settings.cgroups else NO_CGROUPS if settings.root else "",
        "hosts": _hosts(settings),
        "passwd": Path("/etc/passwd").read_text() + "".join(_passwd_line(account) for account in USERS),
        "group": Path("/etc/group").read_text() + "".join(f"{a.name}:x:{a.uid}:\n" for a in USERS),
    }
    for name, text in files.items():
        (layout.etc / name).write_text(text)


def _hosts(settings: Settings) -> str:
    lines = [f"{address(node)} {node}" for node in settings.all_names]
    return "\n".join(["127.0.0.1 localhost", *lines]) + "\n"


def _passwd_line(account: Account) -> str:
    return f"{account.name}:x:{account.uid}:{account.uid}::{account.home}:/bin/bash\n"
