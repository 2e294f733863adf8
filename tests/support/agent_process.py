"""`python -m support.agent_process`: a real agent whose allocator is the test at the other end of its pipes.

Standard input and output carry pickled control messages behind their length; both ends are this test's own processes.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import secrets
import sys

from rfaas.control.links import LinkBroken
from rfaas.control.messages import Slice
from rfaas_executors.agent import Agent
from rfaas_executors.agent_events import AgentConfig
from rfaas_executors.command import cpus_to_pin, run_until_reclaimed
from rfaas_executors.doors import listen_at, listen_here
from rfaas_executors.family import adopt_orphans
from rfaas_executors.template_host import Surroundings


class PipeLink:
    """A link over two pipes."""

    def __init__(self, reader: asyncio.StreamReader, out_fd: int) -> None:
        self._reader = reader
        self._out_fd = out_fd

    def send(self, message: object) -> None:
        data = pickle.dumps(message)
        os.write(self._out_fd, len(data).to_bytes(4, "little") + data)

    async def receive(self) -> object:
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "little")
            return pickle.loads(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise LinkBroken(str(error)) from error

    async def flush(self, timeout_s: float) -> None:
        """Pipes are written at once."""

    def close(self) -> None:
        """The pipes end with the process."""


async def main() -> int:
    options = pickle.loads(bytes.fromhex(sys.argv[1]))
    adopt_orphans()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    words = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # prints of functions must not meet the messages
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(0), "rb", buffering=0))
    listener, address = listen_at("127.0.0.1", None) if options["tcp"] else listen_here()
    offered = Slice(
        options["slice_id"],
        "testnode",
        options["cores"],
        1 << 40,
        address,
        job_id=options["job_id"],
        grace_s=options["grace_s"],
        end_in_s=None,
    )
    config = AgentConfig(
        offered,
        secrets.token_bytes(16),
        drain_s=options["drain_s"],
        cpus=cpus_to_pin(options["cores"]),
        template_linger_s=options["template_linger_s"],
    )

    async def dial() -> PipeLink:
        return PipeLink(reader, words.fileno())

    surroundings = Surroundings("testnode", options["slice_id"], sched=options["sched"])
    return await run_until_reclaimed(
        Agent(config, dial, options["secret"], listener=listener, surroundings=surroundings)
    )


if __name__ == "__main__":
    os._exit(asyncio.run(main()))  # as the agent's own command does: nothing is left that tearing down would save
