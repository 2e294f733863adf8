"""`rfaas debug dump`: one archive with what somebody else needs to find a fault, and no secret.

Must not read `secret`, `tls.key` or the journal; what the logs hold is searched for the secret all the same.
"""

from __future__ import annotations

import io
import json
import os
import platform
import socket
import sys
import tarfile
import time
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import click

import rfaas
from rfaas.cli.common import fail, json_option, print_json, state_dir_option
from rfaas_transport.errors import ConfigError

LOG_TAIL_BYTES: Final = 1 << 20
HIDDEN: Final = "(hidden)"


@click.group("debug")
def debug() -> None:
    """Gather what a report of a fault needs."""


@debug.command("dump")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write [rfaas-debug-HOST-TIME.tar.gz].")
@state_dir_option
@json_option
def dump(output: Path | None, state_dir: Path, as_json: bool) -> None:
    """Write one archive: versions, settings, what the allocator holds, findings of doctor, ends of logs; no secrets.

    \b
    rfaas debug dump                      then attach the file to your report
    tar -xOzf rfaas-debug-*.tar.gz rfaas-debug/snapshot.json | jq .
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = output or Path(f"rfaas-debug-{socket.gethostname()}-{stamp}.tar.gz")
    members = gather(state_dir)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in members.items():
                about = tarfile.TarInfo(f"rfaas-debug/{name}")
                about.size, about.mode, about.mtime = len(content), 0o600, int(time.time())
                archive.addfile(about, io.BytesIO(content))
    except OSError as error:
        fail(ConfigError(f"{output}: {error.strerror}", hint="name a new file with -o"), as_json=as_json)
    if as_json:
        print_json({"file": str(output), "members": {name: len(content) for name, content in members.items()}})
    else:
        click.echo(f"{output}: {', '.join(members)}")


def gather(state_dir: Path) -> dict[str, bytes]:
    """Content of the archive by name; what can't be had says why in its place."""
    parts: dict[str, Callable[[], Any]] = {
        "versions.json": _versions,
        "settings.json": _settings,
        "state_dir.json": lambda: _listing(state_dir),
        "allocator.json": lambda: json.loads((state_dir / "allocator.json").read_text()),
        "daemons.json": lambda: json.loads((state_dir / "daemons.json").read_text()),
        "snapshot.json": lambda: _snapshot(state_dir),
        "doctor.json": lambda: _findings(state_dir),
    }
    members: dict[str, bytes] = {}
    for name, make in parts.items():
        try:
            content = make()
        except Exception as error:  # a fault is why this is run: one part must not cost the others
            content = {"error": f"{type(error).__name__}: {error}"}
        members[name] = (json.dumps(content, indent=1, default=str) + "\n").encode()
    for path in sorted((state_dir / "log").glob("*.log")):
        members[f"log/{path.name}"] = _tail(path)
    hide = _secrets(state_dir)
    return {name: _without(content, hide) for name, content in members.items()}


def _versions() -> dict[str, Any]:
    wanted = ("click", "cloudpickle", "cryptography", "grpcio", "msgpack", "numpy", "protobuf", "rfaas", "rich")
    return {
        "rfaas": rfaas.__version__,
        "python": sys.version,
        "executable": sys.executable,
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "packages": {d.name: d.version for d in distributions() if d.name.lower() in wanted},
    }


def _settings() -> Any:  # noqa: ANN401 - JSON
    from rfaas.cli.config import as_json_value
    from rfaas.settings import Settings

    return [as_json_value(found) for found in Settings.load().all()]


def _listing(state_dir: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted([state_dir, *state_dir.rglob("*")]):
        about = path.lstat()
        row = {"path": str(path), "mode": f"{about.st_mode:o}", "uid": about.st_uid, "size_bytes": about.st_size}
        rows.append({**row, "mtime_s": about.st_mtime})
    return rows


def _snapshot(state_dir: Path) -> dict[str, Any]:
    from rfaas.cli.asking import snapshot
    from rfaas.cli.status import snapshot_json

    return snapshot_json(snapshot(state_dir))


def _findings(state_dir: Path) -> list[dict[str, str]]:
    from rfaas.doctor import examine

    return [finding._asdict() for finding in examine(state_dir)]


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
            return file.read()
    except OSError as error:
        return f"{error}\n".encode()


def _secrets(state_dir: Path) -> list[bytes]:
    """The forms in which the secret could stand in a text; nothing if it can't be read."""
    try:
        secret = (state_dir / "secret").read_bytes()
    except OSError:
        return []
    return [secret, secret.hex().encode(), secret.hex().upper().encode()] if secret else []


def _without(content: bytes, secrets: list[bytes]) -> bytes:
    for secret in secrets:
        content = content.replace(secret, HIDDEN.encode())
    return content
