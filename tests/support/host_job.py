"""A job beside a slice, and functions that surely slow it: python host_job.py FILE HARM_S FRESH_S.

An iteration takes 2 ms, and HARM_S more if a function has written the time to FILE within the last FRESH_S. So it is
slowed exactly while functions run, as a neighbour on a memory bus is, whatever else the machine does.
"""

import mmap
import os
import struct
import sys
import time

ITERATION_S = 0.002
STAMP = struct.Struct("=d")


def opened(path):
    """The page that both sides share."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    page = mmap.mmap(descriptor, mmap.PAGESIZE)
    os.close(descriptor)
    return page


def disturb(path, seconds):
    """What a function does: say all the time that it runs. Returns how often it could."""
    page, until_s, times = opened(path), time.monotonic() + seconds, 0
    while (now_s := time.monotonic()) < until_s:
        STAMP.pack_into(page, 0, now_s)
        times += 1
    return times


def main():
    import rfaas

    path, harm_s, fresh_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    page = opened(path)
    while True:
        time.sleep(ITERATION_S)
        if time.monotonic() - STAMP.unpack_from(page)[0] < fresh_s:
            time.sleep(harm_s)
        rfaas.mark()


if __name__ == "__main__":
    main()
