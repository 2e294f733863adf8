"""The table of all settings: names, kinds, defaults and why those. docs/configuration.md is made of it.

A component that needs a setting adds a line here and nothing else: environment name, key in the file, error messages,
documentation and `rfaas config show` follow from the line.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from rfaas.settings import kinds
from rfaas.settings.kinds import Kind
from rfaas.settings.pairs import LIMITS, PRICES, pairs, pairs_of_users


class Setting(NamedTuple):
    """One line of the table.

    Attributes:
        section: of the file; "" is before all sections.
        key: with the unit of a plain number at its end.
        kind: how it is read.
        default: parsed; None where the default is found out at run time or means nothing.
        about: what it is, in a line.
        why: why that default.
        otherwise: what None means as a default.
        option: of the command line, where there is one.
    """

    section: str
    key: str
    kind: Kind
    default: Any
    about: str
    why: str
    otherwise: str = "none"
    option: str = ""

    @property
    def name(self) -> str:
        """Its name in messages: `section.key`, or the key."""
        return f"{self.section}.{self.key}" if self.section else self.key

    @property
    def environment(self) -> str:
        """Its environment variable: the name in capitals after RFAAS_."""
        return "RFAAS_" + self.name.upper().replace(".", "_")


_WORKERS: Final = kinds.whole_number(1, 65_535, "workers")
_CORES: Final = kinds.whole_number(1, 65_535, "cores")
_SOME_CORES: Final = kinds.whole_number(0, 10_000_000, "cores")
_SOME_NODES: Final = kinds.whole_number(0, 10_000_000, "nodes")
_SOME_JOBS: Final = kinds.whole_number(0, 10_000_000, "jobs")
_SOME_MEMORY: Final = kinds.size(zero=True)
LOADS: Final = ("unknown", "compute", "memory", "io", "network")
_MINE: Final = "the caps in all hold for everybody's"

TABLE: Final = (
    # --- whom everything asks ---------------------------------------------------------------------
    Setting(
        *("", "state_dir", kinds.path(), None, "Where secret, journal and logs of the user's daemons are."),
        why="survives a reboot, is private, and on most clusters the nodes see it",
        otherwise="$XDG_STATE_HOME/rfaas, else ~/.local/state/rfaas",
        option="--state-dir",
    ),
    Setting(
        *("", "allocator", kinds.path(also="embedded"), None, "State directory of the allocator that programs use."),
        why="a program needs no setting on a laptop nor after `rfaas up`",
        otherwise="that of state_dir if one serves or site.allocator is set, else embedded",
    ),
    Setting(
        *("", "daemon_python", kinds.path(), None, "Interpreter of session process, allocator, harvester and agents."),
        why="what runs now certainly has rfaas",
        otherwise="the running interpreter",
        option="--daemon-python",
    ),
    Setting(
        *("", "log", kinds.choice("debug", "info", "warning", "error"), None, "Least level that daemons log."),
        why="an embedded session writes to the program's own terminal",
        otherwise="info; agents warning; embedded error",
    ),
    Setting(
        *("", "event_log", kinds.path(), None, "Directory of event logs for audits (docs/spec/005-event-log.md)."),
        why="costs a write an event",
        otherwise="no event log",
    ),
    Setting(
        *("", "env_pass", kinds.names('["OMP_NUM_THREADS", "MY_KEY"]'), (), "Further variables that functions see."),
        why="equal environments share a template; what launchers set for one rank must not travel",
    ),
    Setting(
        *("", "slurmrestd", kinds.text(), None, "Read Slurm there: unix:/path, http(s)://host[:port]."),
        why="Slurm's commands are on every host of a cluster, slurmrestd is not",
        otherwise="pyslurm if it fits, else Slurm's commands",
        option="--slurmrestd",
    ),
    Setting(
        *("", "pyslurm_python", kinds.path(also="none"), None, "Interpreter whose pyslurm reads Slurm; none: do not."),
        why="pyslurm is faster where it is installed with rfaas; `rfaas slurm check` says what is used",
        otherwise="daemon_python, where it has a pyslurm that fits",
    ),
    Setting(
        *("", "slurm_jwt_file", kinds.path(), None, "File with the token for slurmrestd, 0600; read at each request."),
        why="a socket knows its peer; a port wants a token",
        otherwise="$SLURM_JWT, else none",
    ),
    # --- rfaas.Executor -----------------------------------------------------------------------------
    Setting(
        *("executor", "max_workers", _WORKERS, None, "Ceiling of workers at a time."),
        why="as ProcessPoolExecutor on one machine; an allocator gives what is idle, not more",
        otherwise="usable CPUs when embedded, else 1000",
    ),
    Setting("executor", "cores", _CORES, 1, "Cores of each worker.", "most functions use one"),
    Setting(
        *("executor", "memory", kinds.size(), None, "Memory of each worker, which is killed beyond it."),
        why="an interpreter with numpy and some data; less lets more workers fit a node",
        otherwise="1 GiB; embedded: the machine's",
    ),
    Setting(
        *("executor", "placement", kinds.choice("pack", "spread"), "pack", "On as few nodes as possible, or as many."),
        why="leaves whole nodes to others",
    ),
    Setting(
        *("executor", "load", kinds.choice(*LOADS), "unknown", "What functions mostly use; a hint."),
        why="they are kept from jobs that others like them have slowed; else each program is known by its name",
    ),
    Setting(
        *("executor", "transport", kinds.choice("auto", "shm", "verbs", "tcp"), "auto", "Medium to the workers."),
        why="the best that both ends have",
    ),
    Setting(
        *("executor", "transport_security", kinds.choice("trusted", "encrypt"), "trusted"),
        about="Whether calls over TCP are encrypted (TLS 1.3); an agent may insist on it too.",
        why="a cluster's fabric carries what the user's files there hold too; encryption costs several times the call",
    ),
    Setting(
        *("executor", "hot_for_s", kinds.duration(), 0.001, "How long a worker polls before it sleeps."),
        why="the next call of a loop comes within it; longer burns a core for nothing, and a caller's too: who waits"
        " for an answer polls a fifth of it, and at least 0.2 ms",
    ),
    Setting(
        *("executor", "call_timeout_s", kinds.duration(optional=True), None, "Life of a call from submit, queue too."),
        why="nobody but the caller knows how long a function may take",
        otherwise="no limit",
    ),
    Setting(
        *("executor", "acquire_timeout_s", kinds.duration(optional=True), None),
        about="How long a call waits while there is no worker at all.",
        why="on a full cluster waiting is normal",
        otherwise="no limit",
    ),
    Setting(
        *("executor", "idempotent", kinds.boolean(), False, "Calls that may have run are run again."),
        why="a function may write files: silent re-execution is the worse surprise",
    ),
    Setting(
        *("executor", "retries", kinds.whole_number(0, 1_000_000), 0, "How often a lost idempotent call is run again."),
        why="at most once unless asked; reclaims have a budget of 10 of their own",
    ),
    Setting(
        *(
            "executor",
            "payload_limit",
            kinds.size(maximum_bytes=1 << 32),
            None,
            "The most that arguments, or the result, of a call may take.",
        ),
        why="nobody but the caller knows what is an accident",
        otherwise="4 GiB, what a channel takes",
    ),
    Setting(
        *(
            "executor",
            "files_limit",
            kinds.size(),
            64 << 20,
            "The most that all files of `Executor(files=…)` may take.",
        ),
        why="each node gets a copy; large data belongs where the nodes see it",
    ),
    Setting(
        *("executor", "arena", kinds.size(zero=True, maximum_bytes=1 << 30), 256 << 20),
        about="Shared memory for large payloads of each worker on this node, each way; what does not fit is copied.",
        why="a few arrays of tens of MiB in flight; only what was used takes memory, charged to the program",
    ),
    Setting(
        *("executor", "array_memory", kinds.size(), None, "The most that all arrays of `rfaas.empty` may take."),
        why="as for any array, memory is taken by what is written; arrays beyond it are made elsewhere and copied",
        otherwise="the machine's memory",
    ),
    Setting(
        *("executor", "check_modules", kinds.choice("warn", "error", "ignore"), "warn"),
        about="What it means that a node lacks modules of the program, or has other versions.",
        why="a function may need none of them; who is not told searches for days",
    ),
    Setting(
        *("executor", "output", kinds.choice("caller", "files", "discard"), "caller", "Where functions' prints go."),
        why="who calls wants to see them, and sits before this program",
    ),
    Setting(
        *("executor", "output_limit_bytes", kinds.size(), 2**20, "The most of it that each call may print."),
        why="thousands of lines; a flood fills no disk and delays nobody",
    ),
    Setting(
        *(
            "executor",
            "output_prefix",
            kinds.prefix("node", "worker", "call"),
            "[{node}/{worker} #{call}] ",
            "Before each line of it.",
        ),
        why="many workers print at once",
    ),
    Setting(
        *("executor", "output_dir", kinds.path(), None, 'Where `output = "files"` makes them.'),
        why="beside the program's own results; one pair of files a worker, not one a call",
        otherwise="rfaas-output in the working directory",
    ),
    # --- borrowed memory ----------------------------------------------------------------------------
    Setting(
        *("remote_memory", "when_reclaimed", kinds.choice("lose", "move", "spill"), "lose"),
        about="What becomes of a RemoteMemory that goes back to its owner.",
        why="to keep it costs a copy within the grace, and not every program needs it",
    ),
    Setting(
        *("remote_memory", "spill_dir", kinds.path(), None, 'Where `when_reclaimed = "spill"` makes its file.'),
        why="mostly on the node's own disk",
        otherwise="the temporary directory",
    ),
    # --- daemons ------------------------------------------------------------------------------------
    Setting(
        *("session", "linger_s", kinds.duration(), 5.0, "How long a session process stays after its last client."),
        why="the next program of a script finds it warm; embedded ones leave at once",
    ),
    Setting(
        *("session", "interface", kinds.text(), None, "Address, interface or network (CIDR) that calls leave by."),
        why="the kernel knows the way to each node; hosts with several fabrics may know better",
        otherwise="as the kernel routes",
    ),
    Setting(
        *("leases", "ttl_s", kinds.duration(minimum_s=0.5), 10.0, "A lease that nobody renews ends after this."),
        why="three heartbeats of TTL/4 may be lost",
        option="--ttl",
    ),
    # --- sockets of data connections: read by session processes and agents, each for its own side ------
    Setting(
        *("tcp", "priority", kinds.whole_number(0, 6), 0, "SO_PRIORITY of data connections."),
        why="the kernel's; sites that sort traffic by it know their numbers",
    ),
    Setting(
        *("tcp", "user_timeout_s", kinds.duration(), 0.0, "TCP_USER_TIMEOUT of data connections; 0: the kernel's."),
        why="it ends connections to workers that compute and read nothing meanwhile; heartbeats find dead hosts",
    ),
    Setting(
        *("tcp", "busy_poll_us", kinds.whole_number(0, 1000), 0, "SO_BUSY_POLL of data connections."),
        why="untested on a real network card; needs a driver for it, and rights beyond net.core.busy_read",
    ),
    Setting(
        *("tcp", "zerocopy", kinds.boolean(), False, "Send payloads of 64 KiB and more by MSG_ZEROCOPY."),
        why="untested on a real network card; over loopback the kernel copies all the same",
    ),
    # --- the allocator's policy ----------------------------------------------------------------------
    Setting(
        *("policy", "quota", pairs(LIMITS, "cores=8,memory=16GiB"), None, "The most that each user may hold."),
        why="an allocator of one's own shares nothing",
        otherwise="no limit",
        option="--quota",
    ),
    Setting(
        *("policy", "quotas", pairs_of_users(LIMITS, "ann:cores=8 bob:leases=4"), ()),
        about="What single users may hold, in place of `quota`.",
        why="all users are alike",
        option="--quota",
    ),
    Setting(
        *("policy", "prices", pairs(PRICES, "core_s=0.00002,gib_s=0.000002,byte=0,currency=EUR"), None),
        about="What `rfaas accounting` charges for a core second, a GiB second, a byte of payload.",
        why="most sites count, and charge nothing",
        otherwise="nothing is charged",
        option="--price",
    ),
    Setting(
        *("policy", "inventory", kinds.path(), None, "Known hosts, as `rfaas inventory export` writes them."),
        why="agents and Slurm say which hosts there are",
        otherwise="no file",
        option="--inventory",
    ),
    # --- rfaas up on one host -------------------------------------------------------------------------
    Setting(
        *("local", "cores", _CORES, None, "Cores of this host that `rfaas up` or `rfaas agent` offers."),
        why="the machine is yours",
        otherwise="usable CPUs",
        option="--cores",
    ),
    Setting(
        *("local", "memory", kinds.size(), None),
        about="Memory of this host that `rfaas agent` or `rfaas up` (there `--memory-mib`) offers.",
        why="all cores can be used; the rest is for you and the kernel",
        option="--memory",
        otherwise="80 % of the host's memory, or of its container's limit; `rfaas agent`: of what is available now",
    ),
    Setting(
        *("local", "grace_s", kinds.duration(), 5.0, "From SIGTERM, or `rfaas down`, to the kill of what still runs."),
        why="as a partition's GraceTime",
        option="--grace",
    ),
    # --- rfaas agent ------------------------------------------------------------------------------------
    Setting(
        *("agent", "allocator", kinds.path_or_address(), None),
        about="State directory, or address, of the allocator that `rfaas agent` lends to.",
        why="mostly it is the one that programs use too",
        otherwise="`allocator`, else state_dir",
        option="--allocator",
    ),
    Setting(
        *("agent", "credentials", kinds.path(), None),
        about="With an address: private directory with the allocator's secret, tls.key and tls.crt.",
        why="they lie there on the allocator's host",
        otherwise="state_dir",
        option="--credentials",
    ),
    Setting(
        *("agent", "drain_s", kinds.duration(), None, "What running calls get of local.grace_s."),
        why="the rest is for the kill and its proof",
        otherwise="a second less",
        option="--drain",
    ),
    Setting(
        *("agent", "listen", kinds.text(), None, "Address, interface or network (CIDR) for programs on other hosts."),
        why="found by the way to the allocator",
        otherwise="found, if the allocator has one",
        option="--listen",
    ),
    Setting(
        *("agent", "port_range", kinds.text(), None, "Ports to listen on, LOW-HIGH."),
        why="the kernel chooses; firewalls may want less",
        otherwise="any",
        option="--port-range",
    ),
    Setting(
        *("agent", "name", kinds.text(), None, "Name of this host for status and placement."),
        why="people know it by that",
        otherwise="its host name",
        option="--name",
    ),
    Setting(
        *("agent", "label", kinds.text(), None, "Tells apart several agents on one host."),
        why="one agent a host is enough",
        option="--label",
    ),
    Setting(
        *("agent", "abandoned_after_s", kinds.duration(), 60.0, "It leaves after so long without allocator."),
        why="an allocator may be restarted; a host must not be lent for ever to nobody",
        option="--abandoned-after",
    ),
    Setting(
        *("agent", "idle", kinds.boolean(), False, "Functions run only when nothing else wants the CPU (SCHED_IDLE)."),
        why="who lends a host means it to be used",
        option="--idle",
    ),
    Setting(
        *("up", "listen", kinds.text(), None, "Address of this host that the nodes reach."),
        why="found by the way to a node",
        otherwise="towards the nodes with --slurm, else the unix socket only",
        option="--listen",
    ),
    # --- the site's slices ------------------------------------------------------------------------------
    Setting(
        *("site", "allocator", kinds.host_port(), None, "The site's allocator, whose nodes lend outside of jobs."),
        why="who runs a site names it in the system's file",
        otherwise="nothing is borrowed from a site",
    ),
    Setting(
        *("site", "allocator_uid", kinds.whole_number(0, 2**32 - 2), 0, "Whose process that is, by munge's word."),
        why="nobody else can be root",
    ),
    Setting(
        *("site", "munge_socket", kinds.text(), None, "Where munged of this host listens."),
        why="libmunge knows where",
        otherwise="munge's own",
    ),
    Setting(
        *("site", "lasts_s", kinds.duration(minimum_s=1.0), 3600.0, "A slice of the site lasts so long at most."),
        why="then others have a chance; what is still needed is asked for again",
    ),
    Setting(
        *("site", "listen", kinds.text(), None, "Address of this host that the site's nodes reach."),
        why="found by the way to the site's allocator",
        otherwise="that on the way to site.allocator",
    ),
    Setting(
        *("site", "keep_s", kinds.duration(), 30.0, "Slices of the site are kept so long after the last program."),
        why="the next program finds them warm; others wait for them",
    ),
    # --- every agent ------------------------------------------------------------------------------------
    Setting(
        *("agent", "tasks_per_worker", kinds.whole_number(16, 4_000_000, "tasks"), 512),
        "Processes and threads of one worker, which is killed beyond them.",
        why="enough for a parallel build; a fork bomb is over in a moment, and slurmd still forks",
    ),
    Setting(
        *("agent", "transport_security", kinds.choice("trusted", "encrypt"), "trusted"),
        about="encrypt: data connections from other hosts are encrypted, or turned away.",
        why="programs say it; here it is for who lends on a network that is nobody's",
    ),
    # --- the neighbour guard of every agent ---------------------------------------------------------------
    Setting(
        *("guard", "act", kinds.choice("off", "watch", "throttle", "move", "leave"), "leave"),
        about="How far an agent may go when functions slow the job beside them.",
        why="who lends idle cores must not feel it; each step down follows a measured slowdown",
    ),
    Setting(
        *("guard", "slowdown", kinds.part(10.0), 0.03, "Bound on the slowdown of that job's median iteration."),
        why="about what runs of one code differ by themselves",
    ),
    Setting(
        *("guard", "tail", kinds.part(10.0), 0.1, "Bound on the slowdown of its 99th percentile."),
        why="a rank that is late now and then makes all others wait",
    ),
    Setting(
        *("guard", "marks_dir", kinds.path(also="none"), None, "Where jobs keep their iteration marks; none: nowhere."),
        why="memory that every job of a node sees; a job takes it from RFAAS_GUARD_MARKS_DIR too",
        otherwise="/dev/shm",
    ),
    # --- rfaas up --slurm -------------------------------------------------------------------------------
    Setting(
        *("harvest", "partition", kinds.text(), None, "Preemptible partition to harvest in."),
        why="the first to be taken back",
        otherwise="the preemptible one of the lowest tier",
        option="--partition",
    ),
    Setting(
        *("harvest", "nodes", kinds.words('"n[1-4],n7"'), (), "Harvest on these nodes only; hostlists."),
        why="all of the partition",
        option="--nodes",
    ),
    Setting(
        "harvest", "leave_cores", _SOME_CORES, 0, "Idle cores to leave a node.", "they go back", option="--leave-cores"
    ),
    Setting(
        *("harvest", "leave_memory", kinds.size(zero=True), 0, "Idle memory to leave a node."),
        why="it goes back with the cores",
        option="--leave-memory-mib",
    ),
    Setting(
        *("harvest", "slice_cores", _SOME_CORES, 0, "Cores of one slice; 0: all idle ones of a node."),
        why="many slices a node slow the way back",
        option="--slice-cores",
    ),
    Setting("harvest", "max_cores", _SOME_CORES, 0, "Cores in all; 0: no limit.", "idle is idle", option="--max-cores"),
    Setting("harvest", "max_memory", _SOME_MEMORY, 0, "Memory in all; 0: no limit.", "idle is idle"),
    Setting("harvest", "max_nodes", _SOME_NODES, 0, "Nodes in all; 0: no limit.", "idle is idle"),
    Setting("harvest", "max_jobs", _SOME_JOBS, 0, "Harvest jobs in all; 0: no limit.", "idle is idle"),
    Setting("harvest", "max_cores_per_user", _SOME_CORES, 0, "Cores in a user's harvest jobs; 0: no limit.", _MINE),
    Setting("harvest", "max_memory_per_user", _SOME_MEMORY, 0, "Memory of these; 0: no limit.", _MINE),
    Setting("harvest", "max_nodes_per_user", _SOME_NODES, 0, "Nodes of these; 0: no limit.", _MINE),
    Setting("harvest", "max_jobs_per_user", _SOME_JOBS, 0, "How many of these; 0: no limit.", _MINE),
    Setting(
        *("harvest", "leave_nodes", kinds.words('"n[1-4],n7"'), (), "Nodes to leave alone; hostlists."),
        why="every node of the partition is meant",
    ),
    Setting(
        *("harvest", "leave_partitions", kinds.names('"interactive"'), ()),
        about="Nodes that are in one of these partitions too are left alone.",
        why="their jobs take nodes back like any others",
    ),
    Setting(
        *("harvest", "leave_features", kinds.names('"login,viz"'), (), "Nodes with one of these are left alone."),
        why="features are the site's own words",
    ),
    Setting(
        *("harvest", "require_features", kinds.names('"ib"'), (), "Nodes that lack one of these are left alone."),
        why="features are the site's own words",
    ),
    Setting(
        *("harvest", "leave_users", kinds.names('"ann,bob"'), (), "Nodes where jobs of these run are left alone."),
        why="a user can say so herself: sbatch --comment=rfaas=off",
    ),
    Setting(
        *("harvest", "leave_planned", kinds.boolean(), False, "Leave nodes alone that backfill has planned a job on."),
        why="that job takes its nodes back when it starts",
    ),
    Setting(
        *("harvest", "min_idle_s", kinds.duration(), 0.0, "Leave nodes alone that will likely be idle for less."),
        why="a slice that is taken back costs a template's start, and the estimate may be wrong",
    ),
    Setting(
        *("harvest", "cycle_s", kinds.duration(minimum_s=0.1), 10.0, "Between looks at Slurm."),
        why="slurmctld serves everybody",
        option="--cycle-s",
    ),
    Setting(
        *("harvest", "hooks_socket", kinds.text(), None, "Hear slurmctld's hooks there: a path, or @name."),
        why="a site names one socket in its hooks.conf",
        otherwise="nobody is heard",
        option="--hooks-socket",
    ),
    Setting(
        *("harvest", "backoff_s", kinds.duration(), 3.0, "A node that was taken back is left alone so long."),
        why="a rigid job needs about 0.1 s to get in, its steps more",
        option="--backoff-s",
    ),
    Setting(
        *("harvest", "time_limit_min", kinds.whole_number(0, 525_600, "min"), 0, "Of one slice; 0: the partition's."),
        why="nothing is lost when a slice ends and another begins, but a template",
        option="--time-limit-min",
    ),
    Setting(
        *("harvest", "sbatch_options", kinds.words('["--account=x"]'), (), "Passed to sbatch."),
        why="sites ask for an account or a QOS",
        option="--sbatch-option",
    ),
)

BY_NAME: Final = {setting.name: setting for setting in TABLE}

RENAMED: Final = {f"allocator.{key}": f"policy.{key}" for key in ("quota", "quotas", "prices", "inventory")}
"""Names of before, and those of now. TOML has no file with both a key and a section of one name (`allocator`)."""

RENAMED_VARIABLES: Final = {
    "RFAAS_" + old.upper().replace(".", "_"): BY_NAME[new].environment for old, new in RENAMED.items()
}

CONFIG_VARIABLE: Final = "RFAAS_CONFIG"
"""Names the project's file, or "none"; else it is the `rfaas.toml` nearest upward."""

OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "RFAAS_FILES", "RFAAS_SLICE", "RFAAS_PYTHON", "RFAAS_RDMA_DEVICE"})
"""Variables of ours that are no settings: not taken for typing errors."""
