"""Functions that harm their worker, or try to harm what is around it. Importable on workers by name.

Each is bounded: what it starts ends by itself after LAST_S or MOST processes, should nobody end it before.
"""

import atexit
import builtins
import contextlib
import ctypes
import gc
import locale
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

LAST_S = 20.0
MOST = 800  # processes, threads twice as many


def ok():
    """What any function needs: a child, a thread, a print, an import, some memory."""
    done = []
    thread = threading.Thread(target=done.append, args=(1,))
    thread.start()
    thread.join()
    print(end="")
    return subprocess.run(["true"], check=False).returncode, done, len(bytes(1 << 20)), os.getpid()


def pid():
    return os.getpid()


def rest(duration_s):
    time.sleep(duration_s)
    return os.getpid()


# --- ends -------------------------------------------------------------------------------------------------


def exit_with(code=None):
    sys.exit(code)


def exit_at_once(status):
    os._exit(status)


def exit_and_hang():
    atexit.register(time.sleep, LAST_S)
    sys.exit(4)


def exit_in_a_thread():
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    return "alone"


def raise_exit_in_str():
    class Spiteful(Exception):
        def __str__(self):
            raise SystemExit(9)

    raise Spiteful


def return_what_ends_its_reader():
    class Spiteful:
        def __reduce__(self):
            return sys.exit, (7,)

    return Spiteful()


def segfault():
    ctypes.string_at(0)


def abort():
    os.abort()


def recurse():
    return 1 + recurse()


def overflow_the_stack():
    sys.setrecursionlimit(10**9)
    nested = []
    for _ in range(10**5):
        nested = [nested]
    return repr(nested)


def raise_keyboard_interrupt():
    raise KeyboardInterrupt


def kill_self(number):
    os.kill(os.getpid(), number)
    return "alive"


def kill_template():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(LAST_S)


def kill_agent_and_leave_daemons(count):
    """Its own agent, whose template is this worker's parent."""
    leave_daemons(count)
    with open(f"/proc/{os.getppid()}/stat") as stat:
        os.kill(int(stat.read().rpartition(")")[2].split()[1]), signal.SIGKILL)
    time.sleep(LAST_S)


def stop_template():
    os.kill(os.getppid(), signal.SIGSTOP)
    return "stopped"


# --- descriptors ------------------------------------------------------------------------------------------


def own_sockets():
    """The worker's sockets by kind: its connection to the agent keeps packets apart, that to the client is a stream."""
    import socket

    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            one = socket.socket(fileno=os.dup(int(name)))
            found[one.type] = int(name)
            one.close()
    return found[socket.SOCK_SEQPACKET], found[socket.SOCK_STREAM]


def close_all():
    os.closerange(0, 1 << 16)
    return "closed"


def close_standard():
    os.closerange(0, 3)
    return "closed"


def close_control():
    os.close(own_sockets()[0])
    return "closed"


def close_channel():
    os.close(own_sockets()[1])
    return "closed"


def replace_control():
    with open(os.devnull, "r+b") as null:
        os.dup2(null.fileno(), own_sockets()[0])
    return "replaced"


def replace_channel(path):
    with open(path, "wb") as file:
        os.dup2(file.fileno(), own_sockets()[1])
    return "replaced"


def close_pollers():
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("anon_inode:"):
                os.close(int(name))
    return "closed"


def lower_descriptors(for_good=False):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3 if for_good else hard))
    return "lowered"


# --- signals ----------------------------------------------------------------------------------------------


def handle_everything():
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    return "ignored"


def block_everything():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    return "blocked"


def set_timers():
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.setitimer(signal.ITIMER_PROF, 0.01)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
    return "set"


def surroundings(pause_s):
    """Pid, blocked signals, time left on the timer, status of a child that fails (0 where SIGCHLD is ignored)."""
    time.sleep(pause_s)
    status = subprocess.run(["false"], check=False).returncode
    return os.getpid(), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), signal.getitimer(0)[0], status


def raise_in_handler():
    def shout(*_):
        raise LookupError("from a handler")

    for number in signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM:
        signal.signal(number, shout)
    return "installed"


# --- the interpreter --------------------------------------------------------------------------------------


def empty_builtins():
    builtins.__dict__.clear()
    return "emptied"


def replace_builtins():
    builtins.len = builtins.print = builtins.isinstance = None
    return "replaced"


def empty_modules():
    sys.modules.clear()
    sys.path.clear()
    return "emptied"


def spoil_hooks():
    def fail(*_):
        raise RuntimeError("hook")

    sys.excepthook = sys.unraisablehook = threading.excepthook = fail
    gc.disable()
    return "spoilt"


def spoil_streams():
    sys.stdout = sys.stderr = None
    return "spoilt"


def spoil_surroundings(directory):
    os.chdir(directory)
    os.umask(0)
    os.environ.clear()
    locale.setlocale(locale.LC_ALL, "C")
    return "spoilt"


def limit_processor_time():
    resource.setrlimit(resource.RLIMIT_CPU, (0, 1))
    while True:
        pass


def limit_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
    return bytearray(1 << 26)


# --- what stays behind ------------------------------------------------------------------------------------


def sleep_on():
    for number in signal.SIGTERM, signal.SIGINT, signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)
    time.sleep(LAST_S)
    os._exit(0)


def forget_parent():
    """Ask not to be told of the parent's death (PR_SET_PDEATHSIG 0), whoever that is."""
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)


def leave_daemons(count):
    """Double-forked, in sessions of their own, deaf to polite signals; the worker's descriptors stay open in them."""
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                forget_parent()
                sleep_on()
            os._exit(0)
    return os.getpid()


def leave_daemons_and_exit(count):
    leave_daemons(count)
    os._exit(5)


def leave_short_daemon():
    """Detached, and over at once."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    return os.getpid()


def leave_tree(depth, width):
    """A tree whose every process has a session of its own."""
    for _ in range(width):
        if os.fork() == 0:
            os.setsid()
            if depth > 1:
                leave_tree(depth - 1, width)
            sleep_on()
    return os.getpid()


def leave_holders_of_pipes():
    subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LAST_S})"], close_fds=False)
    return os.getpid()


def leave_threads(count):
    for _ in range(count):
        threading.Thread(target=time.sleep, args=(LAST_S,)).start()
    return os.getpid()


def return_in_a_child():
    return "child" if os.fork() == 0 else "parent"


def run_endless_thread():
    def spin():
        until_s = time.monotonic() + LAST_S
        while time.monotonic() < until_s:
            pass

    threading.Thread(target=spin).start()
    return "spinning"


def leave_files():
    """In a directory that ends with the process that made it."""
    from multiprocessing import shared_memory

    segment = shared_memory.SharedMemory(create=True, size=4096)
    with tempfile.TemporaryFile() as file:
        file.write(segment.name.encode())
        os._exit(6)


TRACKER = """
import sys, time
began_s = float(sys.argv[1])
with open(sys.argv[2], "w") as file:
    while True:
        file.seek(0)
        file.write(f"{time.monotonic() - began_s:09.3f}")
        file.flush()
        time.sleep(0.01)
"""


def leave_a_tracker(path):
    """What looks like multiprocessing's, and never ends; it writes for how many seconds it has outlived its worker."""
    command = [sys.executable, "-c", TRACKER, str(time.monotonic()), str(path), "multiprocessing.resource_tracker"]
    subprocess.Popen(command)
    os._exit(7)


# --- bombs ------------------------------------------------------------------------------------------------


def fork_bomb(sessions=False, most=MOST, last_s=6.0):
    """Every process forks as fast as it can, up to `most` in all."""
    count = mmap.mmap(-1, 4096)
    until_s = time.monotonic() + last_s
    while time.monotonic() < until_s:
        (number,) = struct.unpack_from("I", count)
        if number >= most:
            time.sleep(0.05)
            continue
        struct.pack_into("I", count, 0, number + 1)
        if os.fork() == 0 and sessions:
            os.setsid()
    os._exit(0)


def hop(last_s=6.0):
    """One process at a time: it forks, sets up a session, and its parent ends."""
    if os.fork() == 0:
        until_s = time.monotonic() + last_s
        while time.monotonic() < until_s:
            if os.fork():
                os._exit(0)
            os.setsid()
        os._exit(0)
    return os.getpid()


def thread_bomb(most=2 * MOST):
    threading.stack_size(1 << 16)
    for _ in range(most):
        threading.Thread(target=time.sleep, args=(LAST_S,), daemon=True).start()
    time.sleep(LAST_S)


# --- memory, disk, output ---------------------------------------------------------------------------------


def allocate(size_bytes, pause_s=0.0):
    """Fill so much memory, in steps of 16 MiB with a pause after each, and keep it."""
    held = []
    for _ in range(size_bytes >> 24):
        held.append(b"\1" * (1 << 24))
        time.sleep(pause_s)
    time.sleep(LAST_S)


def allocate_in_children(size_bytes, count):
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            allocate(size_bytes // count)
    time.sleep(LAST_S)


def allocate_shared(size_bytes):
    mapped = mmap.mmap(-1, size_bytes)
    for offset in range(0, size_bytes, 4096):
        mapped[offset] = 1
    time.sleep(LAST_S)


def allocate_at_once(size_bytes):
    return len(bytearray(size_bytes))


def flood(size_bytes):
    chunk = b"x" * 65535 + b"\n"
    for _ in range(size_bytes >> 16):
        os.write(1, chunk)
    return size_bytes


def fill(directory):
    with open(os.path.join(directory, "scratch"), "wb") as file:
        while True:
            file.write(bytes(1 << 20))


def payload(size_bytes):
    return bytes(size_bytes)


def size_of(data):
    return len(data)
