"""The command `python -m rfaas_executors`: one slice, from options and Slurm's variables, until SIGTERM.

SIGTERM and SIGINT mean that the owner wants the slice back; a second one, at once, unless that comes from Slurm,
which repeats itself. SIGQUIT means at once the first time: a node agent evicts. SIGCONT is harmless.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfaas.control.address import AllocatorAddress, check_private
from rfaas.control.data_sockets import socket_options
from rfaas.control.descriptors import raise_limit
from rfaas.control.dial import dial_agent
from rfaas.control.incarnation import Incarnation
from rfaas.control.links import Link
from rfaas.control.messages import AgentMessage, AllocatorToAgent, Slice, SliceId
from rfaas.control.rests import RestFile
from rfaas.control.route import names_no_host, own_address, own_address_towards
from rfaas.session.daemon import occupy_standard_descriptors
from rfaas.settings import Settings
from rfaas_executors import by_hand
from rfaas_executors._process import adopt_orphans
from rfaas_executors.agent import Agent
from rfaas_executors.agent_events import AgentConfig
from rfaas_executors.doors import listen_at, listen_here
from rfaas_executors.guard import GuardSetup
from rfaas_executors.guard_core import GuardConfig
from rfaas_executors.guard_watch import MARKS_DIR
from rfaas_executors.leftovers import sweep
from rfaas_executors.starter import take_standard_input, told_secret, when_it_ends
from rfaas_executors.template_host import Surroundings
from rfaas_transport import tls
from rfaas_transport.errors import ConfigError, ReasonCode, RfaasError

EX_UNAVAILABLE, EX_CONFIG = 69, 78

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; return the exit status: 0 when the slice went back, 69 or 78 when it could not begin."""
    occupy_standard_descriptors()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # who waits for signals blocks them, and its children inherit that
    options = _parser().parse_args(arguments)
    try:
        level = (Settings.load().value("log") or "warning").upper()
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
        return asyncio.run(_serve(options))
    except RfaasError as error:
        print(f"rfaas agent: {error}", file=sys.stderr)
        return EX_CONFIG if isinstance(error, ConfigError) else EX_UNAVAILABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rfaas_executors", description="Lend the cores of one slice until SIGTERM."
    )
    add = parser.add_argument
    add("--state-dir", type=Path, required=True, help="of the allocator that these cores are offered to")
    add("--cores", type=int, required=True, help="how many to offer")
    add("--memory-bytes", type=int, required=True, help="how much to offer")
    add("--grace-s", type=float, default=0.0, help="seconds from SIGTERM to the kill")
    add("--drain-s", type=float, help="what running calls get of it (default: grace - 1, at least 0)")
    add(
        "--listen",
        metavar="HOST",
        help="address, interface or network (CIDR) for sessions on other hosts; auto: the way to the allocator",
    )
    add("--port-range", type=_ports, metavar="LOW-HIGH", help="ports to listen on")
    add("--sched", choices=("idle", "normal"), default="normal", help="idle: functions run when nothing else wants to")
    add("--end-in-s", type=float, help="when the slice ends")
    add("--job-id", default="", help="the Slurm job that this slice comes from")
    add("--submit-time", type=int, default=0, metavar="SECONDS", help="of that job, since 1970")
    add("--node", help="the name of this host (default: Slurm's, or its own)")
    add("--slice-key", default="", help="what names the slice (default: made of the job, or random)")
    add("--by-hand", action="store_true", help="a lasting name for this host's slice; one agent a label")
    add("--local", action="store_true", help="likewise, for the one agent that `rfaas up` starts beside its allocator")
    add("--secret-stdin", action="store_true", help="read the allocator's secret from standard input, not --state-dir")
    add("--end-with-stdin", action="store_true", help="leave when standard input ends: whoever started it is gone")
    add("--label", default="", help="with --by-hand: tells apart agents of one host")
    add("--allocator", metavar="HOST:PORT", help="where it is, if --state-dir holds no more than its credentials")
    add("--abandoned-after-s", type=float, default=60.0, help="leave after so long without allocator and lease")
    add("--idle-after-s", type=float, help="leave after so long without lease, whatever the allocator says")
    add("--say", choices=("text", "json"), help="print on standard output how it goes")
    add("--shared", action="store_true", help="of a job that its owner shares: one agent a job and node")
    add("--from-slurm", action="store_true", help="take job, node and end from Slurm's variables")
    return parser


def _ports(text: str) -> range:
    low, _, high = text.partition("-")
    return range(int(low), int(high or low) + 1)


async def _serve(options: argparse.Namespace) -> int:
    adopt_orphans()
    soft_limit = raise_limit()
    starter = take_standard_input() if options.end_with_stdin else None
    secret = told_secret() if options.secret_stdin else read_secret(options.state_dir)
    where_is = _finder(options, secret)
    name = _Name.of(options, secret)
    # Before the sweep, which would kill the workers of one that lives.
    only_one = options.by_hand or options.local or options.shared
    claimed = by_hand.claim(name.slice_id, options.label) if only_one else None
    clean = await asyncio.to_thread(sweep, name.slice_id)
    host = _listen_host(options, where_is)
    listener, address = listen_at(host, options.port_range) if host else listen_here()
    settings = Settings.load()
    config = _config(options, name, address, settings, clean=clean)
    most_tasks = settings.value("agent.tasks_per_worker")
    rests = RestFile(options.state_dir)
    words = by_hand.Announcer(options.say, _about(config.slice)) if options.say else None
    agent = Agent(
        config,
        _dialer(where_is, words),
        secret,
        listener=listener,
        surroundings=Surroundings(
            name.node, name.slice_id, sched=options.sched, descriptors=soft_limit, most_tasks=most_tasks
        ),
        on_record=words.happened if words is not None else None,
        options=socket_options(settings),
        guard=guard_setup(settings, rests, name.node, shared=options.shared),
        on_leaving=lambda about: rests.leave(name.node, about, time.time()),
    )
    log.info("agent serves node=%s cores=%d address=%s", name.node, options.cores, address)
    status = await run_until_reclaimed(agent, shared=options.shared, starter=starter)
    if words is not None:
        words.left()
    if claimed is not None:
        claimed.close()
    # The owner of the cores waits for this process: tearing down interpreter and gRPC takes 50 ms and more (measured on
    # two cores, 2026-11), and there is nothing left that it would save.
    logging.shutdown()
    os._exit(status)


def guard_setup(settings: Settings, rests: RestFile, node: str, *, shared: bool) -> GuardSetup:
    """How the agent guards the jobs beside it: the site's bounds, and what earlier agents of this node went through."""
    config = GuardConfig(
        slowdown=settings.value("guard.slowdown"),
        tail=settings.value("guard.tail"),
        act=settings.value("guard.act"),
        moved=rests.left(node, time.time()),
    )
    return GuardSetup(config, settings.value("guard.marks_dir") or MARKS_DIR, shared)


@dataclass(frozen=True, slots=True)
class _Name:
    """What tells a slice from all others, and what people call it."""

    slice_id: SliceId
    node: str
    incarnation: str
    job_id: str

    @classmethod
    def of(cls, options: argparse.Namespace, secret: bytes) -> _Name:
        environ = _slurm(options)
        job_id = options.job_id or environ.get("SLURM_JOB_ID", "")
        node = options.node or environ.get("SLURMD_NODENAME") or socket.gethostname()
        incarnation = str(Incarnation.of_this_node(node))
        key = _key(options, incarnation, job_id, secret)
        return cls(SliceId(hashlib.sha256(key.encode()).digest()[:16]), node, incarnation, job_id)

    @staticmethod
    def _source(options: argparse.Namespace) -> str:
        if options.slice_key.startswith("site:"):  # the node's root agent started it (010)
            return "site grant"
        return "by hand" if options.by_hand else "local"

    def spoken(self, options: argparse.Namespace) -> str:
        """As `rfaas status` shows it."""
        job = f"{'shared by ' if options.shared else ''}job {self.job_id}" if self.job_id else ""
        source = job or self._source(options)
        return f"{source} on {self.node}"


def _slurm(options: argparse.Namespace) -> Mapping[str, str]:
    """Slurm's variables, where they are to be believed."""
    return os.environ if options.from_slurm else {}


def _config(options: argparse.Namespace, name: _Name, address: str, settings: Settings, *, clean: bool) -> AgentConfig:
    """What is offered, and how the agent is to go about it.

    Raises:
        ConfigError: only encrypted calls are wished for, and this rfaas was built without OpenSSL.
    """
    offered = Slice(
        name.slice_id,
        name.node,
        options.cores,
        options.memory_bytes,
        address,
        key=name.spoken(options),
        job_id=name.job_id,
        end_in_s=end_in_s(options.end_in_s, _slurm(options)),
        grace_s=options.grace_s,
        submit_time_s=options.submit_time,
        incarnation=name.incarnation,
        shared_by=os.getuid() if options.shared else None,
        outside_jobs=options.slice_key.startswith("site:"),
    )
    encrypted_only = settings.value("agent.transport_security") == "encrypt"
    if encrypted_only:
        tls.require()
    return AgentConfig(
        offered,
        secrets.token_bytes(16),
        drain_s=max(0.0, options.grace_s - 1.0) if options.drain_s is None else options.drain_s,
        cpus=cpus_to_pin(options.cores),
        clean=clean,
        abandoned_after_s=options.abandoned_after_s,
        idle_after_s=options.idle_after_s,
        encrypted_only=encrypted_only,
        cannot_encrypt="" if address.startswith("unix:") else tls.why_not(),
    )


def _dialer(
    where_is: Callable[[], AllocatorAddress], words: by_hand.Announcer | None
) -> Callable[[], Awaitable[Link[AgentMessage, AllocatorToAgent]]]:
    """How to reach the allocator; who watches is told when that fails."""

    async def dial() -> Link[AgentMessage, AllocatorToAgent]:
        try:
            return await dial_agent(where_is())
        except (OSError, RfaasError) as error:
            if words is not None:
                words.unreachable(error)
            raise

    return dial


def _finder(options: argparse.Namespace, secret: bytes) -> Callable[[], AllocatorAddress]:
    """How to find the allocator, each time anew: one that restarts may listen elsewhere.

    Raises:
        RfaasError: by hand there must be one now, or its credentials; nothing was started.
    """
    if options.allocator:
        fixed = by_hand.address_at(options.allocator, options.state_dir, secret)
        for file in fixed.key_file, fixed.certificate_file:
            if not file.exists():
                raise ConfigError(f"{file} is missing", hint="copy it from the allocator's state directory, mode 600")
        return lambda: fixed
    if options.by_hand:
        AllocatorAddress.load(options.state_dir)
    return lambda: AllocatorAddress.load(options.state_dir)


def _key(options: argparse.Namespace, incarnation: str, job_id: str, secret: bytes) -> str:
    given: str = options.slice_key
    if given:
        return given
    if options.by_hand or options.local:
        return by_hand.slice_key(secret, options.label, source="hand" if options.by_hand else "local")
    return slice_key(incarnation, job_id, options.submit_time)


def _listen_host(options: argparse.Namespace, where_is: Callable[[], AllocatorAddress]) -> str:
    """The interface to listen on; empty: this host only."""
    wish: str = options.listen or ""
    if options.by_hand and not wish and where_is().tls:
        wish = "auto"  # programs may run where the allocator's other agents are
    setting = Settings.load().value("agent.listen") or ""
    if wish == "auto" and names_no_host(setting):  # of the slices that Slurm starts, on whichever node
        return own_address(setting, name="agent.listen")
    if wish == "auto":
        return way_to_allocator(where_is())
    return own_address(wish, name="--listen") if wish else ""


def _about(offered: Slice) -> dict[str, object]:
    return {
        "slice": offered.slice_id.hex(),
        "node": offered.node,
        "cores": offered.cores,
        "memory_bytes": offered.memory_bytes,
        "address": offered.session_address,
        "grace_s": offered.grace_s,
    }


async def run_until_reclaimed(agent: Agent, *, shared: bool = False, starter: int | None = None) -> int:
    """Run an agent as this process's one purpose: SIGTERM and SIGINT begin the reclaim, a second one ends the drain.

    Not within a job of Slurm's: slurmctld and srun may both pass on one and the same wish, and who can't wait there
    has SIGKILL, after the grace that was promised. SIGQUIT leaves running calls no time at all (010 section 6).

    Args:
        agent: to run; not yet running.
        shared: by the owner of the job.
        starter: a descriptor at whose end the slice goes back, too; None: there is none.
    """
    from_slurm = bool(agent.core.config.slice.job_id)
    reason = ReasonCode.SLURM_PREEMPT if from_slurm and not shared else ReasonCode.OWNER_RELEASE
    repeated = from_slurm or "SLURM_JOB_ID" in os.environ  # started by hand in somebody's step, too

    def asked() -> None:
        agent.request_reclaim(reason, at_once=agent.core.draining and not repeated)

    loop = asyncio.get_running_loop()
    for signo in signal.SIGTERM, signal.SIGINT:
        loop.add_signal_handler(signo, asked)
    loop.add_signal_handler(signal.SIGQUIT, lambda: agent.request_reclaim(reason, at_once=True))
    if starter is not None:
        when_it_ends(starter, lambda: agent.request_reclaim(reason))
    return await agent.run()


def read_secret(state_dir: Path) -> bytes:
    """The secret of a state directory.

    Raises:
        ConfigError: there is none, or others can read it.
    """
    path = state_dir / "secret"
    try:
        check_private(path)
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error}", hint="`rfaas up` makes it") from error


def slice_key(incarnation: str, job_id: str, submit_time_s: int) -> str:
    """What names a slice (002 section 1): for a job its node's incarnation and the job, else a random value."""
    if not job_id:
        return f"local:{secrets.token_hex(16)}"
    return f"{incarnation}:job:{job_id}:{submit_time_s}"


def end_in_s(given_s: float | None, environ: Mapping[str, str]) -> float | None:
    """Seconds to the slice's end: as given, else as Slurm's variables say; None if nobody says."""
    if given_s is not None:
        return given_s
    end = environ.get("SLURM_JOB_END_TIME", "")
    return max(0.0, int(end) - time.time()) if end.isdigit() and int(end) else None


def cpus_to_pin(n_cores: int) -> tuple[int, ...]:
    """The CPU for each core if this process has exactly as many; else workers run where the kernel puts them."""
    cpus = sorted(os.sched_getaffinity(0))
    return tuple(cpus) if len(cpus) == n_cores else ()


def way_to_allocator(allocator: AllocatorAddress) -> str:
    """This host's address on the way to the allocator.

    Raises:
        ConfigError: the allocator listens on its own host only, or there is no way to it.
    """
    host, _, port = allocator.tls.rpartition(":")
    try:
        return own_address_towards(host.strip("[]"), int(port))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no way to the allocator at {host}:{port}: {error}", hint="give --listen an address"
        ) from error
