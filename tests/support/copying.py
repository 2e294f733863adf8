"""A program that measures what calls copy, at both ends, under copycount.c; prints JSON. Arguments: transport, bytes.

Run with LD_PRELOAD (and RFAAS_ENV_PASS=LD_PRELOAD, so that workers have it too).
"""

import ctypes
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import rfaas

KINDS = ("memory", "sent", "received")


def reset():
    ctypes.CDLL(None).copycount_reset()


def counts():
    read = ctypes.CDLL(None).copycount_read
    read.restype = ctypes.c_uint64
    return {name: read(number) for number, name in enumerate(KINDS)}


def takes(x):
    return float(x[-1])


def copies(x):
    return float(bytes(x.data)[0])


def gives(n):
    return np.full(n, 3.0)


def gives_in_place(n):
    y = rfaas.empty(n)
    y.fill(3.0)
    return y


def gives_and_keeps(n):
    global kept
    kept = rfaas.empty(n)
    kept.fill(3.0)
    return kept


def gives_after_others(n):
    x = np.full(n, 1.0)
    y = np.sqrt(x)
    return x + y + 1.0


def gives_and_keeps_numpys(n):
    global kept
    kept = np.full(n, 3.0)
    return kept


def gives_a_threads(n):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(np.full, n, 3.0).result()


def returns(x):
    return x


def takes_bytes(data):
    return float(len(data))


def measured(ex, function, argument):
    """Copies of one call at the caller and at the worker, once everything has its size."""
    for _ in range(4):
        ex.submit(function, argument).result()
    ex.submit(reset).result()
    reset()
    result = ex.submit(function, argument).result()
    here = counts()
    there = ex.submit(counts).result()
    ok = isinstance(result, float) or bool(result.flags.writeable and result.flags.aligned and (result == 3.0).all())
    return {"client": here, "worker": there, "right": ok}


def main():
    transport, size_bytes = sys.argv[1], int(sys.argv[2])
    n = size_bytes // 8
    plain = np.full(n, 3.0)
    ours = rfaas.empty(n)
    ours.fill(3.0)
    with rfaas.Executor(max_workers=1, transport=transport) as ex:
        found = {
            "argument": measured(ex, takes, plain),
            "result": measured(ex, gives, n),
            "argument of rfaas.empty": measured(ex, takes, ours),
            "result of rfaas.empty": measured(ex, gives_in_place, n),
            "result that is kept": measured(ex, gives_and_keeps, n),
            "result of numpy after others": measured(ex, gives_after_others, n),
            "result of numpy that is kept": measured(ex, gives_and_keeps_numpys, n),
            "result of a thread": measured(ex, gives_a_threads, n),
            "returned argument": measured(ex, returns, plain),
            "returned argument of rfaas.empty": measured(ex, returns, ours),
            "argument that the function copies": measured(ex, copies, ours),
            "memoryview": measured(ex, takes_bytes, memoryview(bytearray(size_bytes))),
            "bytes": measured(ex, takes_bytes, bytes(size_bytes)),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
