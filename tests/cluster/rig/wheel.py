"""The built wheel in a virtual environment that the cluster's users can run: never the checkout.

Two steps, each kept under the hash of what it was made from: third-party packages (minutes) and our wheel (seconds).
Environments that no session uses any more are removed. Everything is root's and world-readable.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cluster.rig import commands
from cluster.rig.settings import REPOSITORY, USERS, RigError

CACHE = Path("/var/tmp/rfaas-rig")
PACKAGES = ("numpy", "scikit-learn", "mpi4py")  # what examples and tests need beside rfaas's own dependencies
HIDDEN_ON_NODES = ("/home", "/root", "/run", "/tmp")
INSTALL_TIMEOUT_S = 900.0
KEPT_UNUSED = 2  # environments of each kind that stay for the next session
COMPLETE = "complete"  # the file that is written last


@contextlib.contextmanager
def wheel_environment() -> Iterator[Path]:
    """A virtual environment with the wheel of this checkout, numpy, scikit-learn and mpi4py; kept while in use.

    Raises:
        RigError: no interpreter that ordinary users can run.
        CommandFailed, CommandTimeout: the build or an installation failed; its output is in the message.
    """
    python = users_interpreter()
    CACHE.mkdir(mode=0o755, exist_ok=True)
    with open(CACHE / "lock", "w") as lock, _world_readable():
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _made(f"base-{_hash(_base_recipe(python))}", lambda folder: _make_base(folder, python))
        wheel = Path(_run([sys.executable, str(REPOSITORY / "tools/build_wheel.py"), python]).strip())
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        made = _made(f"wheel-{_hash([base.name, digest])}", lambda folder: _install(folder, base, wheel))
        in_use = os.open(made / COMPLETE, os.O_RDONLY)
        fcntl.flock(in_use, fcntl.LOCK_SH)
        _remove_unused(keep={base, made})
    try:
        yield made / "venv"
    finally:
        os.close(in_use)


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


def _made(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, made now if it isn't complete."""
    folder = CACHE / name
    if not (folder / COMPLETE).exists():
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        make(folder)
    (folder / COMPLETE).touch()  # also remembers the last use
    return folder


def _dependencies() -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *PACKAGES]


def _base_recipe(python: str) -> list[str]:
    version = commands.run([python, "-c", "import sys; print(sys.version)"], timeout_s=30).stdout
    return [python, version, *_dependencies()]


def _make_base(folder: Path, python: str) -> None:
    _run([python, "-m", "venv", str(folder / "venv")])
    _run([str(folder / "venv/bin/pip"), "install", "--quiet", *_dependencies()])


def _install(folder: Path, base: Path, wheel: Path) -> None:
    """An environment with the wheel, and with hard links to the third-party packages."""
    venv = folder / "venv"
    _run([f"{base}/venv/bin/python", "-m", "venv", "--without-pip", str(venv)])
    _run([f"{base}/venv/bin/pip", "--python", str(venv), "install", "--quiet", "--no-deps", str(wheel)])
    (library,) = venv.glob("lib/python3*/site-packages")
    _run(["cp", "--archive", "--link", f"{base}/venv/{library.relative_to(venv)}/.", str(library)])


def _run(argv: Sequence[str]) -> str:
    return commands.run(argv, timeout_s=INSTALL_TIMEOUT_S, cwd="/").stdout


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _remove_unused(keep: set[Path]) -> None:
    """Remove all but the last few of each kind; never one that a session holds."""
    for kind in ("base", "wheel"):
        folders = [folder for folder in CACHE.glob(f"{kind}-*") if folder not in keep]
        folders.sort(key=lambda folder: (folder / COMPLETE).stat().st_mtime if (folder / COMPLETE).exists() else 0)
        for folder in folders[: max(0, len(folders) - KEPT_UNUSED)]:
            _remove_unless_used(folder)


def _remove_unless_used(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError, BlockingIOError), open(folder / COMPLETE) as complete:
        fcntl.flock(complete, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
        return
    if not (folder / COMPLETE).exists():  # half made by a session that was killed; the lock is ours
        shutil.rmtree(folder)
