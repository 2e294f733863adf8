"""A real allocator process: its directory, and who gets in by which door (docs/spec/003-control.md)."""

import dataclasses
import os
import socket
import tempfile

import pytest

from rfaas.control import messages as m
from rfaas.control.address import AllocatorAddress
from rfaas.control.dial import AdminClient, dial_agent
from rfaas.control.proto import agents_pb2, agents_pb2_grpc
from rfaas.control.tls import ensure_key_pair
from rfaas_transport.errors import AllocatorUnavailable, ConfigError
from support.allocator import AllocatorProcess
from support.allocator_rig import allocator as allocator  # fixtures: pytest finds them by name
from support.allocator_rig import elsewhere, grant, within
from support.allocator_rig import state_dir as state_dir
from support.allocator_rig import with_tls as with_tls

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
