"""Checkpoints of one name in one directory: parts that ranks write by themselves, made one by a manifest.

A part is never rewritten: its name holds sequence, attempt and rank. A checkpoint exists when its manifest has its
name, which is given once and durably, after all parts are durable; so whoever is killed at any moment leaves the one
before as it was. The last two are kept. Knows nothing of MPI: `run` calls it on each rank. Spec:
docs/spec/011-checkpoint.md.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rfaas.elastic.blocks import Box, extent, overlap, slices
from rfaas.elastic.errors import CheckpointDamaged, CheckpointMismatch, CheckpointSuperseded
from rfaas.elastic.files import Files
from rfaas.elastic.format import (
    PART_HEAD,
    REMEDY,
    Array,
    Block,
    Manifest,
    Part,
    check_part_head,
    decode_manifest,
    encode_manifest,
    encode_part_head,
)
from rfaas_transport._core import crc32c
from rfaas_transport.errors import ConfigError

KEPT = 2
Values = npt.NDArray[Any]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]{0,63}")


class Store:
    """The checkpoints of a name.

    Args:
        directory: on a file system that all ranks of all attempts see.
        name: letters, digits, `_` and `.`; others in the directory are left alone.
        files: how files are written.

    Raises:
        ConfigError: a name that makes no file names.
    """

    def __init__(self, directory: str | os.PathLike[str], name: str, files: Files | None = None) -> None:
        if not NAME.fullmatch(name):
            raise ConfigError(
                f"{name!r} is no name of a checkpoint", hint="use at most 64 letters, digits, '_' and '.'"
            )
        self.name = name
        self.files = files or Files(Path(directory))
        self.attempt = secrets.token_hex(8)
        self._manifest_name = re.compile(re.escape(name) + r"-(\d{8,})\.manifest")
        self._any_name = re.compile(re.escape(name) + r"-(\d{8,})[-.].*")

    def sequences(self) -> list[int]:
        """Those that have a manifest, whole or not, newest first. Raises OSError."""
        found = (self._manifest_name.fullmatch(name) for name in self.files.names())
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def manifest(self, sequence: int) -> Manifest:
        """What a checkpoint consists of. Raises CheckpointDamaged, OSError."""
        name = self._manifest_of(sequence)
        found = decode_manifest(self.files.read(name), name)
        if found.sequence != sequence:
            raise CheckpointDamaged(f"{name} says that it is number {found.sequence}", hint=REMEDY)
        return found

    def _manifest_of(self, sequence: int) -> str:
        return f"{self.name}-{sequence:08d}.manifest"

    # --- writing --------------------------------------------------------------------------------------------------

    def write_part(self, sequence: int, rank: int, blocks: Sequence[tuple[int, Box, Values]]) -> Part:
        """Write what a rank owns; durable when it returns.

        Args:
            sequence: of the checkpoint that is being made.
            rank: whose part it is.
            blocks: (number of the array, points of it, their values); borrowed until it returns.

        Raises:
            OSError: nothing counts that was written.
        """
        name = f"{self.name}-{sequence:08d}-{self.attempt}-{rank:05d}.part"
        pieces: list[bytes | memoryview] = [encode_part_head(sequence, self.attempt, rank)]
        described, offset = [], PART_HEAD.size
        for number, box, values in blocks:
            # an array of no points has no bytes to be cast to
            piece = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data if values.size else b""
            described.append(Block(number, box, offset, len(piece), crc32c(piece)))
            pieces.append(piece)
            offset += len(piece)
        self.files.write(name, pieces)
        self.files.sync_names()
        return Part(name, offset, tuple(described))

    def commit(self, manifest: Manifest) -> None:
        """Make parts that are durable a checkpoint, then remove what is not needed any more.

        Raises:
            CheckpointSuperseded: there is one of that sequence: another run writes here.
            OSError: it may or may not be a checkpoint; the one before is whole.
        """
        name = self._manifest_of(manifest.sequence)
        temporary = f"{self.name}-{manifest.sequence:08d}-{manifest.attempt}.tmp"
        self.files.write(temporary, [encode_manifest(manifest)])
        try:
            self.files.publish(temporary, name)
        except FileExistsError:
            self.files.remove(temporary)
            raise CheckpointSuperseded(
                f"{name} was written by another run of the program, which must be running still or have run meanwhile",
                hint="let only one job at a time use this directory and name; start this one again",
            ) from None
        self.files.sync_names()
        self._tidy(manifest)

    def _tidy(self, newest: Manifest) -> None:
        """Remove checkpoints that are older than the last two, and parts that never became one."""
        kept = self.sequences()[:KEPT]
        needed = {part.file for part in newest.parts} | {self._manifest_of(sequence) for sequence in kept}
        for sequence in kept:
            if sequence != newest.sequence:
                try:
                    needed |= {part.file for part in self.manifest(sequence).parts}
                except CheckpointDamaged:
                    continue
        for name in self.files.names():
            match = self._any_name.fullmatch(name)
            if match and int(match[1]) <= newest.sequence and name not in needed:
                self.files.remove(name)

    def discard(self) -> None:
        """Remove all checkpoints of this name, manifests first. Raises OSError."""
        ours = [name for name in self.files.names() if self._any_name.fullmatch(name)]
        for name in sorted(ours, key=lambda name: not name.endswith(".manifest")):
            self.files.remove(name)

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, manifest: Manifest, array: int, box: Box) -> Values:
        """The values of some points of a global array, from whichever parts have them; each block read is verified.

        Returns:
            An array of the box's shape; the caller's own.

        Raises:
            CheckpointDamaged: a part is missing, torn, altered or of another checkpoint, or no part has a point.
            OSError: a part can't be read.
        """
        about = manifest.arrays[array]
        values = np.empty(extent(box), np.dtype(about.dtype))
        n_filled = 0
        for part in manifest.parts:
            for block in part.blocks:
                both = overlap(block.box, box) if block.array == array else None
                if both is not None:
                    held = self._block(manifest, part, block, values.dtype)
                    values[slices(both, box)] = held[slices(both, block.box)]
                    n_filled += int(np.prod(extent(both)))
        if n_filled != values.size:
            raise CheckpointDamaged(
                f"{values.size - n_filled} points of {about.name} are in no part of checkpoint {manifest.sequence}",
                hint=REMEDY,
            )
        return values

    def _block(self, manifest: Manifest, part: Part, block: Block, dtype: np.dtype[Any]) -> Values:
        path = self.files.directory / part.file
        try:
            with path.open("rb") as file:
                n_bytes = os.fstat(file.fileno()).st_size
                head = file.read(PART_HEAD.size)
                file.seek(block.offset)
                content = file.read(block.n_bytes)
        except FileNotFoundError:
            raise CheckpointDamaged(f"{part.file} is missing", hint=REMEDY) from None
        if n_bytes != part.n_bytes:
            raise CheckpointDamaged(f"{part.file} has {n_bytes} bytes instead of {part.n_bytes}", hint=REMEDY)
        check_part_head(head, manifest, part.file)
        if crc32c(content) != block.crc:
            raise CheckpointDamaged(f"{part.file} was altered: a block has another checksum", hint=REMEDY)
        shape = extent(block.box)
        if len(content) != int(np.prod(shape)) * dtype.itemsize:
            raise CheckpointDamaged(f"{part.file} has a block of another size than its points have", hint=REMEDY)
        return np.frombuffer(content, dtype).reshape(shape)


def check_fits(manifest: Manifest, app: str, app_version: str, arrays: Iterable[Array]) -> None:
    """Whether a checkpoint is one of this program.

    Raises:
        CheckpointMismatch: says what differs first.
    """
    remedy = "run the program that wrote it, or give this one another name or directory"
    if (manifest.app, manifest.app_version) != (app, app_version):
        raise CheckpointMismatch(
            f"the checkpoint is of {manifest.app} version {manifest.app_version}, the program is {app} version"
            f" {app_version}",
            hint=remedy,
        )
    theirs, ours = {a.name: a for a in manifest.arrays}, {a.name: a for a in arrays}
    for name in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(name), ours.get(name)
        if there is None or here is None:
            where = "the checkpoint" if there is None else "the program"
            raise CheckpointMismatch(f"{where} has no array {name!r}", hint=remedy)
        if there.shape != here.shape:
            raise CheckpointMismatch(f"{name!r} is {there.shape} in the checkpoint, {here.shape} here", hint=remedy)
        if there.dtype != here.dtype:
            raise CheckpointMismatch(f"{name!r} is {there.dtype} in the checkpoint, {here.dtype} here", hint=remedy)
