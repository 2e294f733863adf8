"""T58: after every test, of any ring, no process that it started runs on and none is a zombie.

Children of this process are looked at in all rings. In those whose tests start daemons, everything that carries the
test's event log in its environment is, too: daemons leave their starters. What the cluster's users leave is looked for
by cluster/rig/residue.py.
"""

import contextlib
from pathlib import Path

import pytest

from support.leftovers import alive, children
from support.residue import command, marked_processes
from support.waiting import wait_until

GONE_S = 10.0  # a session process may linger five seconds

spared = []
"""Functions that return pids of children that outlive a test rightly, with all below them: they may be other ones
after it than before.
"""


def _own_children():
    """Children of this process, zombies too, as (pid, start time): a pid may come again."""
    found = set()
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in tasks.read_text().split():
                with contextlib.suppress(OSError):
                    found.add((int(pid), Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]))
    return found


def left_running(before, events):
    """Command lines of what is left: children that were not there before, and what carries the event log's mark."""
    own = {pid for pid, _ in _own_children() - before}
    marked = set(marked_processes(events)) if events is not None else set()
    left = own | marked
    if left:
        left -= {each for pids in spared for pid in pids() for each in (pid, *children(pid))}
    return [f"{'' if alive(pid) else 'zombie '}{command(pid)}" for pid in sorted(left)]


@pytest.fixture(autouse=True)
def _nothing_is_left_running(request):
    """Set up before all else of a test, so that it looks when all of that has ended."""
    before = _own_children()
    yield
    events = request.node.funcargs.get("event_log")
    left = []

    def nothing():
        left[:] = left_running(before, events)
        return not left

    with contextlib.suppress(AssertionError):
        wait_until(nothing, GONE_S)
    if left:
        listing = "\n".join(left)
        pytest.fail(f"the test left processes:\n{listing}", pytrace=False)
