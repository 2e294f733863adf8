"""Where an allocator is and how it proves itself: `allocator.json` and the key pair of a state directory.

Loads neither grpc nor protobuf, so that anything may ask whether an allocator runs. Must not create a state directory
for a reader: only the allocator writes there. Spec: docs/spec/003-control.md, "State directory".
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rfaas_transport.errors import AllocatorUnavailable, ConfigError

SCHEMA: Final = "rfaas/1"
FILE_NAME: Final = "allocator.json"
PROBE_TIMEOUT_S: Final = 0.5  # connecting to a unix socket takes microseconds, or its owner hangs


@dataclass(frozen=True, slots=True)
class AllocatorAddress:
    """What `allocator.json` says.

    Attributes:
        state_dir: the directory it was read from.
        unix: path of the unix socket.
        tls: "host:port" beyond this host, or empty.
        host, netns: host name and network namespace of the allocator.
        pid: its process, in its own pid namespace.
        started_boot_ns: when that process began to serve, CLOCK_BOOTTIME.
        alloc_id: 32 hex digits, made once for a state directory.
        mode: "personal".
    """

    state_dir: Path
    unix: str
    tls: str
    host: str
    netns: int
    pid: int
    started_boot_ns: int
    alloc_id: str
    mode: str = "personal"

    @classmethod
    def load(cls, state_dir: str | os.PathLike[str]) -> AllocatorAddress:
        """Read the address of the allocator that serves `state_dir`.

        Raises:
            ConfigError: directory or file can be written or read by others, or the file makes no sense.
            AllocatorUnavailable: there is no such file, as far as this user can see: no allocator runs there.
        """
        directory = Path(state_dir).expanduser().absolute()
        path = directory / FILE_NAME
        try:
            check_private(path)  # first: without it this may be any directory, whose mode is no business of ours
            check_private(directory, directory=True)
            about = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise AllocatorUnavailable(
                f"no allocator serves {directory}", hint="start one with `rfaas up`, or name another state directory"
            ) from None
        except PermissionError:
            raise AllocatorUnavailable(
                f"no allocator of yours serves {directory}: permission denied", hint="name a directory of your own"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{path} can't be read: {error}", hint=f"remove {path} and run `rfaas up`") from error
        return cls._from_json(about, directory)

    @classmethod
    def _from_json(cls, about: object, directory: Path) -> AllocatorAddress:
        remedy = f"remove {directory / FILE_NAME} and run `rfaas up`"
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            raise ConfigError(f"{directory / FILE_NAME} is not of schema {SCHEMA}", hint=remedy)
        try:
            return cls(
                state_dir=directory,
                unix=str(about["unix"]),
                tls=str(about["tls"] or ""),
                host=str(about["host"]),
                netns=int(about["netns"]),
                pid=int(about["pid"]),
                started_boot_ns=int(about["started_boot_ns"]),
                alloc_id=str(about["alloc_id"]),
                mode=str(about["mode"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"{directory / FILE_NAME} lacks or garbles {error}", hint=remedy) from error

    @property
    def local(self) -> bool:
        """True if the allocator's unix socket is one of this host (host name and network namespace are equal)."""
        return self.host == socket.gethostname() and self.netns == network_namespace()

    @property
    def alive(self) -> bool:
        """False if nobody answers at the unix socket; of an allocator elsewhere nobody can tell from here: True."""
        if not self.local:
            return True
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_TIMEOUT_S)
            try:
                probe.connect(self.unix)
            except OSError:
                return False
        return True

    @property
    def key_file(self) -> Path:
        """The private key that both sides of a TLS connection show."""
        return self.state_dir / "tls.key"

    @property
    def certificate_file(self) -> Path:
        """Its certificate: the only one either side accepts."""
        return self.state_dir / "tls.crt"

    def write(self) -> None:
        """Publish it in its state directory, all at once."""
        about = {"schema": SCHEMA, **asdict(self)}
        del about["state_dir"]
        write_private(self.state_dir / FILE_NAME, (json.dumps(about, indent=1) + "\n").encode())

    def remove(self) -> None:
        """Take back what `write` published, if nobody else has published since; repeatable."""
        with contextlib.suppress(OSError, ConfigError, AllocatorUnavailable):
            if AllocatorAddress.load(self.state_dir) == self:
                (self.state_dir / FILE_NAME).unlink()


def network_namespace() -> int:
    """Inode of this process's network namespace."""
    return os.stat("/proc/self/ns/net").st_ino


def boot_time_ns() -> int:
    """Now, on CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def check_private(path: Path, *, directory: bool = False) -> None:
    """See that only this user can read and change a file or directory of the state.

    Raises:
        ConfigError: it belongs to somebody else, is not what it should be, or others have rights; nothing was changed.
        FileNotFoundError: there is none.
    """
    about = path.lstat()
    kind_is_right = stat.S_ISDIR(about.st_mode) if directory else stat.S_ISREG(about.st_mode)
    if not kind_is_right:
        raise ConfigError(f"{path} is no {'directory' if directory else 'regular file'}", hint=f"move {path} away")
    if about.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to uid {about.st_uid}, this is uid {os.geteuid()}",
            hint="name a state directory of your own with RFAAS_STATE_DIR",
        )
    if about.st_mode & 0o077:
        mode = "700" if directory else "600"
        raise ConfigError(
            f"{path} has mode {stat.S_IMODE(about.st_mode):o}: others can get at it", hint=f"chmod {mode} {path}"
        )


def write_private(path: Path, content: bytes) -> None:
    """Write a 0600 file so that a reader finds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(content)
            file.flush()
            os.fsync(fd)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
