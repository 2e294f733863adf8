"""slurmrestd: its addresses, its versions, and what becomes of answers that are wrong. A real one: tests/cluster."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import pytest

from rfaas_slurm_plugin.views.rest_client import RestAddress, RestClient
from rfaas_slurm_plugin.views.rest_view import RestView, _ping_state, choose_version
from rfaas_slurm_plugin.views.view import ClusterUnavailable
from rfaas_transport.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_token(monkeypatch):
    monkeypatch.delenv("SLURM_JWT", raising=False)


@contextmanager
def listening(directory, *answers):
    """A unix socket where each connection gets the next of these answers; yields its address and the requests."""
    requests = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "s"))
        listener.listen()
        listener.settimeout(10.0)

        def serve():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10.0)
                    requests.append(connection.recv(65536).decode())
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield RestAddress.parse(f"unix:{directory}/s"), requests
        thread.join()


def answer(body, status="200 OK", *headers):
    text = body if isinstance(body, str) else json.dumps(body)
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n" + text).encode()


def get(address, **limits):
    with RestClient(address, timeout_s=5.0) as client:
        return client.get("/x", **limits)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("unix:/run/s.sock", "unix:/run/s.sock"),
        ("http://head:6820", "http://head:6820"),
        ("http://head", "http://head:6820"),
        ("https://head.example", "https://head.example:443"),
        ("http://[::1]:7", "http://[::1]:7"),
    ],
)
def test_addresses(text, shown):
    assert str(RestAddress.parse(text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/run/s.sock",
        "unix:s.sock",
        "unix://host/s",
        "ftp://head",
        "http://",
        "http://head:port",
        "http://head/slurm",
        "http://user:pass@head",
        "http://head?x=1",
    ],
)
def test_what_is_no_address_is_refused_with_the_forms(text):
    with pytest.raises(ConfigError) as refused:
        RestAddress.parse(text)
    assert "unix:/path/to/socket" in refused.value.hint


def test_a_token_goes_into_the_header_and_is_read_again_when_renewed(tmp_path):
    token = tmp_path / "token"
    token.touch(mode=0o600)
    address = RestAddress.parse("unix:/s", token)
    for text in ("SLURM_JWT=abc.def-1_2\n", "xyz"):
        token.write_text(text)
        assert address.headers()["X-SLURM-USER-TOKEN"] == text.strip().removeprefix("SLURM_JWT=")
        assert address.headers()["X-SLURM-USER-NAME"]


def test_without_a_token_the_sockets_user_counts():
    assert RestAddress.parse("unix:/s").headers() == {}


def test_slurms_own_variable_is_heard(monkeypatch):
    monkeypatch.setenv("SLURM_JWT", "abc")
    assert RestAddress.parse("unix:/s").headers()["X-SLURM-USER-TOKEN"] == "abc"


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("abc", 0o644, "others may read"),
        ("", 0o600, "empty"),
        ("a b", 0o600, "no JSON web token"),
        ("a\r\nX-Evil: 1", 0o600, "no JSON web token"),
        (None, 0, "can't be read"),
    ],
)
def test_a_token_that_is_none_or_that_others_can_read_is_refused(tmp_path, text, mode, words):
    token = tmp_path / "token"
    if text is not None:
        token.touch(mode=mode)
        token.write_text(text)
    with pytest.raises(ConfigError, match=words):
        RestAddress.parse("unix:/s", token).headers()


def test_an_answer(tmp_path):
    with listening(tmp_path, answer({"a": 1, "errors": []})) as (address, requests):
        assert get(address)["a"] == 1
    assert requests[0].startswith("GET /x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            answer({"errors": [{"description": "no controller", "source": "x"}]}, "500 INTERNAL ERROR"),
            "no controller, x",
        ),
        (answer({"errors": [{"error": "later"}]}), "later"),
        (answer("Authentication failure", "401 UNAUTHORIZED"), "does not believe"),
        (answer("Unable find requested URL", "404 NOT FOUND"), "status 404"),
        (answer("[1]"), "no JSON object"),
        (answer("[" * 60_000), "no JSON"),
        (answer("", "302 FOUND", "Location: http://elsewhere/"), "status 302"),
        (b"", "closed connection|without response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", "many"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{}", "at most"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "after 2 of 100 bytes"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 70_000, "more than 65536"),
        (b"\x00\xff\r\n\r\n", "x"),
    ],
)
def test_a_wrong_answer_is_unavailable_and_says_why(tmp_path, wrong, words):
    with listening(tmp_path, wrong) as (address, _), pytest.raises(ClusterUnavailable, match=words):
        get(address, limit_bytes=65536)


def test_nobody_there_is_unavailable(tmp_path):
    with pytest.raises(ClusterUnavailable, match="No such file"):
        get(RestAddress.parse(f"unix:{tmp_path}/nobody"))


def test_an_answer_that_does_not_come_is_unavailable(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with (
            RestClient(RestAddress.parse(f"unix:{tmp_path}/s"), timeout_s=0.1) as client,
            pytest.raises(ClusterUnavailable, match="no answer in time"),
        ):
            client.get("/x")


def test_the_newest_version_that_is_known_is_chosen():
    paths = [f"/slurm/v0.0.{number}/{name}" for number in (36, 38, 40, 99) for name in ("nodes/", "node/{n}", "jobs/")]
    assert choose_version(paths) == 40
    assert choose_version(["/slurm/v0.0.37/nodes", "/slurmdb/v0.0.41/nodes", "/openapi/v3"]) == 37


@pytest.mark.parametrize(("paths", "has"), [(["/slurm/v0.0.99/nodes"], "v0.0.99"), ([], "none that lists nodes")])
def test_no_known_version_is_refused_with_those_there_are(paths, has):
    with pytest.raises(ClusterUnavailable, match=has):
        choose_version(paths)


def test_the_version_is_asked_once_and_a_view_is_one_get_of_each_kind(tmp_path):
    document = answer({"paths": {"/slurm/v0.0.38/nodes": {}}})
    lists = [answer({name: []}, "200 OK", "Connection: close") for name in ("nodes", "jobs", "reservations")]
    with listening(tmp_path, document, *lists, *lists) as (address, requests):
        view = RestView(address)
        for _ in range(2):
            assert asyncio.run(view.read()).nodes == ()
    asked = [request.split()[1] for request in requests]
    assert asked == ["/openapi/v3", *[f"/slurm/v0.0.38/{name}" for name in ("nodes", "jobs", "reservations")] * 2]


@pytest.mark.parametrize(
    ("one", "state"),
    [({"ping": "UP"}, "UP"), ({"pinged": "UP", "responding": True}, "UP"), ({"responding": False}, "DOWN"), (3, "")],
)
def test_pings_of_all_versions(one, state):
    assert _ping_state(one) == state
