"""`rfaas run`: a program with an allocator in its environment, and one made for it where none serves.

Where an allocator serves, this process becomes the program (exec). Where it makes one, it stays beside the program,
passes signals on, and ends as the program ended. Spec of the state directory: docs/spec/003-control.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

import click

from rfaas.cli.common import fail
from rfaas.config import Embedded, choose_allocator
from rfaas.settings import BY_NAME, Settings
from rfaas.settings.spelling import did_you_mean
from rfaas.settings.table import RENAMED
from rfaas_transport.errors import ConfigError, RfaasError

EXIT_CANNOT_EXECUTE: Final = 126  # as shells and env(1) say it
EXIT_NOT_FOUND: Final = 127
SI_KERNEL: Final = 0x80  # si_code of what the terminal sends to a whole process group
PASSED_ON: Final = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGCONT),
)


@click.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--set", "assignments", multiple=True, metavar="SETTING=VALUE", help="As in rfaas.toml; repeatable.")
@click.option("--embedded", is_flag=True, help="Each process of the program has an allocator of its own.")
@click.option("--slurm", is_flag=True, help="If none serves, harvest idle cores of this cluster for this run.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED)
def run(assignments: tuple[str, ...], embedded: bool, slurm: bool, program: tuple[str, ...]) -> None:
    """Run a program whose executors all use one allocator; make one for the run if none serves.

    \b
    rfaas run -- python my_program.py
    rfaas run -- mpirun -n 4 python ranks.py          all ranks share one allocator
    rfaas run --slurm --set harvest.max_cores=64 -- ./script.sh
    rfaas run --set executor.memory=2GiB -- python my_program.py

    Signals reach the program, and the exit status is its own: 127 if there is no such program, 126 if it can't be run.
    """
    try:
        environ = {**os.environ, **_assigned(assignments)}
        settings = Settings.load(environ)
        environ |= settings.exported()
        if embedded:
            environ["RFAAS_ALLOCATOR"] = "embedded"
        explicit = environ.get("RFAAS_ALLOCATOR")
        choice = choose_allocator(None, environ)
        if not isinstance(choice, Embedded) or explicit == "embedded":
            environ["RFAAS_ALLOCATOR"] = "embedded" if isinstance(choice, Embedded) else str(choice.path)
            _become(program, environ)
        with _allocator_for_the_run(environ, slurm) as state_dir:
            environ["RFAAS_ALLOCATOR"] = str(state_dir)
            status = _beside(program, environ)
    except RfaasError as error:
        fail(error, as_json=False)
    _end_as(status)


def _assigned(assignments: Sequence[str]) -> dict[str, str]:
    """Settings of the command line, as variables for the program.

    Raises:
        ConfigError: not of the form, or no setting; wrong values are found when they are read.
    """
    variables = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or name not in BY_NAME:
            hint = did_you_mean(name, BY_NAME) or "write --set executor.memory=2GiB; `rfaas config show` lists settings"
            hint = f"it is called {RENAMED[name]}" if name in RENAMED else hint
            raise ConfigError(
                f"--set {assignment}: {name} is no setting" if equals else f"--set {assignment}", hint=hint
            )
        variables[BY_NAME[name].environment] = value
    return variables


def _become(program: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    try:
        os.execvpe(program[0], list(program), dict(environ))
    except OSError as error:
        sys.exit(_cannot(program[0], error))


def _cannot(program: str, error: OSError) -> int:
    """Say why a program can't be run; the exit status that shells have for it."""
    click.echo(f"rfaas: {program} can't be run: {error.strerror}", err=True)
    return EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_CANNOT_EXECUTE


@contextlib.contextmanager
def _allocator_for_the_run(environ: Mapping[str, str], slurm: bool) -> Iterator[Path]:
    """An allocator in a state directory of its own, gone afterwards with all that it started."""
    # With Slurm the nodes must see it; what is only for this host belongs where it can't outlive a boot.
    base = Path.home() / ".cache" if slurm else Path(environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    state_dir = Path(tempfile.mkdtemp(prefix="rfaas-run-", dir=base))
    try:
        _command(["up", "--json", *(["--slurm"] if slurm else []), "--state-dir", str(state_dir)], environ)
        try:
            yield state_dir
        finally:
            _command(["down", "--purge", "--json", "--state-dir", str(state_dir)], environ)
    finally:
        shutil.rmtree(state_dir, ignore_errors=True)


def _command(arguments: list[str], environ: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "rfaas", *arguments]
    # A session of its own: Ctrl-C is for the program, and the daemons must be taken down in good order after it.
    done = subprocess.run(
        command, env=dict(environ), stdout=subprocess.PIPE, text=True, start_new_session=True, check=False
    )
    if done.returncode != 0:
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = {}
        raise ConfigError(
            f"`rfaas {arguments[0]}` for this run failed: {said.get('error', f'exit status {done.returncode}')}",
            hint=said.get("hint", "") or "run it by hand to see more, or use --embedded",
        )


def _beside(program: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the program, pass signals on, return its wait status."""
    waited = {*PASSED_ON, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        try:
            pid = os.posix_spawnp(program[0], list(program), dict(environ), setsigmask=before)
        except OSError as error:
            return _cannot(program[0], error) << 8  # as a wait status: the allocator is taken down first
        while True:
            about = signal.sigwaitinfo(waited)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            if about.si_signo != signal.SIGCHLD and about.si_code != SI_KERNEL:  # the terminal told it as well
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, about.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_as(status: int) -> NoReturn:
    """End as the program did, by the same signal too: shells and schedulers ask for it."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # one core is enough
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status) if not os.WIFSIGNALED(status) else 128 + os.WTERMSIG(status))
