"""The other host's side of test_two_hosts.py: echo.py ADDRESS listens there, says its port, sends each frame back."""

import socket
import sys

from rfaas_transport._core import Channel
from rfaas_transport.errors import RfaasError


def main() -> None:
    with socket.create_server((sys.argv[1], 0)) as server:
        print(server.getsockname()[1], flush=True)
        while True:
            sock, _ = server.accept()
            with Channel.from_verbs(sock.detach()) as channel:  # on the device that has the socket's own address
                echo(channel)


def echo(channel: Channel) -> None:
    try:
        while channel.wait(60.0):
            while (frame := channel.poll()) is not None:
                channel.send(frame.kind, call_id=frame.call_id, segments=[bytes(each) for each in frame.segments])
    except RfaasError as error:
        print(f"{type(error).__name__}: {error}", flush=True)


if __name__ == "__main__":
    main()
