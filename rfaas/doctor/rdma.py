"""Checks of RDMA's software: the library and its drivers, and pyverbs, which must fit the library to the release."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from rfaas.doctor.finding import Finding
from rfaas_transport import verbs
from rfaas_transport.errors import RfaasError

SYSTEM_PYTHON: Final = "/usr/bin/python3"  # the one that the distribution builds pyverbs for
SYSFS: Final = Path("/sys/class/infiniband")
_PROBE: Final = Path(__file__).with_name("pyverbs_probe.py")
_PROBE_S: Final = 60.0
_PYVERBS_REMEDY: Final = (
    f"the distribution's fits its rdma-core (Debian: python3-pyverbs, for {SYSTEM_PYTHON} alone);"
    " one from PyPI must be of exactly the release of the host's rdma-core"
)


def library() -> Iterator[Finding]:
    """libibverbs: its release, and whether it has a driver for each device."""
    if not verbs.is_built():
        return  # `RDMA` says it
    try:
        known = {device.name for device in verbs.devices()}
    except (RfaasError, OSError) as error:
        yield Finding("rdma-core", "warning", str(error), "install what rdma-core consists of, all of one release")
        return
    release = rdma_core_release()
    text = f"rdma-core {release}" if release else "rdma-core, of an unknown release"
    if undriven := sorted(device.name for device in SYSFS.glob("*") if device.name not in known):
        remedy = (
            "install the drivers of the same release (Debian: ibverbs-providers; vendors: all of DOCA-OFED), and"
            " make /dev/infiniband/uverbs* accessible, also in a container"
        )
        yield Finding("rdma-core", "warning", f"{text} can't open {', '.join(undriven)}", remedy)
    else:
        yield Finding("rdma-core", "ok", f"{text}, {len(known)} device{'' if len(known) == 1 else 's'}")


def pyverbs() -> Iterator[Finding]:
    """pyverbs, in this interpreter and in the distribution's: for diagnosis only, calls never need it."""
    is_anywhere = False
    for python in dict.fromkeys([sys.executable, SYSTEM_PYTHON]):
        answer = ask_pyverbs(python)
        if answer is None or answer.get("absent"):
            continue
        is_anywhere = True
        if "error" not in answer:
            yield Finding("pyverbs", "ok", f"works with {python}")
        else:
            yield _does_not_load(python, answer["error"])
    if not is_anywhere and any(SYSFS.glob("*")):
        yield Finding("pyverbs", "info", "not here; only diagnosis and rfaas's own tests use it", _PYVERBS_REMEDY)


def _does_not_load(python: str, error: str) -> Finding:
    """Why: the private symbols of libibverbs bear its release, and pyverbs uses them."""
    built_for = re.search(r"IBVERBS_PRIVATE_(\d+)", error)
    if built_for is None:
        return Finding("pyverbs", "info", f"{python}: {error}", _PYVERBS_REMEDY)
    text = f"{python}: it was built for rdma-core {built_for[1]}, and this host has {rdma_core_release() or 'another'}"
    return Finding("pyverbs", "warning", text, f"{python} -m pip uninstall pyverbs; {_PYVERBS_REMEDY}")


def ask_pyverbs(python: str = SYSTEM_PYTHON) -> dict[str, Any] | None:
    """What pyverbs of this interpreter says (`pyverbs_probe.py`); None where the interpreter can't be asked."""
    command = [python, "-I", str(_PROBE)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_S, check=False)
        answer = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return answer if isinstance(answer, dict) else None


def rdma_core_release() -> str:
    """The release of rdma-core that this process would load, "44.0"; empty if the file's name does not tell."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if found := re.search(r"libibverbs\.so\.1\.\d+\.(\d+\.\d+)", line):
            return found[1]
    for folder in ("/usr/lib64", "/lib64", f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib"):
        path = os.path.realpath(f"{folder}/libibverbs.so.1")
        if found := re.search(r"libibverbs\.so\.1\.\d+\.(\d+\.\d+)$", path):
            return found[1]
    return ""
