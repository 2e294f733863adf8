"""rfaas on the cluster as an ordinary user has it: `rfaas up --slurm`, a program that calls functions, a witness.

The witness file is what the functions themselves wrote, so it is the truth of what ran, how often and when.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.rig import HEAD, Cluster, User
from cluster.rig.users import Running
from support.waiting import wait_until

UP_TIMEOUT_S = 60.0
DOWN_TIMEOUT_S = 90.0
FILL_TIMEOUT_S = 60.0

# A stream of calls with at most `ahead` unresolved, at least `n_calls` and until the stop file exists.
STREAM = """\
import json, os, queue, random, sys, time
from pathlib import Path
import rfaas

def work(inv, duration_s, witness):
    import os, socket, time
    def note(word):
        line = f"{word} {inv} {os.getpid()} {socket.gethostname()} {time.clock_gettime_ns(time.CLOCK_BOOTTIME)}\\n"
        os.write(fd, line.encode())
    fd = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    note("start")
    time.sleep(duration_s)
    note("end")
    os.close(fd)
    return inv, inv * inv % 9973

def main(given):
    rng = random.Random(given["seed"])
    stop, deadline = Path(given["stop_file"]), time.monotonic() + given["limit_s"]
    done, errors, right, submitted, answered, long_calls = queue.SimpleQueue(), [], 0, 0, 0, []

    def submit(inv, duration_s):
        future = ex.submit(work, inv, duration_s, given["witness"])
        future.add_done_callback(lambda f: done.put((inv, f)))

    with rfaas.Executor(max_workers=given["max_workers"], **given["options"]) as ex:
        while answered < submitted or submitted < given["n_calls"] or not stop.exists():
            more = submitted < given["n_calls"] or not stop.exists()
            while more and submitted - answered < given["ahead"]:
                is_long = given["long_every"] and submitted % given["long_every"] == given["long_every"] - 1
                if is_long:
                    long_calls.append(submitted)
                submit(submitted, given["long_s"] if is_long else rng.uniform(given["min_s"], given["max_s"]))
                submitted += 1
            try:
                inv, future = done.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise SystemExit(f"not done within {given['limit_s']} s: {submitted - answered} unresolved")
            answered += 1
            error = future.exception()
            if error is not None:
                keys = ("code", "may_have_run", "phase", "node", "reason_code")
                errors.append({"inv": inv, "type": type(error).__name__, "text": str(error),
                               "at_ns": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                               **{key: getattr(error, key, None) for key in keys}})
            elif future.result() == (inv, inv * inv % 9973):
                right += 1
            else:
                errors.append({"inv": inv, "type": "wrong result", "text": repr(future.result())})
        statistics = ex.statistics()
    answer = {"submitted": submitted, "right": right, "errors": errors, "long": long_calls}
    print(json.dumps({**answer, "statistics": statistics}))

main(json.loads(sys.argv[1]))
"""


@dataclass(frozen=True)
class Run:
    """One execution of a call, as its function wrote it. `end_ns` is 0 if it was cut off."""

    inv: int
    pid: int
    node: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Witness:
    """All executions of all calls."""

    runs: tuple[Run, ...]

    @classmethod
    def read(cls, path: Path) -> "Witness":
        """Read the file that the functions appended to."""
        open_runs: dict[tuple[int, int, str], int] = {}
        runs: list[Run] = []
        for line in path.read_text().splitlines():
            word, inv, pid, node, time_ns = line.split()
            key = (int(inv), int(pid), node)
            if word == "start":
                open_runs[key] = int(time_ns)
            else:
                runs.append(Run(*key, start_ns=open_runs.pop(key), end_ns=int(time_ns)))
        runs += [Run(*key, start_ns=start_ns, end_ns=0) for key, start_ns in open_runs.items()]
        return cls(tuple(runs))

    def executions(self) -> Counter[int]:
        """How often each call was started."""
        return Counter(run.inv for run in self.runs)

    def running_at(self, time_ns: int, nodes: list[str]) -> list[Run]:
        """What ran on these nodes at that moment."""
        return self.running_between(time_ns, time_ns, nodes)

    def running_between(self, first_ns: int, last_ns: int, nodes: list[str]) -> list[Run]:
        """What ran on these nodes at any moment of that time."""
        return [r for r in self.runs if r.node in nodes and r.start_ns <= last_ns and not 0 < r.end_ns < first_ns]


@dataclass
class Stream:
    """A program of the user's that calls functions until it is told to stop."""

    user: User
    settings: dict[str, Any]
    process: Running | None = None

    @property
    def witness(self) -> Witness:
        """What ran so far."""
        return Witness.read(self.user.home / "witness")

    def stop(self) -> None:
        """Let it end once it has made its number of calls."""
        self.user.put("stop", "")

    def nodes_since(self, since_ns: int) -> set[str]:
        """Nodes on which a call began after that moment (CLOCK_BOOTTIME)."""
        path = self.user.home / "witness"
        if not path.exists():
            return set()
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200_000))
            lines = file.read().decode().split("\n")[1:-1]
        words = [line.split() for line in lines]
        return {node for word, _, _, node, time_ns in words if word == "start" and int(time_ns) > since_ns}


@contextmanager
def streaming(user: User, **changes: Any) -> Iterator[Stream]:
    """The user's program calls functions on the head for the length of the block."""
    settings = stream_settings(user, **changes)
    program = user.put("stream.py", STREAM)
    stream = Stream(user, settings)
    with user.popen(HEAD, ["python", program, json.dumps(settings)], env=event_log(user)) as running:
        stream.process = running
        yield stream


def finish(stream: Stream) -> dict[str, Any]:
    """Let the program end and return what it printed."""
    stream.stop()
    assert stream.process is not None
    out, err = stream.process.output(stream.settings["limit_s"])
    assert out, err[-3000:]
    answer = json.loads(out)
    assert isinstance(answer, dict)
    return answer


def event_log(user: User) -> dict[str, str]:
    """The environment in which processes write the user's event log."""
    return {"RFAAS_EVENT_LOG": f"{user.account.home}/events"}


def logged(user: User, *kinds: str, role: str = "*") -> list[dict[str, Any]]:
    """What the user's processes wrote into the event log, by time; all kinds or some, of all roles or one."""
    files = (user.home / "events").glob(f"{role}-*.jsonl")
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted((line for line in lines if not kinds or line["ev"] in kinds), key=lambda line: line["t_boot_ns"])


def slice_of(user: User, node: str) -> dict[str, Any] | None:
    """The slice on that node that is up, as `rfaas status` shows it."""
    return next((s for s in snapshot(user)["slices"] if s["node"] == node and s["state"] == "up"), None)


@contextmanager
def rfaas_up(
    cluster: Cluster, user: User, *options: str, cores: int | None = None, env: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """`rfaas up --slurm` with quick cycles, until all cores (or `cores`) are up in slices; `rfaas down` at the end."""
    wanted = cluster.settings.nodes * cluster.settings.cpus if cores is None else cores
    quick = ["--cycle-s", "0.5", "--backoff-s", "0.5"]
    command = ["rfaas", "up", "--slurm", "--json", *quick, *options]
    answer = json.loads(user.run(HEAD, command, UP_TIMEOUT_S, env=env).stdout)
    try:
        wait_until(lambda: cores_up(user) == wanted, FILL_TIMEOUT_S, "slices")
        yield answer
    finally:
        user.run(HEAD, ["rfaas", "down", "--purge"], DOWN_TIMEOUT_S)


def snapshot(user: User) -> dict[str, Any]:
    """What `rfaas status --json` says."""
    answer = json.loads(user.run(HEAD, ["rfaas", "status", "--json"], UP_TIMEOUT_S).stdout)
    assert isinstance(answer, dict)
    return answer


def cores_up(user: User) -> int:
    """Cores of all slices that are up."""
    return sum(entry["cores"] for entry in snapshot(user)["slices"] if entry["state"] == "up")


def stream_settings(user: User, **changes: Any) -> dict[str, Any]:
    """Settings of STREAM; all paths in the user's home."""
    home = user.account.home
    return {
        "n_calls": 10_000,
        "seed": 1,
        "min_s": 0.005,
        "max_s": 0.025,
        "long_every": 0,
        "long_s": 0.0,
        "ahead": 64,
        "limit_s": 240.0,
        "max_workers": 16,
        "options": {},
        "witness": f"{home}/witness",
        "stop_file": f"{home}/stop",
        **changes,
    }
