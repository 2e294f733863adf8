"""A program of many iterations that can be stopped at any of them and go on elsewhere, with as many ranks as there are.

Holds together what the modules beside it do: `core` decides, `store` keeps, `ranks` speaks to the others, `notice`
hears. Must not decide anything by a rank's own clock or notice alone: what one rank does, all do.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, TypeVar

import numpy.typing as npt

from rfaas.elastic.arrays import BlockArray
from rfaas.elastic.blocks import decompose
from rfaas.elastic.core import Core, Decision, Word
from rfaas.elastic.ending import AGAIN, Preempted
from rfaas.elastic.errors import CheckpointDamaged, CheckpointError, CheckpointFailed
from rfaas.elastic.format import Manifest, Part
from rfaas.elastic.notice import Notice
from rfaas.elastic.ranks import ranks_of
from rfaas.elastic.store import Store, check_fits
from rfaas.elastic.timeline import Timeline, process_start_ns
from rfaas_transport.errors import ConfigError

log = logging.getLogger(__name__)
T = TypeVar("T")

SIGTERM: Final = 15
LOOK_EVERY_S: Final = 0.05
MTBF_S: Final = 6 * 3600.0


@dataclass(slots=True)
class Statistics:
    """What a run cost beside its iterations, on this rank. Seconds.

    `agreeing_s` is all that is done at boundaries but checkpoints, `n_reductions` of which over all ranks.
    """

    n_iterations: int = 0
    n_reductions: int = 0
    agreeing_s: float = 0.0
    n_checkpoints: int = 0
    checkpoints_s: float = 0.0


class Run:
    """One attempt of a program. Every method but `notify` is collective: all ranks call it, in the same order.

        with elastic.Run("heat", "checkpoints", comm=MPI.COMM_WORLD) as run:
            field = run.array("field", (1000, 1000), split=(0, 1), halo=1)
            if not run.restore():
                field.fill(first_guess)
            for iteration in run.iterations(until=100_000):
                field.exchange()
                field.local = sweep(field)

    Args:
        name: of the program and its files.
        directory: where checkpoints lie; seen by all ranks of all attempts. Made if it isn't there.
        comm: a communicator of mpi4py; None: one process.
        version: what arrays and state mean; change it when an old checkpoint must not be taken.
        every: iterations between two checkpoints without a notice; None: by time.
        interval_s: seconds between them; None: what costs least (Daly), by `mtbf_s` and what the last one took.
        mtbf_s: mean time between two losses without a notice; six hours if you don't say.
        signals: that are a notice, beside calls of `notify`.
        look_every_s: how long a rank that heard a notice may wait until it tells the others; they stop at most twice
            as much later.

    Raises:
        ConfigError: an argument is out of its range.
    """

    def __init__(
        self,
        name: str,
        directory: str | os.PathLike[str],
        *,
        comm: Any = None,  # noqa: ANN401 - mpi4py's, which need not be there
        version: str = "1",
        every: int | None = None,
        interval_s: float | None = None,
        mtbf_s: float = MTBF_S,
        signals: Iterable[int] = (SIGTERM,),
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        if (every is not None and every < 1) or (interval_s is not None and interval_s <= 0) or mtbf_s <= 0:
            raise ConfigError(
                f"no checkpoints each {every} iterations, {interval_s} s or by a loss each {mtbf_s} s",
                hint="every is at least 1, interval_s and mtbf_s are above 0",
            )
        self._ranks = ranks_of(comm)
        self._store = Store(directory, name)
        self._store.attempt = self._ranks.share(self._store.attempt)
        self._version = version
        self._arrays: list[BlockArray] = []
        self._notice = Notice(signals)
        self._core = Core(
            time.monotonic(), look_every_s=look_every_s, every=every, interval_s=interval_s, mtbf_s=mtbf_s
        )
        self._sequence: int | None = None  # of the next checkpoint; None before `restore`
        self._is_done = False  # the loop has come to its end
        self._asked_s = 0.0  # when the reduction under way was begun
        self._timeline = Timeline(
            Path(directory) / f"{name}.timeline.jsonl", writes=self._ranks.rank == 0, attempt=self._store.attempt
        )
        self.iteration = 0
        self.state: dict[str, Any] = {}
        self.statistics = Statistics()

    def __enter__(self) -> Run:
        self._notice.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # after an error the others may never come to a collective call
        if kind is None:
            self._settle()
        if kind is not None and issubclass(kind, Preempted):
            # another rank's notice may have stopped this one before its own signal came; Slurm sends it twice
            self._notice.ignore_from_now()
        else:
            self._notice.stop_listening()

    # --- before the loop ------------------------------------------------------------------------------------------

    def array(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike = "f8",
        *,
        split: tuple[int, ...] = (0,),
        halo: int = 0,
    ) -> BlockArray:
        """A global array that is saved, zero at first, cut along the axes `split` among all ranks.

        Raises:
            ConfigError: it can't be cut so, a name is taken, or `restore` was called before.
        """
        if self._sequence is not None or name in {array.name for array in self._arrays}:
            raise ConfigError(
                f"array {name!r} comes too late, or a second time",
                hint="make all arrays before restore(), each with a name of its own",
            )
        cut = decompose(tuple(shape), tuple(split), self._ranks.size, halo)
        made = BlockArray(name, dtype, cut, self._ranks)
        self._arrays.append(made)
        return made

    def restore(self) -> bool:
        """Fill all arrays (halos too), `iteration` and `state` from the newest whole checkpoint.

        Returns:
            False if there is none: the program begins. Arrays are as they were.

        Raises:
            CheckpointMismatch: the newest is of another program, version or set of arrays.
            CheckpointDamaged: there are checkpoints, and none is whole.
            CheckpointFailed: the directory can't be made, or files can't be read.
            ConfigError: called a second time.
        """
        if self._sequence is not None:
            raise ConfigError("restore() was called before", hint="call it once, before the loop")
        sequences = self._at_first_rank(self._open)
        self._sequence = 1 + max(sequences, default=0)
        first_damage: CheckpointDamaged | None = None
        for sequence in sequences:
            try:
                manifest = self._at_first_rank(partial(self._store.manifest, sequence))
                check_fits(manifest, self._store.name, self._version, [array.about for array in self._arrays])
                self._take(manifest)
            except CheckpointDamaged as damage:
                log.warning("checkpoint damaged sequence=%d: %s", sequence, damage.message)
                self._timeline.add("damaged", sequence=sequence, why=damage.message)
                first_damage = first_damage or damage
                continue
            self._begun(sequence)
            return True
        if first_damage is not None:
            raise first_damage
        self._begun(0)
        return False

    def _open(self) -> list[int]:
        self._store.files.make()
        return self._store.sequences()

    def _take(self, manifest: Manifest) -> None:
        """Read this rank's blocks; nothing is changed unless all ranks could. Raises CheckpointDamaged."""
        number_of = {about.name: number for number, about in enumerate(manifest.arrays)}
        values = []
        outcome: CheckpointError | None = None
        try:
            for array in self._arrays:
                values.append(self._store.read(manifest, number_of[array.name], array.box))
        except CheckpointDamaged as damage:
            outcome = damage
        except OSError as error:
            outcome = CheckpointFailed(f"checkpoint {manifest.sequence} can't be read on {_here()}: {error}")
        outcomes = self._ranks.gather(outcome)
        wrong = self._ranks.share(_worst(outcomes or []))
        if wrong is not None:
            raise wrong
        for array, read in zip(self._arrays, values, strict=True):
            array.local = read
        self.iteration, self.state = manifest.iteration, dict(manifest.state)

    def _begun(self, sequence: int) -> None:
        self._core.began(self.iteration, time.monotonic())
        self._timeline.add(
            "begun",
            sequence=sequence,
            iteration=self.iteration,
            ranks=self._ranks.size,
            process_start_ns=process_start_ns(),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )

    # --- the loop -------------------------------------------------------------------------------------------------

    def iterations(self, until: int) -> Iterator[int]:
        """The numbers of all iterations that are to be done; between two of them all ranks may save, or stop.

        Raises:
            Preempted: a notice was heard by any rank; everything is saved.
            CheckpointFailed: a notice was heard, and the last checkpoint could not be written.
            CheckpointSuperseded: another run of the program goes on meanwhile.
            ConfigError: `restore` was not called, or `state` has what msgpack does not know.
        """
        if self._sequence is None:
            raise ConfigError("the loop begins before restore()", hint="call restore(); it returns False at first")
        while self.iteration < until:
            yield self.iteration
            self.iteration += 1
            self.statistics.n_iterations += 1
            if self.iteration < until:
                self._boundary()
        self._settle()
        self._is_done = True
        self._timeline.add("done", iteration=self.iteration, ranks=self._ranks.size, **self._costs())

    def _boundary(self) -> None:
        began_s = time.monotonic()
        saved_s = self.statistics.checkpoints_s
        decision, word = self._core.at(self.iteration), None
        if self._core.must_collect(self.iteration):
            word = Word(*self._ranks.answer())
            told = self._core.collected(word)
            if told is Decision.STOP:
                self._stop(word)
            decision = told if decision is Decision.GO_ON else decision
        if decision is Decision.CHECKPOINT:
            self.checkpoint()
        said = self._core.ask(self.iteration, time.monotonic(), self._notice.heard_at_s)
        if said is not None:
            self._asked_s = time.monotonic()
            self.statistics.n_reductions += 1
            self._ranks.ask(said.numbers())
        self.statistics.agreeing_s += time.monotonic() - began_s - (self.statistics.checkpoints_s - saved_s)

    def _stop(self, word: Word) -> NoReturn:
        notice_s = word.heard_ago_s + time.monotonic() - self._asked_s
        before_s = self.statistics.checkpoints_s
        failure = self._write()
        if failure is not None:
            raise failure
        self._timeline.add(
            "stopped",
            iteration=self.iteration,
            ranks=self._ranks.size,
            notice_s=notice_s,
            checkpoint_s=self.statistics.checkpoints_s - before_s,
            why=self._notice.why,
            **self._costs(),
        )
        raise Preempted(AGAIN)

    def _settle(self) -> None:
        """Take what is under way, so that no message is left when MPI ends."""
        if self._core.is_asked:
            self._core.collected(Word(*self._ranks.answer()))

    def _costs(self) -> dict[str, float]:
        return {
            "n_iterations": self.statistics.n_iterations,
            "n_reductions": self.statistics.n_reductions,
            "agreeing_s": self.statistics.agreeing_s,
        }

    # --- saving ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> bool:
        """Save now. Returns False, with a warning in the log, if that failed: the one before is whole.

        Raises:
            CheckpointSuperseded, ConfigError: as from `iterations`.
        """
        failure = self._write()
        if failure is None:
            return True
        if not isinstance(failure, CheckpointFailed):
            raise failure
        log.warning("checkpoint failed iteration=%d: %s", self.iteration, failure.message)
        return False

    def _write(self) -> CheckpointError | ConfigError | None:
        """Save on all ranks; the same outcome on all."""
        assert self._sequence is not None
        began_s = time.monotonic()
        blocks = [(number, array.owned_box, array.owned) for number, array in enumerate(self._arrays)]
        outcome: Part | str
        try:
            outcome = self._store.write_part(self._sequence, self._ranks.rank, blocks)
        except OSError as error:
            outcome = f"rank {self._ranks.rank} on {_here()}: {error}"
        outcomes = self._ranks.gather(outcome)
        failure = None if outcomes is None else self._commit(outcomes)
        next_sequence = self._sequence + 1
        failure, took_s, self._sequence = self._ranks.share((failure, time.monotonic() - began_s, next_sequence))
        self._core.saved(self.iteration, time.monotonic(), took_s)
        self.statistics.checkpoints_s += time.monotonic() - began_s
        if failure is None:
            self.statistics.n_checkpoints += 1
            self._timeline.add("checkpoint", iteration=self.iteration, sequence=next_sequence - 1, took_s=took_s)
        return failure

    def _commit(self, outcomes: list[Part | str]) -> CheckpointError | ConfigError | None:
        assert self._sequence is not None
        wrong = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if wrong:
            return CheckpointFailed(f"checkpoint {self._sequence} could not be written: {'; '.join(wrong[:3])}")
        manifest = Manifest(
            self._store.name,
            self._version,
            self._sequence,
            self._store.attempt,
            self.iteration,
            tuple(array.about for array in self._arrays),
            tuple(outcome for outcome in outcomes if isinstance(outcome, Part)),
            self.state,
        )
        try:
            self._store.commit(manifest)
        except CheckpointError as error:
            return error
        except OSError as error:
            return CheckpointFailed(f"checkpoint {self._sequence} could not be completed on {_here()}: {error}")
        except (TypeError, ValueError, OverflowError) as error:
            return ConfigError(
                f"run.state can't be saved: {error}", hint="keep numbers, texts, bytes, lists and dicts in it"
            )
        return None

    def discard(self) -> None:
        """Remove all checkpoints of this name, once the result is safe: the next start begins anew.

        After the loop, notices' signals are ignored from then on: ended by one, the job would come again for nothing.

        Raises:
            CheckpointFailed: a file could not be removed.
        """
        self._at_first_rank(self._store.discard)
        if self._is_done:
            self._notice.ignore_from_now()

    # --- notices --------------------------------------------------------------------------------------------------

    def notify(self, notice: object = None) -> None:
        """Say to this rank that its node goes back: `ex.on_reclaim(run.notify)`. Any rank, any thread."""
        self._notice.heard("told" if notice is None else f"told: {notice}")

    @property
    def noticed(self) -> bool:
        """Whether this rank has heard that its node goes back; others may not have."""
        return self._notice.heard_at_s is not None

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self._ranks.rank

    @property
    def n_ranks(self) -> int:
        """How many there are in this attempt."""
        return self._ranks.size

    def _at_first_rank(self, action: Callable[[], T]) -> T:
        """Do something at rank 0 and have what it returns or raises (errors of checkpoints) at all."""
        found: T | None = None
        failure: CheckpointError | None = None
        if self._ranks.rank == 0:
            try:
                found = action()
            except CheckpointError as error:
                failure = error
            except OSError as error:
                failure = CheckpointFailed(f"{self._store.files.directory} on {_here()}: {error}")
        found, failure = self._ranks.share((found, failure))
        if failure is not None:
            raise failure
        return found  # type: ignore[return-value]  # None only where the action returns that


def _here() -> str:
    return socket.gethostname()


def _worst(outcomes: list[CheckpointError | None]) -> CheckpointError | None:
    """What to raise: a file that could not be read says more than one that was damaged."""
    found = [outcome for outcome in outcomes if outcome is not None]
    return next((one for one in found if isinstance(one, CheckpointFailed)), found[0] if found else None)
