"""The built wheel in a virtual environment that the cluster's users can run: never the checkout.

The wheel is kept by tools/build_wheel.py, the third-party packages here, both under the hash of what they were made
from. An environment is made for each cluster in a second, of hard links. All is root's and world-readable.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.rig import commands
from cluster.rig.settings import REPOSITORY, USERS, RigError

CACHE = Path("/var/tmp/rfaas-rig")
PACKAGES = ("numpy", "scikit-learn", "mpi4py")  # what examples and tests need beside rfaas's own dependencies
HIDDEN_ON_NODES = ("/home", "/root", "/run", "/tmp")
INSTALL_TIMEOUT_S = 900.0
KEPT_OTHERS = 2  # sets of packages that stay for other interpreters and checkouts
COMPLETE = "complete"  # the file that is written last


def install_environment(folder: Path) -> None:
    """Make a virtual environment with the wheel of this checkout, numpy, scikit-learn and mpi4py.

    Args:
        folder: where, on the file system of `CACHE`; it need not exist.

    Raises:
        RigError: no interpreter that ordinary users can run.
        CommandFailed, CommandTimeout: the build or an installation failed; its output is in the message.
    """
    python = users_interpreter()
    CACHE.mkdir(mode=0o755, exist_ok=True)
    with open(CACHE / "lock", "w") as lock, _world_readable():
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _base(python)
        wheel = _run([sys.executable, str(REPOSITORY / "tools/build_wheel.py"), python]).strip()
        _run([f"{base}/bin/python", "-m", "venv", "--without-pip", str(folder)])
        _run([f"{base}/bin/pip", "--python", str(folder), "install", "--quiet", "--no-deps", wheel])
        (library,) = folder.glob("lib/python3*/site-packages")
        _run(["cp", "--archive", "--link", f"{base}/{library.relative_to(folder)}/.", str(library)])


@contextlib.contextmanager
def _world_readable() -> Iterator[None]:
    mask = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(mask)


def users_interpreter() -> str:
    """The running interpreter if the cluster's users can run it on the nodes, else the distribution's.

    Raises:
        RigError: neither can be run, or the distribution's is older than 3.11.
    """
    own = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    for candidate in (own, "/usr/bin/python3"):
        if not candidate.startswith(tuple(f"{hidden}/" for hidden in HIDDEN_ON_NODES)) and _runs_for_users(candidate):
            return candidate
    raise RigError("no Python >= 3.11 with venv that ordinary users can run: apt-get install python3-venv")


def _runs_for_users(python: str) -> bool:
    uid = str(USERS[0].uid)
    become = ["setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "env", "-i", "-C", "/"]
    probe = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
    return subprocess.run([*become, python, "-c", probe], capture_output=True, timeout=30).returncode == 0


def _dependencies() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *PACKAGES]


def _base(python: str) -> Path:
    """The environment with the third-party packages alone, made now if it isn't there."""
    version = commands.run([python, "-c", "import sys; print(sys.version)"], timeout_s=30).stdout
    recipe = "\n".join([python, version, *_dependencies()])
    base = CACHE / f"packages-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not (base / COMPLETE).exists():
        _run([python, "-m", "venv", "--clear", str(base)])
        _run([f"{base}/bin/pip", "install", "--quiet", *_dependencies()])
    (base / COMPLETE).touch()  # also remembers the last use
    others = sorted((other for other in CACHE.glob("packages-*") if other != base), key=_last_use)
    for other in others[: max(0, len(others) - KEPT_OTHERS)]:
        shutil.rmtree(other)  # nobody is using it: the lock is ours, and environments have links of their own
    return base


def _last_use(base: Path) -> float:
    complete = base / COMPLETE
    return complete.stat().st_mtime if complete.exists() else 0.0


def _run(argv: Sequence[str]) -> str:
    return commands.run(argv, timeout_s=INSTALL_TIMEOUT_S, cwd="/").stdout
