"""Fixtures of the tests on a real Slurm: a running cluster, its users, the built wheel, and the check on what is left.

Known to every ring (tests/conftest.py registers them), since faults of Slurm stand with the other faults.

A test takes `cluster`, `alice`, `bob`; it may use jobs, processes and files as it likes, and must have ended all of
them when it returns. Homes are emptied before each test.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

from cluster.rig import Cluster, Settings, User, missing_requirement, sweep
from cluster.rig.logs import keep_and_show
from cluster.rig.residue import left_by_users
from support.nothing_left import spared
from support.waiting import wait_until

SETTLE_S = 8.0  # for what ends by itself: Slurm's KillWait, completing jobs, daemons that leave after their client
_cluster_number = count(1)
_running: list[Cluster] = []  # for the reports of failed tests


def _holders() -> list[int]:
    """The processes of ours that hold the nodes; one that was powered down and up again has another."""
    files = [cluster.layout.init_file(name) for cluster in _running for name in cluster.settings.all_names]
    return [int(json.loads(file.read_text())["holder"]) for file in files if file.exists()]


spared.append(_holders)


@pytest.fixture(scope="session")
def _rig_can_start() -> None:
    """Say why the ring does not run; in CI any skip is a failure."""
    reason = missing_requirement()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def start_cluster(_rig_can_start: None) -> Iterator[Callable[..., Cluster]]:
    """Start a cluster of one's own, `start_cluster(Settings(...), wheel=True)`; stopped at the session's end."""
    sweep()
    with ExitStack() as stack:
        yield lambda settings, *, wheel=True: stack.enter_context(_started(settings, wheel))


@contextmanager
def _started(settings: Settings, wheel: bool) -> Iterator[Cluster]:
    cluster = Cluster(f"test-{os.getpid()}-{next(_cluster_number)}")
    cluster.start(settings, with_starter=True)
    _running.append(cluster)
    try:
        if wheel:
            cluster.install_wheel()
        yield cluster
    finally:
        _running.remove(cluster)
        cluster.stop()


@pytest.fixture(scope="session")
def session_cluster(start_cluster: Callable[[Settings], Cluster]) -> Cluster:
    """The ring's one cluster. Tests take `cluster`, which is this one with the check around it."""
    return start_cluster(Settings(jwt=True))


@pytest.fixture
def cluster(session_cluster: Cluster) -> Iterator[Cluster]:
    """The running cluster, clean before the test and checked to be clean after it."""
    with checked(session_cluster) as clean:
        yield clean


@pytest.fixture(scope="session")
def fault_session_cluster(start_cluster: Callable[[Settings], Cluster]) -> Cluster:
    """A cluster for faults: slurmctld gives a silent node up after ten seconds instead of half a minute."""
    # a node that comes back is asked for jobs that are older than BatchStartTimeout and ten seconds
    return start_cluster(Settings(nodes=3, cpus=2, slurmd_timeout_s=10, extra_conf="BatchStartTimeout=1"))


@pytest.fixture
def fault_cluster(fault_session_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster for faults, checked like the other one; its daemons are started again if a test left them dead."""
    with checked(fault_session_cluster) as clean:
        yield clean


@pytest.fixture(scope="session")
def small_session_cluster(start_cluster: Callable[[Settings], Cluster]) -> Cluster:
    """A cluster for timing: nodes of one core, since delays mean little where many more are declared than exist."""
    return start_cluster(Settings(cpus=1, memory_mib=4000))


@pytest.fixture
def small_cluster(small_session_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster for timing, checked like the other one."""
    with checked(small_session_cluster) as clean:
        yield clean


@contextmanager
def checked(cluster: Cluster) -> Iterator[Cluster]:
    """A clean cluster; afterwards no job, process, socket or temporary file of a user may be left on it.

    What is left is removed before the test fails, so that it spoils this test alone.
    """
    _restore(cluster)
    yield cluster
    left: list[str] = []

    def is_clean() -> bool:
        left[:] = left_by_users(cluster)
        return not left

    try:
        wait_until(is_clean, SETTLE_S)
    except AssertionError:
        report = "\n".join(left)
        _restore(cluster)
        pytest.fail(f"the test left on the cluster:\n{report}", pytrace=False)


def _restore(cluster: Cluster) -> None:
    """All nodes up, idle and empty of users' things; partition and homes as at the start."""
    for name in cluster.settings.node_names:
        if cluster.node(name).init_pid is None:
            cluster.start_node(name)
    for name in cluster.settings.all_names:
        cluster.ensure_daemon(name)
    cluster.remove_users_things()
    cluster.set_grace(cluster.settings.grace_s)


@pytest.fixture
def alice(cluster: Cluster) -> User:
    """The ordinary user alice, with the wheel's environment first in PATH."""
    return cluster.user("alice")


@pytest.fixture
def bob(cluster: Cluster) -> User:
    """Another ordinary user."""
    return cluster.user("bob")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show where the logs are, and their ends, with every failure."""
    report = yield
    if report.failed:
        its_own = {id(value) for value in item.funcargs.values()} if isinstance(item, pytest.Function) else set()
        for cluster in [cluster for cluster in _running if id(cluster) in its_own] or _running:
            report.sections.append((f"cluster {cluster.layout.instance}", keep_and_show(cluster.layout, item.name)))
    return report
