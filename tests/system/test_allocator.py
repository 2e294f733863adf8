"""A real allocator process over real sockets: its directory, its doors, its memory (docs/spec/003-control.md)."""

import asyncio
import dataclasses
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile

import pytest

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient, OffersClient, dial_agent, dial_holder
from rfaas.control.links import LinkBroken
from rfaas.control.proto import agents_pb2, agents_pb2_grpc
from rfaas.control.tls import ensure_key_pair
from rfaas_transport.errors import AllocatorUnavailable, ConfigError
from support.allocator import AllocatorProcess, PlayedAgent, PlayedHolder
from support.waiting import wait_until

TIMEOUT_S = 30.0


@pytest.fixture
def state_dir(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def allocator(state_dir):
    with AllocatorProcess(state_dir) as process:
        yield process


@pytest.fixture
def with_tls(state_dir):
    with AllocatorProcess(state_dir, "--listen", "127.0.0.1") as process:
        yield process


def within(coroutine):
    async def limited():
        async with asyncio.timeout(TIMEOUT_S):
            return await coroutine

    return asyncio.run(limited())


def elsewhere(address):
    """The same allocator as a process on another host sees it."""
    return dataclasses.replace(address, host="another-host")


async def grant(address, workers=2):
    """An agent and a holder with one lease."""
    agent, holder = PlayedAgent(), PlayedHolder()
    await agent.connect(address)
    await holder.connect(address)
    holder.want(workers)
    await agent.answer()
    assert isinstance(await holder.hear(), m.Granted)
    return agent, holder


# --- directory -----------------------------------------------------------------------------------


def test_the_state_directory_is_private_and_what_is_in_it_too(with_tls, state_dir):
    with_tls.start()
    assert state_dir.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in state_dir.iterdir() if not path.is_socket()}
    assert {"allocator.json", "journal.sqlite", "secret", "tls.key", "tls.crt"} <= modes.keys()
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_directory_that_others_can_enter_is_refused_with_a_remedy(allocator, state_dir, mode):
    state_dir.mkdir()
    state_dir.chmod(mode)
    code, said = allocator.run_to_end()
    assert code == 78
    assert f"chmod 700 {state_dir}" in said
    assert list(state_dir.iterdir()) == []


def test_a_key_that_others_can_read_is_refused(with_tls, state_dir):
    with_tls.start()
    with_tls.stop()
    (state_dir / "tls.key").chmod(0o640)
    code, said = with_tls.run_to_end()
    assert code == 78
    assert "chmod 600" in said


def test_a_second_allocator_on_the_same_directory_is_refused_and_the_first_serves_on(allocator, state_dir):
    address = allocator.start()
    with AllocatorProcess(state_dir) as second:
        code, said = second.run_to_end()
    assert code == 78
    assert "another allocator holds" in said
    assert within(grant(address))


def test_sigterm_ends_it_and_leaves_no_door_behind(allocator, state_dir):
    address = allocator.start()
    code, _ = allocator.stop()
    assert code == 0
    assert {path.name for path in state_dir.iterdir()} == {"journal.reserve", "journal.sqlite", "secret"}
    assert not address.alive
    with pytest.raises(AllocatorUnavailable, match="no allocator serves"):
        AllocatorAddress.load(state_dir)


def test_a_killed_allocator_is_not_taken_for_one_that_lives(allocator):
    address = allocator.start()
    assert address.alive
    allocator.kill()
    assert not address.alive

    async def dial():
        with pytest.raises(AllocatorUnavailable, match="does not answer"):
            await dial_agent(address)

    within(dial())


def test_a_path_too_long_for_a_socket_gets_a_private_directory_elsewhere(tmp_path):
    runtime = tempfile.mkdtemp(dir="/tmp")
    deep = tmp_path / ("d" * 60) / ("e" * 60) / "state"
    with AllocatorProcess(deep) as allocator:
        for _ in range(2):  # the second finds what the first, killed, has left
            address = allocator.start(env={**os.environ, "XDG_RUNTIME_DIR": runtime})
            assert address.unix.startswith(runtime)
            assert within(grant(address))
            allocator.kill()
        allocator.start(env={**os.environ, "XDG_RUNTIME_DIR": runtime})
        allocator.stop()
    os.rmdir(runtime)  # fails if anything is left there


def test_wrong_settings_are_refused_before_anything_is_made(state_dir):
    for arguments, words in [
        (("--ttl", "0.1"), "at least 0.5 s"),
        (("--ttl", "soon"), "is not a duration"),
        (("--listen", "0.0.0.0"), "every interface"),
        (("--listen", "::"), "every interface"),
        (("--listen", "127.0.0.1:many"), "HOST or HOST:PORT"),
        (("--listen", "192.0.2.1"), "can't listen"),
    ]:
        with AllocatorProcess(state_dir, *arguments) as allocator:
            code, said = allocator.run_to_end()
        assert (code, words in said) == (78, True), said
    assert not (state_dir / "allocator.json").exists()


# --- doors ---------------------------------------------------------------------------------------


def listening_tcp(pid):
    """Local addresses of TCP sockets on which a process listens, IPv4 and IPv6, as in /proc/net/tcp."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as lines:
            rows = [line.split() for line in lines][1:]
        found += [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    return found


def test_without_listen_there_is_no_network_door(allocator):
    address = allocator.start()
    assert address.tls == ""
    assert listening_tcp(allocator.process.pid) == []

    async def dial():
        with pytest.raises(ConfigError, match="only be reached there"):
            await dial_agent(elsewhere(address))

    within(dial())


def test_with_listen_there_is_one_door_on_that_interface(with_tls):
    with_tls.start()
    (local,) = listening_tcp(with_tls.process.pid)
    assert "0100007F:" in local  # 127.0.0.1, perhaps as IPv6 writes it


def test_another_host_is_served_over_tls(with_tls):
    address = with_tls.start()

    async def work():
        agent, holder = await grant(elsewhere(address))
        assert set(agent.held) == set(holder.granted)
        async with AdminClient(elsewhere(address)) as admin:
            assert len((await admin.snapshot()).slices) == 1

    within(work())


def test_strangers_are_not_served(with_tls, tmp_path):
    address = elsewhere(with_tls.start())
    stranger = tmp_path / "stranger"
    stranger.mkdir(mode=0o700)
    ensure_key_pair(stranger / "tls.key", stranger / "tls.crt")

    async def dial(directory):
        with pytest.raises(AllocatorUnavailable):
            await dial_agent(dataclasses.replace(address, state_dir=directory), timeout_s=2.0)

    within(dial(stranger))  # neither side knows the other's certificate
    (stranger / "tls.crt").write_bytes(address.certificate_file.read_bytes())
    (stranger / "tls.crt").chmod(0o600)
    within(dial(stranger))  # knows the allocator's certificate, but has another key


def test_a_stranger_who_trusts_the_allocator_is_not_trusted_back(with_tls, tmp_path):
    import grpc

    address = with_tls.start()
    pair = ensure_key_pair(tmp_path / "k", tmp_path / "c")
    trusted = address.certificate_file.read_bytes()

    async def ask(credentials):
        options = [("grpc.ssl_target_name_override", "allocator.rfaas.internal")]
        async with grpc.aio.secure_channel(address.tls, credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/rfaas.v1.Admin/GetSnapshot")(b"", timeout=3)
            return refused.value.code()

    for credentials in (
        grpc.ssl_channel_credentials(trusted, pair.key_pem, pair.certificate_pem),
        grpc.ssl_channel_credentials(trusted),
    ):
        assert within(ask(credentials)) is grpc.StatusCode.UNAVAILABLE


def test_plain_bytes_at_the_network_door_get_nothing(with_tls):
    address = with_tls.start()
    host, _, port = address.tls.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 64)
        connection.settimeout(5)
        answer = b""
        try:
            while chunk := connection.recv(4096):
                answer += chunk
        except ConnectionResetError:
            pass
    assert b"rfaas" not in answer


def test_a_version_too_far_apart_is_refused_with_both_in_the_text(allocator):
    import grpc

    address = allocator.start()

    async def speak(version):
        async with grpc.aio.insecure_channel(f"unix:{address.unix}") as channel:
            call = agents_pb2_grpc.AgentsStub(channel).Attend()
            await call.write(agents_pb2.AgentMessage(seq=1, version=version))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            return refused.value

    for version in (0, 3):
        error = within(speak(version))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "version-mismatch: this side speaks version 1" in error.details()


def test_nonsense_ends_its_own_stream_only(allocator):
    import grpc

    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        async with grpc.aio.insecure_channel(f"unix:{address.unix}") as channel:
            call = agents_pb2_grpc.AgentsStub(channel).Attend()
            freed = agents_pb2.Freed(lease_id=b"short")
            await call.write(agents_pb2.AgentMessage(seq=1, version=1, freed=freed))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        holder.want(3)
        await agent.answer()
        assert isinstance(await holder.hear(), m.Granted)

    within(work())


# --- links ---------------------------------------------------------------------------------------


def test_flush_returns_when_the_allocator_has_read_everything(allocator):
    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        lease_id = next(iter(agent.held))
        agent.link.send(m.Ending(agent.slice.slice_id, agent.epoch, 1, 0.0))
        agent.link.send(m.Freed(lease_id, agent.epoch, "reclaimed", 1))
        agent.link.send(m.SliceEmpty(agent.slice.slice_id, agent.epoch))
        await agent.link.flush(5.0)
        agent.link.close()
        assert await holder.hear() == m.Ended(holder.holder, lease_id, "reclaimed", 1)
        async with AdminClient(address) as admin:
            assert (await admin.snapshot()).slices == ()

    within(work())


def test_flush_gives_up_when_its_time_is_over(allocator):
    address = allocator.start()

    async def work():
        agent = PlayedAgent()
        await agent.connect(address)
        os.kill(allocator.process.pid, signal.SIGSTOP)
        try:
            agent.link.send(m.Ending(agent.slice.slice_id, agent.epoch, 1, 0.0))
            begin = asyncio.get_running_loop().time()
            await agent.link.flush(0.2)
            assert 0.2 <= asyncio.get_running_loop().time() - begin < 5
        finally:
            os.kill(allocator.process.pid, signal.SIGCONT)

    within(work())


def test_a_link_breaks_for_both_when_one_closes(allocator):
    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        agent.link.close()
        agent.link.close()
        with pytest.raises(LinkBroken):
            await agent.link.receive()
        async with AdminClient(address) as admin:
            while (await admin.snapshot()).slices[0].state == "up":
                await asyncio.sleep(0.005)
        holder.link.close()

    within(work())


def test_a_killed_allocator_breaks_its_links_at_once(allocator):
    address = allocator.start()

    async def work():
        agent, holder = await grant(address)
        allocator.process.kill()
        for link in (agent.link, holder.link):
            with pytest.raises(LinkBroken):
                async with asyncio.timeout(2):
                    await link.receive()

    within(work())


def test_one_stream_serves_several_holders(allocator):
    address = allocator.start()

    async def work():
        agent, first = await grant(address, workers=1)
        second = PlayedHolder()
        second.link = first.link
        second.link.send(m.HolderHello(second.holder, 0, "second"))
        second.want(1)
        await agent.answer()
        granted = await second.hear()
        assert granted.terms.holder == second.holder

    within(work())


# --- harvester and commands ----------------------------------------------------------------------


def test_the_end_of_a_job_reaches_the_holder(allocator):
    address = allocator.start()

    async def work():
        agent, holder = PlayedAgent(job_id="42"), PlayedHolder()
        await agent.connect(address)
        await holder.connect(address)
        holder.want(1)
        await agent.answer()
        await holder.hear()
        async with OffersClient(address) as offers:
            assert await offers.report(alive=[m.JobRef("42")], alive_age_s=0.1) == 0
            assert await offers.report([m.JobEnded("42", 0, "PREEMPTED")], []) == 1
            assert await offers.report([m.JobEnded("42", 0, "PREEMPTED")], []) == 0
            assert (await offers.snapshot()).slices == ()
        ended = await holder.hear()
        assert (ended.reason, ended.reason_code) == ("reclaimed", 1)
        with pytest.raises(LinkBroken):
            await agent.link.receive()

    within(work())


def test_a_watch_tells_what_happens_and_resumes_where_it_was(allocator):
    address = allocator.start()

    async def work():
        async with AdminClient(address) as admin:
            first = [event async for event in _take(admin.watch(1), 1)]
            assert first[0].kind == "gap"
            agent, holder = await grant(address)
            begin = first[0].seq + 1
            kinds = ["restart", "epoch", "request", "grant_proposed", "grant_accepted", "grant_acked"]
            events = [event async for event in _take(admin.watch(begin), len(kinds))]
            assert [event.kind for event in events] == kinds
            assert [event.seq for event in events] == list(range(begin, begin + len(kinds)))
            again = [event async for event in _take(admin.watch(events[2].seq), 3)]
            assert again == events[2:5]
            assert events[-1].lease_id in agent.held
            assert events[-1].holder == holder.holder

    within(work())


async def _take(events, count):
    async for event in events:
        yield event
        count -= 1
        if count == 0:
            break
    await events.aclose()


def test_stop_ends_the_slices_and_then_the_allocator(allocator):
    address = allocator.start()

    async def work():
        agent, _ = await grant(address)
        async with AdminClient(address) as admin:
            assert await admin.stop(timeout_s=20.0) == 1
        assert await agent.link.receive() == m.EndSlice(5)
        assert allocator.process.poll() is None
        agent.link.send(m.SliceEmpty(agent.slice.slice_id, agent.epoch))
        await agent.link.flush(5.0)
        with pytest.raises(LinkBroken):
            await agent.link.receive()

    within(work())
    assert allocator.process.wait(5) == 0


def test_stop_does_not_wait_for_an_agent_longer_than_it_was_told(allocator):
    address = allocator.start()

    async def work():
        agent, _ = await grant(address)
        async with AdminClient(address) as admin:
            await admin.stop(timeout_s=0.3)
        await agent.link.receive()
        with pytest.raises(LinkBroken):
            await agent.link.receive()

    within(work())
    assert allocator.process.wait(5) == 0


# --- memory --------------------------------------------------------------------------------------


def test_after_kill_and_restart_the_same_leases_hold(allocator):
    address = allocator.start()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def life(number, agents, holders):
        """Everybody reconnects in some order, wants a little more, and the allocator is killed in the middle."""
        address = AllocatorAddress.load(allocator.state_dir)
        everybody = [*agents, *holders]
        rng.shuffle(everybody)
        before = {holder.holder: set(holder.granted) for holder in holders}
        for one in everybody:
            await one.connect(address)
        assert {agent.alloc_epoch for agent in agents} == {number}
        async with AdminClient(address) as admin:
            snapshot = await admin.snapshot()
        recovered = {lease.terms.lease_id for view in snapshot.slices for lease in view.leases}
        assert set().union(*before.values()) <= recovered
        assert recovered <= set().union(*(agent.held for agent in agents))
        tasks = [asyncio.create_task(agent.answer(1000)) for agent in agents]
        hearing = [asyncio.create_task(listen(holder)) for holder in holders]
        for holder in holders:
            holder.want(number)
        # None of them ends by itself: the kill is to come at a random moment of the work.
        done, _ = await asyncio.wait([*tasks, *hearing], timeout=rng.random() * 0.05)
        assert not done
        allocator.process.kill()
        for task in [*tasks, *hearing]:
            with pytest.raises(LinkBroken):
                await task

    async def listen(holder):
        while True:
            await holder.hear()

    async def lives():
        agents = [PlayedAgent(cores=16, node=f"n{number}") for number in range(3)]
        holders = [PlayedHolder() for _ in range(4)]
        for number in range(1, 11):
            await life(number, agents, holders)
            allocator.process.communicate()
            await asyncio.to_thread(allocator.start)
        seqs = sorted(lease.terms.lease_seq for agent in agents for lease in agent.held.values())
        assert len(seqs) == len(set(seqs)) > 4

    assert address.alive
    within(lives())


def test_a_lease_released_before_a_kill_is_ended_after_it(allocator):
    address = allocator.start()

    async def first():
        agent, holder = await grant(address)
        agent.link.close()
        with pytest.raises(LinkBroken):
            await agent.link.receive()
        (lease_id,) = holder.granted
        holder.link.send(m.ReleaseLease(holder.holder, lease_id, 6))
        await holder.link.flush(5)
        async with AdminClient(address) as admin:
            while (await admin.snapshot()).slices[0].leases[0].state != "FENCED":
                await asyncio.sleep(0.005)
            await OffersClient(address).report()  # whatever was asked before is durable when this is answered
        return agent

    agent = within(first())
    allocator.kill()
    address = allocator.start()

    async def second():
        await agent.connect(address)
        message = await agent.link.receive()
        assert message == m.EndLease(next(iter(agent.held)), 6)

    within(second())


def _empty(journal):
    journal.write_bytes(b"")


def _garbage(journal):
    journal.write_bytes(os.urandom(8192))


def _cut(journal):
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])


def _foreign(journal):
    journal.unlink()
    with sqlite3.connect(journal) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()


def _from_the_future(journal):
    db = sqlite3.connect(journal)
    db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize("damage", [_empty, _garbage, _cut, _foreign, _from_the_future])
def test_a_journal_that_can_not_be_read_is_refused_with_a_remedy_and_left_alone(allocator, state_dir, damage):
    address = allocator.start()
    within(grant(address))
    allocator.stop()
    journal = state_dir / "journal.sqlite"
    damage(journal)
    before = journal.read_bytes()
    code, said = allocator.run_to_end()
    assert code == 78
    assert "remedy:" in said
    assert str(journal) in said
    assert journal.read_bytes() == before


def test_a_disk_that_fails_ends_the_allocator_with_a_reason_and_nothing_is_promised(tmp_path):
    """RLIMIT_FSIZE stands for the disk: the write fails in the kernel, as with EIO. A full one: tests/faults."""
    state_dir = tmp_path / "state"
    with AllocatorProcess(state_dir) as allocator:
        allocator.start()
        allocator.stop()
        limited = [
            sys.executable,
            "-c",
            "import resource, signal, runpy, sys;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000));"
            "sys.argv = ['rfaas_allocator', *sys.argv[1:]];"
            "runpy.run_module('rfaas_allocator', run_name='__main__')",
        ]
        allocator.process = subprocess.Popen(
            [*limited, "--state-dir", str(state_dir)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        address = wait_until(allocator.served, 20)

        async def want_more_and_more(agent, holder):
            for number in range(1, 200):
                holder.want(number)
                await agent.answer()
                await holder.hear()

        async def fill():
            agent, holder = PlayedAgent(cores=1000), PlayedHolder()
            await agent.connect(address)
            await holder.connect(address)
            with pytest.raises(LinkBroken):
                await want_more_and_more(agent, holder)
            return agent, holder

        agent, holder = within(fill())
        _, said = allocator.process.communicate(timeout=10)
        assert allocator.process.returncode == 74
        assert "can't be written" in said
        assert len(holder.granted) > 3
        assert set(holder.granted) <= set(agent.held)

        address = allocator.start()  # the disk has room again

        async def recover():
            promised = set(holder.granted)
            await holder.connect(address)
            await agent.connect(address)
            async with AdminClient(address) as admin:
                (view,) = (await admin.snapshot()).slices
            assert promised <= {lease.terms.lease_id for lease in view.leases}

        within(recover())


# --- embedded ------------------------------------------------------------------------------------

EMBEDDED = """
import asyncio, sys
from importlib.metadata import entry_points
from rfaas.control import messages as m

async def main():
    (entry,) = entry_points(group="rfaas.components", name="allocator")
    allocator = entry.load()()
    agent, holder = await allocator.connect_agent(), await allocator.connect_holder()
    about = m.Slice(b"s" * 16, "here", 4, 2**30, "unix:@agent")
    agent.send(m.Register(about, b"i" * 16, 0))
    registered = await agent.receive()
    holder.send(m.HolderHello(b"h" * 16, 0, "me"))
    holder.send(m.Want(b"h" * 16, 1, 2, 1, 2**20))
    proposed = await agent.receive()
    agent.send(m.Accepted(proposed.terms.lease_id, registered.epoch, (0, 1)))
    granted = await holder.receive()
    assert granted.terms == proposed.terms
    assert allocator.snapshot().slices[0].free_cores == 2
    await allocator.close()
    await allocator.close()
    try:
        await holder.receive()
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
print(sorted({"grpc", "google.protobuf", "sqlite3", "cryptography"} & sys.modules.keys()))
"""


def test_the_embedded_allocator_grants_without_grpc_protobuf_or_files(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EMBEDDED], cwd=tmp_path, capture_output=True, text=True, timeout=30
    )
    assert (done.stdout.split("\n"), done.stderr) == (["LinkBroken", "[]", ""], "")
    assert list(tmp_path.iterdir()) == []


def test_a_holder_link_that_breaks_while_a_grant_is_under_way_loses_nothing(allocator):
    address = allocator.start()

    async def work():
        agent, holder = PlayedAgent(), PlayedHolder()
        await agent.connect(address)
        await holder.connect(address)
        holder.want(2)
        await agent.answer()
        await agent.link.flush(5)
        again = await dial_holder(address)
        again.send(m.HolderHello(holder.holder, 0, "again"))
        granted = await again.receive()
        assert granted.terms.lease_id in agent.held

    within(work())
