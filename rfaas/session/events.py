"""What goes into the session core and what comes out of it: plain values, no I/O (docs/spec/004-session.md).

`conn` numbers a client's connection; an agent is named by its address; `channel` numbers a data connection.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfaas.control.messages import AllocatorToHolder, HolderMessage
from rfaas_transport.messages import Message

# --- events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientJoined:
    """A client proved its uid and its process, and sent `join`."""

    conn: int
    pid: int
    name: str  # for people: program and pid
    join: Message


@dataclass(frozen=True, slots=True)
class ClientSaid:
    """A message of a client that has joined."""

    conn: int
    message: Message


@dataclass(frozen=True, slots=True)
class ClientGone:
    """The process ended (pidfd), or its last copy of the socket is closed."""

    conn: int


@dataclass(frozen=True, slots=True)
class AllocatorUp:
    """A new link to the allocator; it knows nothing of us."""


@dataclass(frozen=True, slots=True)
class AllocatorDown:
    """The link broke, or could not be made; somebody is trying again. `code` as in `reject`."""

    why: str
    code: str = "allocator-unavailable"


@dataclass(frozen=True, slots=True)
class AllocatorSaid:
    """A message of the allocator."""

    message: AllocatorToHolder


@dataclass(frozen=True, slots=True)
class AgentThere:
    """Somebody listens at this address: the handshake has begun. AgentUp or AgentDown follows, within ANSWER_S."""

    address: str


@dataclass(frozen=True, slots=True)
class AgentUp:
    """The session connection to this agent is open and authenticated."""

    address: str


@dataclass(frozen=True, slots=True)
class AgentDown:
    """The session connection broke, or could not be made.

    `refused`: nobody listens at an address of this node: an agent that did is dead.
    `retry`: False when trying again can't help.
    `silent`: the agent's host acknowledges nothing, or nothing leads to it: more than a dead agent.
    """

    address: str
    why: str
    refused: bool = False
    retry: bool = True
    silent: bool = False


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """A message of an agent."""

    address: str
    message: Message


@dataclass(frozen=True, slots=True)
class DataUp:
    """The data connection is open; the shell holds its descriptor until told."""

    channel: int


@dataclass(frozen=True, slots=True)
class DataDown:
    """The data connection could not be made.

    `gone`: the agent has no such worker. `refusal`: the code with which the agent refuses its medium
    ("encryption-required", "encryption-unavailable", "verbs-unavailable"; 004 section 1).
    """

    channel: int
    why: str
    gone: bool = False
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class SiteSaid:
    """Why the site lends nothing for workers of this size; an empty code: it has lent. `for_good`: it never will."""

    cores: int
    memory_bytes: int
    code: str
    hint: str
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; see `SessionCore.next_s`."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Give everything back and leave (SIGTERM); `at_once`: without waiting for farewells (a second SIGTERM)."""

    at_once: bool = False


Event = (
    ClientJoined
    | ClientSaid
    | ClientGone
    | AllocatorUp
    | AllocatorDown
    | AllocatorSaid
    | AgentThere
    | AgentUp
    | AgentDown
    | AgentSaid
    | DataUp
    | DataDown
    | SiteSaid
    | Tick
    | Stop
)


# --- effects --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToClient:
    """Send; with the descriptor of data connection `channel` if that is not 0, which the shell then forgets."""

    conn: int
    message: Message
    channel: int = 0


@dataclass(frozen=True, slots=True)
class DropClient:
    """Close this client's connection once what was sent to it has gone."""

    conn: int


@dataclass(frozen=True, slots=True)
class ToAllocator:
    """Send over the link to the allocator."""

    message: HolderMessage


@dataclass(frozen=True, slots=True)
class DialAgent:
    """Open the session connection; answered by AgentUp or AgentDown."""

    address: str


@dataclass(frozen=True, slots=True)
class CloseAgent:
    """Close the session connection or stop dialling; not answered."""

    address: str


@dataclass(frozen=True, slots=True)
class ToAgent:
    """Send over the session connection, which is up."""

    address: str
    message: Message


@dataclass(frozen=True, slots=True)
class DialData:
    """Open a data connection; answered by DataUp or DataDown."""

    address: str
    channel: int
    params: Message


@dataclass(frozen=True, slots=True)
class CloseData:
    """Close the descriptor of a data connection that nobody will take, or stop dialling; not answered."""

    channel: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing is left to do: the process ends."""


Effect = ToClient | DropClient | ToAllocator | DialAgent | CloseAgent | ToAgent | DialData | CloseData | Leave
