"""T39: uploads that try to leave their directory: nothing is ever written, or read, outside of it."""

import itertools
import os
import shutil
import tempfile
import threading
import time

import msgpack
import pytest

from rfaas.client import shipping
from rfaas.client.bundles import File, encode
from rfaas_executors import placing
from rfaas_transport.errors import ConfigError

pytestmark = pytest.mark.figures

SWAPS_S = 60.0 if os.environ.get("RFAAS_SOAK") else 1.5

PARTS = ["..", ".", "", "/", "\0", "\\", "a", "x" * 300, "/etc", "..\\..", "\ud800", " ..", "... ", "~", "$HOME", "CON"]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Only `scratch/tmp` may ever be written to."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "outside").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def outside_of(scratch):
    """What lies outside of the directory that may be written to."""
    found = [path for path in scratch.rglob("*") if not path.is_relative_to(scratch / "tmp")]
    return sorted(path.relative_to(scratch).as_posix() for path in found if path != scratch / "tmp")


def raw(names):
    """A bundle as only an attacker writes it."""
    packed = [msgpack.packb(name, unicode_errors="surrogatepass") for name in names]
    entries = b"".join(b"\x93" + name + b"\xc2" + msgpack.packb(b"evil") for name in packed)
    return b"\x82" + msgpack.packb("files") + b"\x01" + msgpack.packb("entries") + bytes([0x90 + len(names)]) + entries


def test_two_hundred_bundles_with_names_that_lead_elsewhere(scratch):
    names = ["/".join(parts) for n in (1, 2, 3) for parts in itertools.product(PARTS[:9], repeat=n)]
    names += PARTS + [f"ok/{part}/../../../outside/x" for part in PARTS] + [str(scratch / "outside" / "x")]
    refused = written = 0
    for number, name in enumerate(names):
        try:
            directory = placing.place(raw([name]), f"{number:064x}")
        except (ValueError, OSError):
            refused += 1
        else:
            written += 1
            (file,) = [path for path in __import__("pathlib").Path(directory).rglob("*") if path.is_file()]
            assert file.read_bytes() == b"evil"
    print(f"{len(names)} names: {refused} refused, {written} written below their directory")
    assert refused >= 200
    assert written >= 1  # those that are odd and harmless
    assert outside_of(scratch) == ["outside"]
    left = [path for path in (scratch / "tmp").rglob(".new-*")]
    assert left == []


def test_a_home_that_somebody_else_prepared_is_refused(scratch):
    home = placing.home(os.getppid())
    blob = encode([File("x", False, b"evil")])
    home.symlink_to(scratch / "outside")
    with pytest.raises(OSError, match=r"File exists|not this user's alone"):
        placing.place(blob, "0" * 64)
    home.unlink()
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    with pytest.raises(PermissionError, match="not this user's alone"):
        placing.place(blob, "0" * 64)
    assert outside_of(scratch) == ["outside"]


def test_directories_that_are_swapped_for_links_while_files_are_written(scratch):
    """TOCTOU: another process of the user's replaces directories by links to the outside, all the time."""
    blob = encode([File(f"d{n}/e/f{n}", False, b"evil") for n in range(20)])
    home = placing.home(os.getppid())
    stop = threading.Event()
    swaps = 0

    def swap():
        nonlocal swaps
        while not stop.is_set():
            try:
                found = list(home.glob(".new-*/d*"))
            except OSError:  # they come and go while they are listed
                continue
            for new in found:
                try:
                    os.rename(new, f"{new}.away")
                    os.symlink(scratch / "outside", new)
                    swaps += 1
                except OSError:
                    continue

    swapper = threading.Thread(target=swap)
    swapper.start()
    until_s, tries, failed = time.monotonic() + SWAPS_S, 0, 0
    try:
        while time.monotonic() < until_s:
            tries += 1
            try:
                placing.place(blob, f"{tries:064x}")
            except OSError:
                failed += 1
            if tries % 50 == 0:
                shutil.rmtree(home, ignore_errors=True)
    finally:
        stop.set()
        swapper.join()
    print(f"{tries} bundles of 20 files in {SWAPS_S:g} s, {swaps} swaps under way, {failed} uploads failed of them")
    assert outside_of(scratch) == ["outside"]
    assert tries > 1


def test_links_that_are_swapped_while_files_are_read(scratch):
    """The same at the client: nothing outside of the directory that the user named is ever read."""
    tree = scratch / "tmp" / "tree"
    tree.mkdir()
    (scratch / "outside" / "secret").write_text("secret")
    (tree / "inside").write_text("public")
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for target in ("inside", scratch / "outside" / "secret"):
                os.symlink(target, tree / ".new")
                os.replace(tree / ".new", tree / "link")

    swapper = threading.Thread(target=swap)
    swapper.start()
    until_s, read, refused = time.monotonic() + SWAPS_S, 0, 0
    try:
        while time.monotonic() < until_s:
            try:
                bundle = shipping.read([tree], 1 << 20)
            except ConfigError:
                refused += 1
            else:
                read += 1
                assert b"secret" not in bundle.blob
    finally:
        stop.set()
        swapper.join()
    print(f"{read} read, {refused} refused")
    assert read + refused > 1
