"""Checkpoint files: whole or refused, whatever was torn, and readable at any other number of ranks."""

import dataclasses
import errno
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfaas.elastic.blocks import decompose, slices
from rfaas.elastic.errors import CheckpointDamaged, CheckpointMismatch, CheckpointSuperseded
from rfaas.elastic.files import Files
from rfaas.elastic.format import Array, Manifest, decode_manifest, encode_manifest
from rfaas.elastic.store import Store, check_fits
from rfaas_transport.errors import ConfigError


def whole(shape):
    return tuple((0, points) for points in shape)


def save(store, values, n_ranks, sequence, axes=(0,), iteration=7, state=None):
    """What all ranks of a run do together."""
    cut = decompose(values.shape, axes, n_ranks)
    parts = [
        store.write_part(sequence, rank, [(0, cut.owned(rank), values[slices(cut.owned(rank), whole(values.shape))])])
        for rank in range(n_ranks)
    ]
    about = Array("field", values.shape, values.dtype.str)
    store.commit(Manifest("app", "1", sequence, store.attempt, iteration, (about,), tuple(parts), state or {"seed": 3}))


@pytest.fixture
def saved(tmp_path):
    store = Store(tmp_path, "app")
    values = np.arange(12.0).reshape(4, 3)
    save(store, values, 2, 1)
    return store, values, tmp_path


def test_what_was_saved_is_read(saved):
    store, values, _ = saved
    assert store.sequences() == [1]
    manifest = store.manifest(1)
    assert (manifest.iteration, manifest.state) == (7, {"seed": 3})
    assert np.array_equal(store.read(manifest, 0, whole(values.shape)), values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(4, 12), st.integers(4, 12), st.integers(1, 2)),
    before=st.integers(1, 4),
    after=st.integers(1, 4),
    axes=st.sampled_from([(0,), (1,), (0, 1)]),
    axes_after=st.sampled_from([(0,), (1,), (0, 1)]),
    halo=st.integers(0, 1),
    dtype=st.sampled_from(["f8", "f4", "i2", "c16", "?", ">i4"]),
)
def test_any_number_of_ranks_reads_what_any_other_wrote(tmp_path, shape, before, after, axes, axes_after, halo, dtype):
    store = Store(tmp_path, "app")
    values = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    sequence = 1 + max(store.sequences(), default=0)
    save(store, values, before, sequence, axes)
    manifest = store.manifest(sequence)
    cut = decompose(shape, axes_after, after, halo)
    for rank in range(after):
        box = cut.with_halo(rank)
        got = store.read(manifest, 0, box)
        assert got.dtype == values.dtype
        assert np.array_equal(got, values[slices(box, whole(shape))])


def test_a_manifest_torn_or_altered_at_any_byte_is_refused(saved):
    store, _, folder = saved
    data = (folder / "app-00000001.manifest").read_bytes()
    for length in range(len(data)):
        with pytest.raises(CheckpointDamaged):
            decode_manifest(data[:length], "it")
    for at in range(len(data)):
        with pytest.raises(CheckpointDamaged):
            decode_manifest(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "it")
    with pytest.raises(CheckpointDamaged):
        decode_manifest(data + b"x", "it")
    assert decode_manifest(data, "it") == store.manifest(1)


def test_a_part_torn_or_altered_at_any_byte_is_refused(saved):
    store, values, folder = saved
    manifest = store.manifest(1)
    part = folder / manifest.parts[1].file
    data = part.read_bytes()
    for broken in [data[:length] for length in range(len(data))] + [
        data[:at] + bytes([data[at] ^ 128]) + data[at + 1 :] for at in range(len(data))
    ]:
        part.write_bytes(broken)
        with pytest.raises(CheckpointDamaged):
            store.read(manifest, 0, whole(values.shape))
    part.write_bytes(data + b"x")
    with pytest.raises(CheckpointDamaged):
        store.read(manifest, 0, whole(values.shape))
    part.unlink()
    with pytest.raises(CheckpointDamaged, match=r"is missing\n.*remedy: "):
        store.read(manifest, 0, whole(values.shape))
    part.write_bytes(data)
    assert np.array_equal(store.read(manifest, 0, whole(values.shape)), values)


def test_a_part_of_another_checkpoint_is_refused(saved):
    store, values, folder = saved
    first = store.manifest(1)
    save(store, values, 2, 2)
    second = store.manifest(2)
    (folder / second.parts[0].file).replace(folder / first.parts[0].file)
    with pytest.raises(CheckpointDamaged, match="belongs to another checkpoint"):
        store.read(first, 0, whole(values.shape))


def test_points_that_no_part_has_are_refused(saved):
    store, values, _ = saved
    manifest = store.manifest(1)
    less = dataclasses.replace(manifest, parts=manifest.parts[:1])
    with pytest.raises(CheckpointDamaged, match="6 points of field are in no part"):
        store.read(less, 0, whole(values.shape))


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"parts": [{"file": "../x", "n_bytes": 1, "blocks": []}]}, {"arrays": 3}]
)
def test_a_manifest_that_means_something_else_is_refused(change, monkeypatch):
    import msgpack

    from rfaas.elastic import format as form

    if "version" in change:
        monkeypatch.setattr(form, "VERSION", 2)
    manifest = Manifest("app", "1", 1, "00" * 8, 0, (), ())
    data = encode_manifest(manifest)
    monkeypatch.undo()
    if "version" not in change:
        body = msgpack.packb({**dataclasses.asdict(manifest), **change})
        head = form.MANIFEST_HEAD.pack(form.MANIFEST_MAGIC, 1, len(body), form.crc32c(body), 0)[:-4]
        data = head + form.crc32c(head).to_bytes(4, "little") + body
    with pytest.raises(CheckpointDamaged, match=r"version 2|can't be understood"):
        decode_manifest(data, "it")


class Killed(BaseException):
    """The process is gone: nothing after it ran."""


class Dying(Files):
    """Files of a process that is killed in its n-th step; a write may have got half way."""

    def __init__(self, directory, steps_left):
        super().__init__(directory)
        self.steps_left = steps_left

    def _step(self):
        self.steps_left -= 1
        if self.steps_left < 0:
            raise Killed

    def write_all(self, descriptor, piece):
        half = memoryview(piece).cast("B")
        try:
            self._step()
        except Killed:
            os.write(descriptor, half[: len(half) // 2])
            raise
        super().write_all(descriptor, piece)

    def publish(self, temporary, name):
        self._step()
        os.link(self.directory / temporary, self.directory / name)
        self._step()
        os.unlink(self.directory / temporary)

    def sync_names(self):
        self._step()
        super().sync_names()

    def remove(self, name):
        self._step()
        super().remove(name)


def test_killed_at_any_step_the_checkpoint_before_or_the_new_one_is_whole(tmp_path):
    n_steps, ended = 0, False
    seen = set()
    while not ended:
        folder = tmp_path / str(n_steps)
        folder.mkdir()
        values = [np.full((4, 3), float(sequence)) for sequence in range(4)]
        for sequence in (1, 2):
            save(Store(folder, "app"), values[sequence], 2, sequence, iteration=sequence)
        try:
            save(Store(folder, "app", Dying(folder, n_steps)), values[3], 3, 3, iteration=3)
            ended = True
        except Killed:
            n_steps += 1
        after = Store(folder, "app")
        newest = after.manifest(after.sequences()[0])
        assert newest.iteration in (2, 3)
        assert np.array_equal(after.read(newest, 0, whole((4, 3))), values[newest.iteration])
        seen.add(newest.iteration)
        save(after, values[0], 1, newest.sequence + 1)  # who comes next tidies up
        assert len(after.sequences()) == 2
        kept = {part.file for sequence in after.sequences() for part in after.manifest(sequence).parts}
        assert {name for name in os.listdir(folder) if not name.endswith(".manifest")} == kept
    assert seen == {2, 3}
    assert n_steps > 10


def test_the_last_two_are_kept_and_others_things_left_alone(saved):
    store, values, folder = saved
    (folder / "app-notes.txt").write_text("mine")
    (folder / "app2-00000001.manifest").write_text("another name's")
    for sequence in (2, 3, 4):
        save(store, values, sequence, sequence)
    assert store.sequences() == [4, 3]
    assert len(list(folder.glob("app-*.part"))) == 7
    store.discard()
    assert sorted(os.listdir(folder)) == ["app-notes.txt", "app2-00000001.manifest"]


def test_of_two_runs_that_write_the_same_checkpoint_one_is_told(saved):
    store, values, folder = saved
    other = Store(folder, "app")
    save(store, values, 2, 2)
    with pytest.raises(CheckpointSuperseded, match=r"written by another run"):
        save(other, values + 1, 2, 2)
    assert np.array_equal(store.read(store.manifest(2), 0, whole(values.shape)), values)
    assert not list(folder.glob("*.tmp"))


def test_where_there_are_no_hard_links_names_are_given_by_renaming(saved, monkeypatch):
    store, values, _ = saved

    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    save(store, values, 2, 2)
    assert store.sequences() == [2, 1]
    with pytest.raises(CheckpointSuperseded):
        save(Store(store.files.directory, "app"), values, 2, 2)


def test_a_full_disk_leaves_the_checkpoint_before(saved, monkeypatch):
    store, values, _ = saved

    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="no space left"):
            save(store, values, 2, 2)
    assert store.sequences() == [1]


@pytest.mark.parametrize(
    ("app", "version", "arrays", "what"),
    [
        ("other", "1", [Array("field", (4, 3), "<f8")], "is of app version 1, the program is other version 1"),
        ("app", "2", [Array("field", (4, 3), "<f8")], "is of app version 1, the program is app version 2"),
        ("app", "1", [Array("field", (3, 4), "<f8")], r"is \(4, 3\) in the checkpoint, \(3, 4\) here"),
        ("app", "1", [Array("field", (4, 3), "<f4")], "is <f8 in the checkpoint, <f4 here"),
        ("app", "1", [], "the program has no array 'field'"),
        ("app", "1", [Array("field", (4, 3), "<f8"), Array("z", (1,), "<f8")], "the checkpoint has no array 'z'"),
    ],
)
def test_a_checkpoint_of_another_program_is_refused_with_what_differs(saved, app, version, arrays, what):
    store, _, _ = saved
    with pytest.raises(CheckpointMismatch, match=what):
        check_fits(store.manifest(1), app, version, arrays)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "x" * 65, "a b"])
def test_names_that_make_no_files_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="no name of a checkpoint"):
        Store(tmp_path, name)
