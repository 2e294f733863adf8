# SPDX-License-Identifier: GPL-2.0-or-later
#
# This one file is free software under the GNU General Public License, version 2 or (at your option) any later version,
# since it is made to run with pyslurm, which is. The rest of rfaas is under the licence in LICENSE: it starts this file
# as a program of its own, talks to it in JSON over pipes, and nothing imports it.
"""Reads a Slurm cluster by pyslurm and answers in JSON: a program on pyslurm and the standard library alone.

usage: python helper.py        with an interpreter that has pyslurm

A request is a line on standard input: `nodes`, `jobs` or `reservations`. An answer on standard output is a line with
its size in bytes, then that many bytes of JSON: {"nodes": [...]} and so on, in the form of slurmrestd's fields, or
{"errors": [{"error": "..."}]}. The first answer comes unasked: {"pyslurm": version, "slurm": version of its library}.
At the end of standard input, or of its parent, it ends.

pyslurm mirrors structures of Slurm's in C, so any call may end the process, and some do with a Slurm that it was not
written for. Only the calls that were tried are made: the three that list everything (docs/slurm.md). Never
`Job.get_resource_layout_per_node`, which reads a private structure and crashes; never `Node.load(name)`, whose counts
are stale.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, BinaryIO

PR_SET_PDEATHSIG = 1

API_VERSIONS = {38: "22.05", 39: "23.02", 40: "23.11", 41: "24.05", 42: "24.11", 43: "25.05", 44: "25.11", 45: "26.05"}
"""Releases by the number of Slurm's C interface, which is also that of the newest data_parser."""

Record = dict[str, Any]


def nodes(slurm: ModuleType) -> list[Record]:
    """Every node, with what is allocated on it."""
    return [
        {
            "name": node.name,
            "address": node.address,
            "state": node.state,  # IDLE+DRAIN
            "partitions": list(node.partitions or ()),
            "cpus": node.total_cpus,
            "alloc_cpus": node.allocated_cpus,
            "real_memory": node.real_memory,
            "alloc_memory": node.allocated_memory,
            "free_mem": node.free_memory,
            "features": list(node.available_features or ()),
            "active_features": list(node.active_features or ()),
            "boot_time": node.boot_time,
            "slurmd_start_time": node.slurmd_start_time,
        }
        for node in slurm.Nodes.load().values()
    ]


def jobs(slurm: ModuleType) -> list[Record]:
    """Every job that slurmctld knows."""
    return [
        {
            "job_id": job.id,
            "name": job.name,
            "user_name": job.user_name,
            "partition": job.partition,
            "job_state": [job.state],
            "state_reason": job.state_reason,
            "nodes": job.allocated_nodes,
            "required_nodes": job.required_nodes,
            "scheduled_nodes": job.scheduled_nodes,
            "node_count": job.num_nodes,
            "cpus": job.cpus,
            "memory_per_node": job.memory_per_node,
            "comment": job.comment,
            "submit_time": job.submit_time,
            "start_time": job.start_time,
            "end_time": job.end_time,
            "preempt_time": job.preempt_time,
        }
        for job in slurm.Jobs.load().values()
    ]


def reservations(slurm: ModuleType) -> list[Record]:
    """Every reservation."""
    return [
        {
            "name": reservation.name,
            "node_list": reservation.nodes,
            "start_time": reservation.start_time,
            "end_time": reservation.end_time,
            "flags": _flags(reservation.flags),
        }
        for reservation in slurm.Reservations.load().values()
    ]


LISTS: Mapping[str, Callable[[ModuleType], list[Record]]] = {"nodes": nodes, "jobs": jobs, "reservations": reservations}


def _flags(flags: Iterable[Any]) -> list[str]:
    """Names as Slurm writes them; pyslurm has one of them longer."""
    return sorted("MAINT" if flag.name == "MAINTENANCE" else str(flag.name) for flag in flags)


def library_version() -> str:
    """Release of the Slurm library that pyslurm has loaded, e.g. "26.05"; "" if it can't be told."""
    with open("/proc/self/maps") as maps:
        found = re.search(r"(/\S*/libslurm(?:full)?[^/\s]*\.so\S*)", maps.read())
    if found is None:
        return ""
    number = int(ctypes.CDLL(found[1]).slurm_api_version()) >> 16
    return API_VERSIONS.get(number, f"with C interface {number}")


def answer(out: BinaryIO, value: Mapping[str, Any]) -> None:
    """Write one answer."""
    body = json.dumps(value).encode()
    out.write(b"%d\n" % len(body) + body)
    out.flush()


def main() -> int:
    """Answer until the end of standard input."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints is not taken for an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it closes the pipe
    try:
        import pyslurm
    except Exception as error:  # also a library that lacks a symbol
        answer(out, {"errors": [{"error": f"{type(error).__name__}: {error}"}]})
        return 1
    answer(out, {"pyslurm": str(pyslurm.__version__), "slurm": library_version()})
    for line in sys.stdin:
        name = line.strip()
        try:
            answer(out, {name: LISTS[name](pyslurm)})
        except Exception as error:
            answer(out, {"errors": [{"error": f"{name}: {type(error).__name__}: {error}"}]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
