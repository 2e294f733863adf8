"""The cluster by hand: `tests/cluster/rig/slurm-cluster start`, then `... as alice head bash`.

Must only parse and print; what happens is in `Cluster`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from cluster.rig.cluster import Cluster
from cluster.rig.commands import CommandFailed, CommandTimeout
from cluster.rig.settings import USERS, RigError, Settings, default_instance

EPILOG = """\
NODE is head, n1, n2, ...; USER is alice or bob. The cluster is named by RFAAS_RIG_ID (default: after this checkout),
so several can run at once. Two partitions: rigid (default) and harvest (preempted by rigid).
"""
HOW_TO_USE = """\
{seconds:.1f} s: {nodes} nodes with {cpus} CPUs and {memory_mib} MiB each, all idle.
  {me} as alice head bash                   a login as the user alice
  {me} as alice head srun -N2 hostname      one command
  {me} exec n1 ps -ef                       as root on a node
  {me} set-grace 0                          GraceTime of the partition harvest, now {grace_s} s
  {me} stop
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="slurm-cluster", description="A real Slurm on this machine.", epilog=EPILOG)
    commands = top.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="start it and wait until all nodes are idle")
    start.add_argument("--nodes", type=int, default=_from_env("NODES", Settings.nodes))
    start.add_argument("--cpus", type=int, default=_from_env("CPUS", Settings.cpus), help="CPUs each node declares")
    start.add_argument("--memory-mib", type=int, default=_from_env("MEMORY_MIB", Settings.memory_mib))
    start.add_argument("--grace-s", type=int, default=_from_env("GRACE_S", Settings.grace_s), help="GraceTime")
    start.add_argument("--cgroups", action="store_true", help="memory limits and process tracking by cgroup v1")
    start.add_argument("--wheel", action="store_true", help="build rfaas and give it to the users")
    commands.add_parser("stop", help="stop it and remove everything")
    commands.add_parser("status", help="nodes and daemons")
    _add_there(commands.add_parser("exec", help="run CMD on NODE as root"))
    as_user = commands.add_parser("as", help="run CMD on NODE as USER")
    as_user.add_argument("user", choices=[account.name for account in USERS])
    _add_there(as_user)
    for name, help_text in (
        ("kill-node", "power-cut NODE"),
        ("start-node", "bring it back"),
        ("kill-daemon", "SIGKILL slurmctld (head) or slurmd; jobs live on"),
        ("start-daemon", "start it again"),
    ):
        commands.add_parser(name, help=help_text).add_argument("node")
    commands.add_parser("set-grace", help="change GraceTime of harvest").add_argument("grace_s", type=int)
    return top


def _from_env(name: str, default: int) -> int:
    return int(os.environ.get(f"RFAAS_RIG_{name}", default))


def _add_there(command: argparse.ArgumentParser) -> None:
    command.add_argument("node")
    command.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD...")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one command; return the exit status."""
    args = parser().parse_args(arguments)
    cluster = Cluster(default_instance())
    try:
        return _do(cluster, args)
    except (RigError, CommandFailed, CommandTimeout, AssertionError) as error:
        print(f"slurm-cluster: {error}", file=sys.stderr)
        return 1


def _do(cluster: Cluster, args: argparse.Namespace) -> int:
    match args.command:
        case "start":
            _start(cluster, args)
        case "stop":
            cluster.stop()
        case "status":
            print(cluster.status())
        case "exec":
            _become([*cluster.node(args.node).way_in, *(args.argv or ["bash"])])
        case "as":
            _become([*cluster.user(args.user).way_in(args.node), *(args.argv or ["bash"])])
        case "set-grace":
            cluster.set_grace(args.grace_s)
        case change:
            getattr(cluster, change.replace("-", "_"))(args.node)
    return 0


def _start(cluster: Cluster, args: argparse.Namespace) -> None:
    settings = Settings(args.nodes, args.cpus, args.memory_mib, args.grace_s, cgroups=args.cgroups)
    seconds = cluster.start(settings)
    if args.wheel:
        cluster.install_wheel()
    print(HOW_TO_USE.format(seconds=seconds, me=os.path.relpath(sys.argv[0]), **vars(args)), end="")


def _become(argv: list[str]) -> None:
    """Turn into the command, so that the terminal, signals and exit status are its own."""
    sys.stdout.flush()
    os.execvp(argv[0], argv)
