"""A session core with a clock of its own, and short words for the events that tests need."""

from rfaas.control.messages import Granted, LeaseTerms
from rfaas.session.core import SessionCore
from rfaas.session.events import (
    AgentSaid,
    AgentUp,
    AllocatorSaid,
    AllocatorUp,
    ClientJoined,
    ClientSaid,
    DialAgent,
    DialData,
    Tick,
    ToAgent,
    ToAllocator,
    ToClient,
)

CLIENT = b"c" * 16
OTHER = b"d" * 16
AGENT = "unix:@agent"
ENV = {"python": "/usr/bin/python3"}
TTL_S = 8.0


class Harness:
    """Collects effects; `take` returns and forgets them."""

    def __init__(self, **settings):
        defaults = {"mode": "personal", "uid": 1, "pid": 7, "allocator": "here", "linger_s": 5.0, "first_channel": 100}
        self.core = SessionCore(**(defaults | settings))
        self.now_s = 1000.0
        self.effects = []

    def step(self, event):
        new = self.core.step(event, self.now_s)
        self.effects += new
        return new

    def advance(self, seconds):
        """Let time pass, with a Tick whenever the core asks for one."""
        end_s = self.now_s + seconds
        while self.core.next_s is not None and self.core.next_s <= end_s:
            self.now_s = max(self.core.next_s, self.now_s)
            self.step(Tick())
        self.now_s = end_s

    def take(self, kind=None):
        taken, self.effects = self.effects, []
        return [effect for effect in taken if kind is None or isinstance(effect, kind)]

    def said(self, conn=1):
        """Messages to a client since the last take, which this is one of."""
        return [effect.message for effect in self.take(ToClient) if effect.conn == conn]

    # --- words ----------------------------------------------------------------------------------------------

    def link(self):
        return self.step(AllocatorUp())

    def join(self, conn=1, client=CLIENT, resume=(), version=1):
        join = {"m": "join", "client": client, "version": version, "start": 1, "env": ENV, "resume": list(resume)}
        return self.step(ClientJoined(conn, 4711, "python (pid 4711)", join))

    def want(self, workers, executor=1, conn=1, **hints):
        want = {"m": "want", "executor": executor, "workers": workers, "cores": 1, "memory_bytes": 5, **hints}
        return self.step(ClientSaid(conn, want))

    def client_says(self, m, conn=1, **keys):
        return self.step(ClientSaid(conn, {"m": m, **keys}))

    def grant(self, number=1, client=CLIENT, executor=1, workers=1, address=AGENT, kind=""):
        terms = LeaseTerms(lease(number), number, b"s" * 16, 3, client, executor, workers, 1, 5, TTL_S, kind=kind)
        return self.step(AllocatorSaid(Granted(terms, tuple(range(workers)), "n1", address)))

    def agent_says(self, m, number=None, address=AGENT, **keys):
        if number is not None:
            keys["lease"] = lease(number)
        return self.step(AgentSaid(address, {"m": m, **keys}))

    def agent_up(self, address=AGENT):
        return self.step(AgentUp(address))

    def serve(self, number=1, **grant):
        """Bring one lease with one worker to the point where its data connection is dialled; return the channel."""
        self.grant(number, **grant)
        if DialAgent(AGENT) in self.effects:
            self.agent_up()
        self.agent_says("attached", number, cores=[0], expires_in_s=TTL_S)
        self.agent_says("worker-up", number, slot=0, generation=1, pid=9)
        return [effect for effect in self.take(DialData)][-1].channel


def lease(number):
    return bytes([number]) * 16


def to_agent(effects, m):
    return [e.message for e in effects if isinstance(e, ToAgent) and e.message["m"] == m]


def to_allocator(effects):
    return [effect.message for effect in effects if isinstance(effect, ToAllocator)]
