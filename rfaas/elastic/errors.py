"""What can go wrong with a checkpoint: one class for each thing that the user can do about it.

Of the family of rfaas' errors, but never on the wire, so they are not in the table of spec 001; that of spec 011 has
them.
"""

from __future__ import annotations

from rfaas_transport.errors import RfaasError


class CheckpointError(RfaasError):
    """Base of what can go wrong with a checkpoint."""

    code = "checkpoint"


class CheckpointDamaged(CheckpointError):
    """A file of a checkpoint is torn, altered or missing. `Run.restore` raises it only when no generation is whole.

    No array has been touched, or its content is undefined; files are as they were.
    """

    code = "checkpoint-damaged"


class CheckpointMismatch(CheckpointError):
    """A whole checkpoint is of another program, version, or set of arrays; no array was touched."""

    code = "checkpoint-mismatch"


class CheckpointFailed(CheckpointError, OSError):
    """A checkpoint could not be written, or read. All ranks get it; files that were whole are whole."""

    code = "checkpoint-failed"
    retriable = True


class CheckpointSuperseded(CheckpointError):
    """Another run of the program has written the next checkpoint meanwhile: this one must not go on."""

    code = "checkpoint-superseded"
