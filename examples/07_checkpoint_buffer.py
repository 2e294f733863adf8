"""A solver that keeps its checkpoints in another node's idle memory, and goes on from them after a failure.

    python examples/07_checkpoint_buffer.py                      # this machine lends
    python examples/07_checkpoint_buffer.py --size 2048          # 32 MiB a checkpoint
    rfaas up --slurm && python examples/07_checkpoint_buffer.py  # what the cluster leaves idle

Temperature of a heated plate by Jacobi's method. Every --every sweeps the field is copied within this process and
written
to borrowed memory in the background, while the next sweeps run: two slots in turn, and behind each the number of its
sweep, written once the field is there, so a checkpoint is whole or not there. A write to a file system would have to be
waited for by all ranks at once; memory of the neighbours is there in milliseconds.

Then the program forgets its field, as a rank that was restarted, takes the newest checkpoint and goes on. It checks
that the result is, to the last bit, that of a run without a failure. `when_reclaimed="spill"`: if the owner wants his
memory back, the checkpoints move to a file by themselves.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

import rfaas

Field = npt.NDArray[np.float64]


class Checkpoints:
    """Two slots in borrowed memory, used in turn."""

    def __init__(self, size: int) -> None:
        self._field_bytes = size * size * 8
        self._slot_bytes = self._field_bytes + 8
        self._memory = rfaas.RemoteMemory(2 * self._slot_bytes, when_reclaimed="spill")
        self._field = np.empty((size, size))  # a copy that stays still while it travels
        self._under_way: list[Future[int]] = []
        self._n_saved = 0
        print(f"{2 * self._slot_bytes / 2**20:.1f} MiB on {self._memory.node}, over {self._memory.medium}")

    def save(self, field: Field, sweep: int) -> None:
        """Begin to save a field; returns once it is copied here."""
        self.wait()
        np.copyto(self._field, field)
        at = self._slot_bytes * (self._n_saved % 2)
        self._n_saved += 1
        # In this order: who finds the number finds the field.
        self._under_way = [
            self._memory.write_async(at + self._field_bytes, bytes(8)),
            self._memory.write_async(at, self._field),
            self._memory.write_async(at + self._field_bytes, sweep.to_bytes(8, "little")),
        ]

    def wait(self) -> None:
        """Return once the last one is there; raises what went wrong with it."""
        for future in self._under_way:
            future.result()

    def newest(self, field: Field) -> int:
        """Fill `field` with the newest whole checkpoint and return its sweep."""
        sweeps = []
        for slot in (0, 1):
            at = self._slot_bytes * slot
            sweeps.append(int.from_bytes(self._memory.read(at + self._field_bytes, 8), "little"))
        slot = sweeps.index(max(sweeps))
        self._memory.readinto(self._slot_bytes * slot, field)
        return sweeps[slot]

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


def plate(size: int) -> Field:
    """A cold plate with a warm upper edge."""
    field = np.zeros((size, size))
    field[0] = np.sin(np.pi * np.linspace(0.0, 1.0, size))
    return field


def sweep(field: Field) -> Field:
    """One step of Jacobi's method."""
    new = field.copy()
    new[1:-1, 1:-1] = 0.25 * (field[:-2, 1:-1] + field[2:, 1:-1] + field[1:-1, :-2] + field[1:-1, 2:])
    return new


def run(size: int, n_sweeps: int, every: int) -> tuple[Field, float, float]:
    """Sweep with checkpoints, fail in the middle, go on; the field, and seconds in all and in `save`."""
    checkpoints = Checkpoints(size)
    began_s = time.perf_counter()
    saving_s = 0.0
    field, done, failed = plate(size), 0, False
    while done < n_sweeps:
        field, done = sweep(field), done + 1
        if done % every == 0:
            save_began_s = time.perf_counter()
            checkpoints.save(field, done)
            saving_s += time.perf_counter() - save_began_s
        if done > n_sweeps // 2 and not failed:
            failed = True
            field = np.full((size, size), np.nan)  # all that this rank knew
            checkpoints.wait()
            lost_at, done = done, checkpoints.newest(field)
            print(f"failed in sweep {lost_at}, went on from the checkpoint of sweep {done}")
    checkpoints.wait()
    took_s = time.perf_counter() - began_s
    checkpoints.close()
    return field, took_s, saving_s


def main() -> int:
    """Run with and without a failure and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="points of an edge of the plate (%(default)s)")
    parser.add_argument("--sweeps", type=int, default=200, help="in all (%(default)s)")
    parser.add_argument("--every", type=int, default=20, help="sweeps between two checkpoints (%(default)s)")
    arguments = parser.parse_args()
    if arguments.every > arguments.sweeps // 2:
        parser.error("--every must leave a checkpoint before the failure in the middle: at most half of --sweeps")
    field, took_s, saving_s = run(arguments.size, arguments.sweeps, arguments.every)
    expected = plate(arguments.size)
    for _ in range(arguments.sweeps):
        expected = sweep(expected)
    print(f"{took_s:.3f} s, of which the solver waited {saving_s:.3f} s ({saving_s / took_s:.1%}) for checkpoints")
    if not np.array_equal(field, expected):
        print("wrong: the field is not that of a run without a failure", file=sys.stderr)
        return 1
    print("the field is, bit for bit, that of a run without a failure")
    return 0


if __name__ == "__main__":
    sys.exit(main())
