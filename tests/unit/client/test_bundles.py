"""Files on their way: names that can only mean a place below, equal bytes for equal files, caps, links."""

import os

import msgpack
import pytest

from rfaas.client import shipping
from rfaas.client.bundles import File, check_name, decode, encode
from rfaas_transport.errors import ConfigError, PayloadTooLarge

MIB = 1 << 20


def test_equal_files_make_equal_bytes_in_any_order():
    files = [File("b/c.txt", False, b"2"), File("a.py", True, b"1")]
    assert encode(files) == encode(files[::-1])
    assert decode(encode(files)) == sorted(files)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../x", "leads out"),
        ("a/../../x", "leads out"),
        ("/etc/passwd", "absolute"),
        ("a//b", "empty part"),
        ("./a", "empty part"),
        ("a/", "empty part"),
        ("", "no name"),
        (None, "no name"),
        ("a\0b", "character"),
        ("a\\..\\b", "character"),
        ("x" * 256, "too long"),
        ("a/" * 600 + "b", "too long"),
        ("\ud800", "no text"),
    ],
)
def test_names_that_won_t_do(name, said):
    with pytest.raises(ValueError, match=said):
        check_name(name)


@pytest.mark.parametrize(
    ("names", "said"),
    [(["a", "a"], "two files"), (["a", "a/b"], "wants it to be a directory"), (["a/b/c", "a/b"], "wants it")],
)
def test_files_in_each_other_s_way(names, said):
    with pytest.raises(ValueError, match=said):
        encode([File(name, False, b"") for name in names])


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xc1",
        msgpack.packb([]),
        msgpack.packb({"files": 2, "entries": []}),
        msgpack.packb({"files": 1, "entries": {}}),
        msgpack.packb({"files": 1, "entries": [["a", 1, b""]]}),
        msgpack.packb({"files": 1, "entries": [["a", True]]}),
        msgpack.packb({"files": 1, "entries": [["../a", True, b""]]}),
    ],
)
def test_what_is_no_bundle_is_refused(blob):
    with pytest.raises(ValueError, match=r"no bundle|leads out"):
        decode(blob)


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "sub" / "data.txt").write_text("data")
    (tmp_path / "pkg" / "__pycache__").mkdir()
    (tmp_path / "pkg" / "__pycache__" / "x.pyc").write_text("stale")
    (tmp_path / "tool.sh").write_text("#!/bin/sh\n")
    (tmp_path / "tool.sh").chmod(0o755)
    return tmp_path


def names_of(bundle):
    return {file.name: file.executable for file in decode(bundle.blob)}


def test_files_and_directories_are_read_under_their_last_part(tree):
    bundle = shipping.read([tree / "pkg", str(tree / "tool.sh")], MIB)
    assert names_of(bundle) == {"pkg/__init__.py": False, "pkg/sub/data.txt": False, "tool.sh": True}
    assert bundle.modules >= {"pkg"}


def test_a_mapping_gives_other_names(tree):
    bundle = shipping.read({"in/one.txt": tree / "pkg" / "sub" / "data.txt", "lib": tree / "pkg"}, MIB)
    assert set(names_of(bundle)) == {"in/one.txt", "lib/__init__.py", "lib/sub/data.txt"}


def test_nothing_named_is_nothing(tree):
    assert shipping.read(None, MIB) is None
    assert shipping.read([], MIB) is None


def test_links_inside_are_followed_and_those_that_lead_out_are_refused(tree):
    (tree / "pkg" / "alias.txt").symlink_to("sub/data.txt")
    assert "pkg/alias.txt" in names_of(shipping.read([tree / "pkg"], MIB))
    (tree / "pkg" / "out.txt").symlink_to("/etc/hostname")
    with pytest.raises(ConfigError, match=r"out\.txt is a symbolic link that leads out of"):
        shipping.read([tree / "pkg"], MIB)


def test_a_link_to_a_directory_is_refused(tree):
    (tree / "pkg" / "loop").symlink_to("..")
    with pytest.raises(ConfigError, match="symbolic link to a directory"):
        shipping.read([tree / "pkg"], MIB)


def test_a_link_that_is_named_itself_is_followed(tree):
    (tree / "named").symlink_to("tool.sh")
    assert set(names_of(shipping.read([tree / "named"], MIB))) == {"named"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ("helpers.py", "is no list of paths"),
        (b"helpers.py", "can't be shipped|is no list"),
        (7, "is no list of paths"),
        (["/proc/nonexistent/x"], "can't be shipped: .*No such file"),
        ([7], "can't be shipped"),
        ({"../x": "/etc/hostname"}, "leads out of the directory"),
        ([""], "'' names nothing"),
        ({"there": ""}, "'' names nothing"),
        (["/dev/null"], "neither a file nor a directory"),
        (["/etc/hostname", "/etc/../etc/hostname"], "two files of the name 'hostname'"),
    ],
)
def test_what_can_t_be_shipped_says_why(files, said):
    with pytest.raises(ConfigError, match=said):
        shipping.read(files, MIB)


def test_a_named_pipe_is_refused_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="neither a file nor a directory"):
        shipping.read([tmp_path / "pipe"], MIB)


@pytest.mark.parametrize("over_bytes", [-1, 0, 1])
def test_the_limit_is_exact_and_named(tmp_path, over_bytes):
    (tmp_path / "a").write_bytes(b"x" * 600)
    (tmp_path / "b").write_bytes(b"x" * (400 + over_bytes))
    if over_bytes <= 0:
        assert len(decode(shipping.read([tmp_path], 1000).blob)) == 2
    else:
        with pytest.raises(PayloadTooLarge, match="more bytes than files_limit, which is 1000"):
            shipping.read([tmp_path], 1000)
