"""How a run ends that has more to do. Imports nothing: a batch script waits for that."""

from typing import Final

AGAIN: Final = 75  # EX_TEMPFAIL of sysexits.h: the user is invited to try again


class Preempted(SystemExit):
    """Raised out of the loop once all is saved: the program ends with status `AGAIN` unless it is caught.

    From then on the process ignores the signals that a run takes for notices, so that one that comes late, to a rank
    that another one stopped, does not change its status.
    """
