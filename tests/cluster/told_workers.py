"""A program of a user's that keeps its workers as it is told on standard input, a word a line: idle, busy, stubborn.

It answers "ready" once every worker is so. Run by `reclaiming` on the cluster's head, from the user's home.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
from concurrent.futures import CancelledError
from pathlib import Path

import rfaas


def spin(number, length_s, stubborn, witness):
    import signal
    import socket
    import time

    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if witness:
        fd = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{number}\n".encode())
        os.close(fd)
    until = time.monotonic() + length_s
    while time.monotonic() < until:
        pass
    return socket.gethostname(), os.getpid()


class Workers:
    def __init__(self, ex, n, witness):
        self.ex, self.n, self.witness, self.count, self.running = ex, n, witness, 0, {}

    def submit(self, length_s, stubborn=False):
        self.count += 1
        witness = str(self.witness) if stubborn else ""
        self.running[self.count] = self.ex.submit(spin, self.count, length_s, stubborn, witness)

    def collect(self):
        ended = {number: f for number, f in self.running.items() if f.done()}
        for number in ended:
            del self.running[number]
        found = set()
        for future in ended.values():
            # its cores went back while it ran, or `rest` ended it
            with contextlib.suppress(rfaas.Reclaimed, rfaas.Cancelled, CancelledError):
                found.add(future.result())
        return found

    def until_all(self, length_s, ahead, deadline_s):
        seen = set()
        while len(seen) < self.n:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{len(seen)} of {self.n} workers answered")
            while len(self.running) < ahead:
                self.submit(length_s)
            seen |= self.collect()
            time.sleep(0.005)

    def rest(self):
        for future in self.running.values():
            if not future.cancel():
                future.cancel(interrupt=True)
        while self.running:
            self.collect()
            time.sleep(0.005)

    def all_stubborn(self, length_s, deadline_s):
        started = set()
        while True:
            self.collect()
            while len(self.running) < self.n:
                self.submit(length_s, stubborn=True)
            if self.witness.exists():
                started = {int(line) for line in self.witness.read_text().splitlines()}
            if set(self.running) <= started:
                return
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{len(started & set(self.running))} of {self.n} calls started")
            time.sleep(0.005)


def words():
    for line in sys.stdin:
        told.put(line.strip())
    told.put("end")


given = json.loads(sys.argv[1])
told = queue.SimpleQueue()
threading.Thread(target=words, daemon=True).start()
with rfaas.Executor(max_workers=given["n"]) as ex:
    workers = Workers(ex, given["n"], Path(given["witness"]))
    mode = ""
    while mode != "end":
        before, mode = mode, told.get()
        deadline_s = time.monotonic() + given["ready_s"]
        if mode != before and "stubborn" in (mode, before):
            workers.rest()
        if mode == "idle":
            workers.until_all(0.02, given["n"], deadline_s)
            workers.rest()
        elif mode == "stubborn":
            workers.all_stubborn(600.0, deadline_s)
        elif mode == "busy":
            workers.until_all(0.01, 4 * given["n"], deadline_s)
        if mode != "end":
            print("ready", flush=True)
        while mode == "busy" and told.empty():
            while len(workers.running) < 4 * given["n"]:
                workers.submit(0.01)
            workers.collect()
            time.sleep(0.002)
    workers.rest()
