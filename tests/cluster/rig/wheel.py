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
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.rig import commands
from cluster.rig.settings import REPOSITORY, USERS, RigError

CACHE = Path("/var/tmp/rfaas-rig")
PACKAGES = ("numpy", "scikit-learn", "mpi4py")  # what examples and tests need beside rfaas's own dependencies
HIDDEN_ON_NODES = ("/home", "/root", "/run", "/tmp")
INSTALL_TIMEOUT_S = 900.0
KEPT_OTHERS = 2  # sets of packages that stay for other interpreters and checkouts
COMPLETE = "complete"  # the file that is written last
INSIDE = Path(__file__).with_name("forky") / "inside"


@dataclass(frozen=True)
class _Place:
    """Where an environment is made: on this machine, or in a root directory with another Debian."""

    python: str
    builder: str  # the interpreter with pip that builds the wheel; "": that of the environment of packages
    checkout: str
    packages: tuple[str, ...]
    root: str = ""

    def run(self, argv: Sequence[str]) -> str:
        """Run a command there and return what it printed. Raises CommandFailed, CommandTimeout."""
        prefix = [str(INSIDE), self.root] if self.root else []
        return commands.run([*prefix, *argv], timeout_s=INSTALL_TIMEOUT_S, cwd="/").stdout


def _place(root: str) -> _Place:
    if root:
        return _Place("/usr/bin/python3", "", "/mnt", (), root)
    return _Place(users_interpreter(), sys.executable, str(REPOSITORY), PACKAGES)


def install_environment(folder: Path, root: str = "") -> None:
    """Make a virtual environment with the wheel of this checkout, numpy, scikit-learn and mpi4py.

    Args:
        folder: where, on the file system of `CACHE`; it need not exist.
        root: made by `forky/build`: the environment is for its interpreter, and has rfaas's own dependencies alone.

    Raises:
        RigError: no interpreter that ordinary users can run.
        CommandFailed, CommandTimeout: the build or an installation failed; its output is in the message.
    """
    place = _place(root)
    CACHE.mkdir(mode=0o755, exist_ok=True)
    with open(CACHE / "lock", "w") as lock, _world_readable():
        fcntl.flock(lock, fcntl.LOCK_EX)
        base = _base(place)
        builder = place.builder or f"{base}/bin/python"
        wheel = place.run([builder, f"{place.checkout}/tools/build_wheel.py", place.python]).strip()
        place.run([f"{base}/bin/python", "-m", "venv", "--without-pip", str(folder)])
        place.run([f"{base}/bin/pip", "--python", str(folder), "install", "--quiet", "--no-deps", wheel])
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


def _dependencies(place: _Place) -> list[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *place.packages]


def _base(place: _Place) -> Path:
    """The environment with the third-party packages alone, made now if it isn't there."""
    version = place.run([place.python, "-c", "import sys; print(sys.version)"])
    recipe = "\n".join([place.python, version, *_dependencies(place)])
    base = CACHE / f"packages-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not (base / COMPLETE).exists():
        place.run([place.python, "-m", "venv", "--clear", str(base)])
        place.run([f"{base}/bin/pip", "install", "--quiet", *_dependencies(place)])
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


def prepare(root: str) -> None:
    """Make what `install_environment(…, root)` takes minutes for, if it isn't there. Raises as it does."""
    with tempfile.TemporaryDirectory(dir=CACHE.parent) as folder:
        install_environment(Path(folder) / "venv", root)


if __name__ == "__main__":
    prepare(sys.argv[1])
