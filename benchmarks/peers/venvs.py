"""A venv for each peer under .cache/peers/, with the versions pinned in requirements/; never the project's own.

Usage: python benchmarks/peers/venvs.py [NAME...]: makes those that are missing. Needs the network where they are.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / ".cache" / "peers"
INSTALL_LIMIT_S = 900
LIST = """
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"].lower(): d.version for d in m.distributions()}))
"""


def path_of(name: str) -> Path:
    """Where the venv of this name is, for this interpreter and these requirements."""
    text = (HERE / "requirements" / f"{name}.txt").read_bytes() + sys.version.encode()
    return CACHE / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"


def python_of(name: str) -> Path | None:
    """Its interpreter, if it was made whole; the empty name is this interpreter's own."""
    if not name:
        return Path(sys.executable)
    path = path_of(name)
    return path / "bin" / "python" if (path / "versions.json").exists() else None


def versions_of(name: str) -> dict[str, str]:
    """What is installed in it."""
    found: dict[str, str] = json.loads((path_of(name) / "versions.json").read_text())
    return found


def make(name: str) -> str:
    """Make it if it is missing; returns why that failed, or nothing."""
    if python_of(name) is not None:
        return ""
    path = path_of(name)
    print(f"making a venv for {name}", flush=True)
    python = path / "bin" / "python"
    requirements = HERE / "requirements" / f"{name}.txt"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)]
    try:
        for command in ([sys.executable, "-m", "venv", "--clear", str(path)], pip):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        listed = subprocess.run([python, "-c", LIST], check=True, capture_output=True, text=True, timeout=60)
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if "WARNING" not in line]
        return f"{name}: {' '.join(said[-2:]) or error}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{name}: {error}"
    (path / "versions.json").write_text(listed.stdout)
    return ""


def main() -> None:
    """Make what is named, or all; 1 if something can't be made."""
    names = sys.argv[1:] or sorted(path.stem for path in (HERE / "requirements").glob("*.txt"))
    problems = [problem for problem in map(make, names) if problem]
    print("\n".join(problems), file=sys.stderr, end="\n" if problems else "")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
