"""Cutting the network between the two hosts of the RDMA guest: its cable, or what one of them sends."""

import subprocess
from collections.abc import Callable

BOTH, FROM_HERE, FROM_THERE = "both", "from here", "from there"
HERE, THERE = ("veth0", "10.77.0.1"), ("veth1", "10.77.0.2")  # tests/rdma/rig/guest
NOWHERE = "02:00:00:00:00:01"  # nobody's: what is sent there is lost


class Cut:
    """One between this namespace and another. Both ports see a pulled cable; nobody sees what is lost one way."""

    def __init__(self, netns: str):
        self._netns = netns
        self._healings: list[Callable[[], None]] = []

    def begin(self, way: str) -> None:
        """Cut; the hosts know each other's addresses already, or nothing else would tell what they send."""
        if way == BOTH:
            self._change(["-n", self._netns], "link set veth1 down", "link set veth1 up")
            return
        at = [] if way == FROM_HERE else ["-n", self._netns]
        (device, _), (_, other) = (HERE, THERE) if way == FROM_HERE else (THERE, HERE)
        to_nowhere = f"neigh replace {other} lladdr {NOWHERE} dev {device} nud permanent"
        self._change(at, to_nowhere, f"neigh del {other} dev {device}")

    def _change(self, at: list[str], cut: str, heal: str) -> None:
        subprocess.run(["ip", *at, *cut.split()], check=True)
        self._healings.append(lambda: subprocess.run(["ip", *at, *heal.split()], check=True) and None)

    def heal(self) -> None:
        """As before; repeatable."""
        while self._healings:
            self._healings.pop()()
