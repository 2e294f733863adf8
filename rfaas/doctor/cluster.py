"""Checks of the cluster: munge, Slurm's commands, a partition that can be harvested."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

from rfaas.doctor.finding import Finding
from rfaas.settings import Settings
from rfaas_transport.errors import RfaasError

PROBE_TIMEOUT_S: Final = 5.0
CHECK_TIMEOUT_S: Final = 40.0


def munge() -> Iterator[Finding]:
    """Whether munge can make a credential; Slurm's own commands need it."""
    if shutil.which("munge") is None:
        yield Finding("munge", "info", "not installed; only Slurm needs it")
        return
    problem = _failure(["munge", "--no-input", *_munge_socket()])
    if problem:
        here = _configured()
        remedy = "start munged (systemctl start munge): Slurm's commands fail without it"
        yield Finding("munge", "error" if here else "info", problem, remedy)
    else:
        yield Finding("munge", "ok", "makes credentials")


def _munge_socket() -> list[str]:
    """The option that names Slurm's munge, where it is not the default one (AuthInfo=socket=… in slurm.conf)."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    named = re.search(r"^AuthInfo\s*=.*\bsocket=([^,\s]+)", done.stdout, re.MULTILINE)
    return [f"--socket={named[1]}"] if named else []


def slurm() -> Iterator[Finding]:
    """Whether slurmctld answers, and which partition could be harvested."""
    if shutil.which("sinfo") is None:
        yield Finding(
            "Slurm", "info", "no sinfo in PATH: this is no host of a Slurm cluster, or its module is not loaded"
        )
        return
    if not _configured():
        yield Finding("Slurm", "info", "Slurm's commands are here, but no configuration: this is no host of a cluster")
        return
    problem = _failure(["scontrol", "ping"])
    if problem:
        yield Finding("Slurm", "error", f"slurmctld: {problem}", "ask the administrator; `scontrol ping` says more")
        return
    yield _partition()


def _configured() -> bool:
    """True if Slurm's commands find a configuration here, in a file or from slurmctld by DNS."""
    if shutil.which("scontrol") is None:
        return False
    named = os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf")
    return os.path.exists(named) or "configuration source" not in _failure(["scontrol", "ping"])


def _partition() -> Finding:
    try:
        settings = Settings.load()
        python = settings.value("daemon_python") or sys.executable
        partition = settings.value("harvest.partition")
    except RfaasError:
        python, partition = sys.executable, None
    command = [python, "-m", "rfaas_slurm_plugin", "check", *([f"--partition={partition}"] if partition else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return Finding("Slurm", "error", f"the cluster could not be read: {error}", "rfaas up --slurm says more")
    if "error" in answer:
        return Finding("Slurm", "error", answer["error"], answer["hint"])
    text = f"partition {answer['partition']} can be harvested, grace {answer['grace_s']:g} s, from {answer['listen']}"
    return Finding("Slurm", "ok", text)


def _failure(command: list[str]) -> str:
    """Run a probe; what went wrong, or ""."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} does not answer within {PROBE_TIMEOUT_S:g} s"
    except OSError as error:
        return str(error)
    if done.returncode == 0 and "DOWN" not in done.stdout.upper().split():
        return ""
    return (done.stderr or done.stdout).strip().splitlines()[-1] if done.stderr or done.stdout else "failed"
