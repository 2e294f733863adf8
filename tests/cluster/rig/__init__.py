"""A real multi-node Slurm on one machine, started in about a second and removed without a trace.

Every node has its own network, hostname, mount, process and IPC namespaces; munge, slurmctld and slurmd are the
distribution's. Needs root and the packages in tools/apt-packages.txt. The machine's own network, hostname,
/etc/slurm, users and munge are never touched. By hand: `tests/cluster/rig/slurm-cluster --help`.
"""

from cluster.rig.cluster import Cluster, sweep
from cluster.rig.commands import CommandFailed, CommandTimeout
from cluster.rig.settings import (
    HEAD,
    USERS,
    Account,
    Layout,
    RigError,
    Settings,
    default_instance,
    missing_requirement,
)
from cluster.rig.users import User

__all__ = [
    "HEAD",
    "USERS",
    "Account",
    "Cluster",
    "CommandFailed",
    "CommandTimeout",
    "Layout",
    "RigError",
    "Settings",
    "User",
    "default_instance",
    "missing_requirement",
    "sweep",
]
