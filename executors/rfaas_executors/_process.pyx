"""What the processes of a slice ask of the kernel and Python doesn't offer; `_process.pyi` holds the types.

Must not hold policy and must not import anything: it is loaded in the user's own environment.
Spec: docs/spec/001-invocation.md section 5 (state page).
"""

import os

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy


cdef extern from "state_page.h" nogil:
    enum:
        RFAAS_PAGE_SIZE_BYTES
        RFAAS_PAGE_SLOTS
        RFAAS_PAGE_USAGE_OFFSET
        RFAAS_PAGE_OUTPUT_OFFSET
        RFAAS_PAGE_WORDS_OFFSET
        RFAAS_PAGE_WORDS_BYTES
    ctypedef struct rfaas_page_slot:
        uint64_t channel
        uint64_t started
        uint64_t done
        uint64_t deadline_boot_ns
        uint64_t started_boot_ns
    ctypedef struct rfaas_page_usage:
        uint64_t running_ns
        uint64_t hot_ns
        uint64_t calls
        uint64_t bytes_in
        uint64_t bytes_out
    ctypedef struct rfaas_page_output:
        uint64_t takes
    void rfaas_page_take_output(rfaas_page_output *output)
    uint64_t rfaas_page_output_takes(const rfaas_page_output *output)
    void rfaas_page_account(rfaas_page_usage *usage, uint64_t running_ns, uint64_t bytes_in, uint64_t bytes_out)
    void rfaas_page_read_usage(const rfaas_page_usage *usage, rfaas_page_usage *copy)
    void rfaas_page_open(rfaas_page_slot *slot, uint64_t channel)
    bint rfaas_page_start(rfaas_page_slot *slot, uint64_t call_id, uint64_t deadline_boot_ns, uint64_t now_boot_ns)
    bint rfaas_page_finish(rfaas_page_slot *slot, uint64_t call_id)
    bint rfaas_page_interrupt(rfaas_page_slot *slot, uint64_t call_id)
    void rfaas_page_read(const rfaas_page_slot *slot, rfaas_page_slot *copy)

cdef extern from "quiet_signals.h" nogil:
    int rfaas_quiet_install()
    int rfaas_quiet_restore()
    void rfaas_quiet_hold()
    void rfaas_quiet_let_go()

cdef extern from "held.h" nogil:
    ctypedef struct rfaas_held:
        int fd
    int rfaas_hold(int fd, rfaas_held *held)
    bint rfaas_is_held(const rfaas_held *held)

cdef extern from "put_back.h" nogil:
    int rfaas_remember()
    bint rfaas_put_back()
    int rfaas_exit_within(int ms, int status)

cdef extern from "fork_mark.h" nogil:
    int rfaas_mark_process()
    bint rfaas_is_marked_process()

cdef extern from "orphan_watch.h" nogil:
    int rfaas_orphan_watch(int parent, int last_ms)

cdef extern from "<errno.h>" nogil:
    int errno

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5)
    enum:
        PR_SET_PDEATHSIG
        PR_SET_CHILD_SUBREAPER

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    void *MAP_FAILED
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int command, int argument)
    enum:
        F_ADD_SEALS
        F_SEAL_SHRINK
        F_SEAL_GROW
        F_SEAL_SEAL

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, int *answer)
    enum:
        FIONREAD

cdef extern from "<stdio.h>" nogil:
    ctypedef struct FILE:
        pass
    FILE *stdout
    int fflush(FILE *stream)
    int setvbuf(FILE *stream, char *buffer, int mode, size_t size)
    enum:
        _IOLBF
        BUFSIZ

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum:
        CLOCK_BOOTTIME


cdef object failed(str what):
    return OSError(errno, f"{what}: {os.strerror(errno)}")


cdef uint64_t boot_now_ns() noexcept:
    cdef timespec now
    clock_gettime(CLOCK_BOOTTIME, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec


cdef class StatePage:
    """Which call each channel of one worker started last and ended last, and what all cost: shared with the agent."""

    cdef rfaas_page_slot *slots
    cdef rfaas_page_usage *costs  # NULL: an agent of the version before made the page
    cdef rfaas_page_output *output  # as `costs`
    cdef uint64_t known_takes
    cdef size_t size_bytes
    cdef int fd

    N_SLOTS = RFAAS_PAGE_SLOTS

    def __cinit__(self):
        self.slots = NULL
        self.costs = NULL
        self.output = NULL
        self.known_takes = 0
        self.fd = -1

    @staticmethod
    def create():
        """Make an empty page in a memfd that can't change its size (a reader never meets SIGBUS)."""
        cdef int fd = os.memfd_create("rfaas-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, RFAAS_PAGE_SIZE_BYTES)
            if fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0:
                raise failed("seal the state page")
            return StatePage.from_fd(fd)
        except BaseException:
            os.close(fd)
            raise

    @staticmethod
    def from_fd(int fd):
        """Map the page behind a descriptor and own that descriptor.

        Raises:
            OSError: it can't be mapped or is too small; the descriptor stays the caller's.
        """
        cdef StatePage page = StatePage.__new__(StatePage)
        cdef size_t given_bytes = os.fstat(fd).st_size
        if given_bytes < RFAAS_PAGE_USAGE_OFFSET:
            raise OSError("the state page is too small")
        page.size_bytes = RFAAS_PAGE_SIZE_BYTES if given_bytes >= RFAAS_PAGE_SIZE_BYTES else RFAAS_PAGE_USAGE_OFFSET
        cdef void *address = mmap(NULL, page.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if address == MAP_FAILED:
            raise failed("map the state page")
        page.slots = <rfaas_page_slot *>address
        if page.size_bytes == RFAAS_PAGE_SIZE_BYTES:
            page.costs = <rfaas_page_usage *>(<char *>address + RFAAS_PAGE_USAGE_OFFSET)
            page.output = <rfaas_page_output *>(<char *>address + RFAAS_PAGE_OUTPUT_OFFSET)
        page.fd = fd
        return page

    cdef rfaas_page_slot *at(self, int slot) except NULL:
        if self.slots == NULL:
            raise ValueError("the state page is closed")
        if not 0 <= slot < RFAAS_PAGE_SLOTS:
            raise IndexError(f"slot {slot} is outside 0..{RFAAS_PAGE_SLOTS - 1}")
        return &self.slots[slot]

    def fileno(self):
        """The memfd, owned by the page; -1 after `detach`."""
        return self.fd

    def detach(self):
        """Return the memfd, which is the caller's from now on; the page stays mapped."""
        fd, self.fd = self.fd, -1
        return fd

    def open(self, int slot, uint64_t channel):
        """Give a slot to a channel: nothing started, nothing done."""
        rfaas_page_open(self.at(slot), channel)

    def start(self, int slot, uint64_t call_id, uint64_t remaining_ns=0):
        """Say that a call starts, before any byte of the user's is unpickled or run.

        Args:
            remaining_ns: what is left to the call from now on; 0: it has no deadline.
        Returns:
            False if the call was interrupted before: it must not run.
        """
        cdef rfaas_page_slot *here = self.at(slot)
        cdef uint64_t now_boot_ns = boot_now_ns()
        return bool(rfaas_page_start(here, call_id, now_boot_ns + remaining_ns if remaining_ns else 0, now_boot_ns))

    def finish(self, int slot, uint64_t call_id, uint64_t bytes_in=0, uint64_t bytes_out=0):
        """Say that the call is over: its result is serialised and nothing of it was sent yet.

        Args:
            bytes_in, bytes_out: payload of the call and of its result, for the account.
        Returns:
            False if the call was interrupted: the agent may be about to kill this process, which starts no other call.
        """
        cdef rfaas_page_slot *here = self.at(slot)
        cdef uint64_t running_ns = boot_now_ns() - here.started_boot_ns
        cdef bint goes_on = rfaas_page_finish(here, call_id)
        if self.costs != NULL:
            rfaas_page_account(self.costs, running_ns, bytes_in, bytes_out)
        return bool(goes_on)

    def interrupt(self, int slot, uint64_t call_id):
        """Take a call back, as the agent.

        Returns:
            True if it runs or is about to end: kill the worker, which starts no other call. False if it is over, or has
            not started and never will.
        """
        return bool(rfaas_page_interrupt(self.at(slot), call_id))

    def account_hot(self, uint64_t hot_ns):
        """Add time that the worker spent polling for the next call."""
        if self.costs != NULL:
            self.costs.hot_ns += hot_ns

    def account_served(self, uint64_t running_ns, uint64_t n_requests, uint64_t bytes_in, uint64_t bytes_out):
        """Add requests that took `running_ns` together, and their payloads; of what serves no calls."""
        if self.costs != NULL and n_requests > 0:
            rfaas_page_account(self.costs, running_ns, bytes_in, bytes_out)
            self.costs.calls += n_requests - 1

    def usage(self):
        """Return (running_ns, hot_ns, calls, bytes_in, bytes_out) of calls that ended; read it before the slots."""
        cdef rfaas_page_usage copy
        self.at(0)
        if self.costs == NULL:
            return 0, 0, 0, 0, 0
        rfaas_page_read_usage(self.costs, &copy)
        return copy.running_ns, copy.hot_ns, copy.calls, copy.bytes_in, copy.bytes_out

    def progress_places(self, int slot):
        """Addresses of what `start` and `finish` write, for who looks without Python; as long as the page is not closed."""
        cdef rfaas_page_slot *here = self.at(slot)
        return <uintptr_t>&here.started, <uintptr_t>&here.done

    def take_output(self):
        """Say, as the agent, that what the worker printed is about to be taken; a pipe that holds nothing is left."""
        self.at(0)
        if self.output != NULL:
            rfaas_page_take_output(self.output)

    def printed(self, int out_fd, int err_fd):
        """Whether anything was written to either of these pipes since the last time; costs two short system calls.

        What C's own stdout still holds is written first. True may mean that the agent was late with what is older.
        """
        cdef int out_bytes = 0, err_bytes = 0
        cdef uint64_t takes
        self.at(0)
        if self.output == NULL:
            return False
        with nogil:
            fflush(stdout)
            ioctl(out_fd, FIONREAD, &out_bytes)
            ioctl(err_fd, FIONREAD, &err_bytes)
        takes = rfaas_page_output_takes(self.output)  # after the look into the pipes
        if takes == self.known_takes and not out_bytes and not err_bytes:
            return False
        self.known_takes = takes
        return True

    def read(self, int slot):
        """Return (channel, started, done, deadline_boot_ns, started_boot_ns); exact once the worker is dead."""
        cdef rfaas_page_slot copy
        rfaas_page_read(self.at(slot), &copy)
        return copy.channel, copy.started, copy.done, copy.deadline_boot_ns, copy.started_boot_ns

    def say_last(self, bytes text):
        """Leave a text for people, why this process ends; one that is too long is cut."""
        cdef uint32_t n_bytes = <uint32_t>min(len(text), RFAAS_PAGE_WORDS_BYTES)
        cdef const char *data = text
        cdef char *where
        if self.costs != NULL:
            where = <char *>self.slots + RFAAS_PAGE_WORDS_OFFSET
            memcpy(where + sizeof(n_bytes), data, n_bytes)
            memcpy(where, &n_bytes, sizeof(n_bytes))

    def words_place(self):
        """(address, bytes): where last words may be written without Python, by a handler of a signal.

        As long as the page is not closed. (0, 0): an older agent made it, there is no such place.
        """
        if self.costs == NULL:
            return 0, 0
        return <uintptr_t>self.slots + RFAAS_PAGE_WORDS_OFFSET, RFAAS_PAGE_WORDS_BYTES + sizeof(uint32_t)

    def places(self, int slot):
        """(slot, usage, output, known takes): addresses, for C code that serves calls; valid until the page is closed.

        The last is where `printed` keeps how often the agent had taken something. 0: an older agent made the page.
        """
        return (<uintptr_t>self.at(slot), <uintptr_t>self.costs, <uintptr_t>self.output, <uintptr_t>&self.known_takes)

    def last_words(self):
        """What the worker, or a function of its, left there: bytes of anybody's making; b"" if nothing."""
        cdef uint32_t n_bytes = 0
        if self.costs == NULL:
            return b""
        cdef const char *where = <const char *>self.slots + RFAAS_PAGE_WORDS_OFFSET
        memcpy(&n_bytes, where, sizeof(n_bytes))
        if n_bytes > RFAAS_PAGE_WORDS_BYTES:
            return b""
        return (where + sizeof(n_bytes))[:n_bytes]

    def close(self):
        """Unmap and close; repeatable."""
        if self.slots != NULL:
            munmap(self.slots, self.size_bytes)
            self.slots = NULL
            self.costs = NULL
            self.output = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __dealloc__(self):
        if self.slots != NULL:
            munmap(self.slots, self.size_bytes)
        if self.fd >= 0:
            try:
                os.close(self.fd)
            except OSError:  # nobody is left to tell
                pass


def line_buffer_c_output():
    """Have C's own stdout write whole lines at once, as on a terminal."""
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ)


cdef uint64_t n_written = 0


def count_write():
    """Say that something was written to one of Python's own streams."""
    global n_written
    n_written += 1


def written_place():
    """Address of how often that was said, for who looks without Python."""
    return <uintptr_t>&n_written


def mark_process():
    """Make this process the one for which `is_marked_process` is true, and no copy of it that anybody forks.

    Raises:
        OSError: no memory.
    """
    if rfaas_mark_process() != 0:
        raise failed("mmap")


def is_marked_process():
    """False in a process that was forked off the marked one. Asked after every call: it costs no system call."""
    return bool(rfaas_is_marked_process())


def marked_process_check():
    """Address of the C function behind `is_marked_process`: `bool (void)`."""
    return <uintptr_t><void *>&rfaas_is_marked_process


def install_quiet_signals():
    """Make SIGTERM and SIGINT do nothing in this process, until `restore_signals`; repeatable, cheap.

    Raises:
        OSError: the kernel refused; the actions are as before.
    """
    if rfaas_quiet_install() != 0:
        raise failed("sigaction")


def restore_signals():
    """Put back the actions that the first `install_quiet_signals` found; nothing if that was done or there was none."""
    if rfaas_quiet_restore() != 0:
        raise failed("sigaction")


def hold_signals():
    """Before a fork: hold SIGTERM and SIGINT back in this thread until `let_signals_go`, in parent and child."""
    rfaas_quiet_hold()


def let_signals_go():
    """After a fork: take the thread's signal mask from before `hold_signals`; what came meanwhile acts now."""
    rfaas_quiet_let_go()


def die_with_parent(int signo, int parent_pid):
    """Ask the kernel to send `signo` to this process when the parent's thread that made it ends.

    Args:
        parent_pid: who the parent must be. A parent that died before the request would never be noticed.
    Returns:
        False if the parent is another one already: leave.
    Raises:
        OSError: the kernel refused.
    """
    if prctl(PR_SET_PDEATHSIG, signo, 0, 0, 0) != 0:
        raise failed("PR_SET_PDEATHSIG")
    return os.getppid() == parent_pid


def outlive_parent(int parent_pid, int last_ms):
    """In place of `die_with_parent`: live `last_ms` longer than the parent, to clean up. Children don't inherit it.

    Returns:
        False if the parent is another one already: leave.
    Raises:
        OSError: the kernel refused.
    """
    if rfaas_orphan_watch(parent_pid, last_ms) != 0:
        raise failed("PR_SET_PDEATHSIG")
    return os.getppid() == parent_pid


def adopt_orphans():
    """Become the parent of every descendant whose own parent ends (child sub-reaper).

    Raises:
        OSError: the kernel refused.
    """
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise failed("PR_SET_CHILD_SUBREAPER")


cdef class HeldDescriptors:
    """What a worker's own descriptors refer to, to be compared after a function ran."""

    cdef dict held

    def __cinit__(self):
        self.held = {}

    def add(self, int fd):
        """Remember a descriptor.

        Raises:
            OSError: it is closed.
        """
        cdef rfaas_held one
        if rfaas_hold(fd, &one) != 0:
            raise failed("fstat")
        self.held[fd] = <bytes>(<char *>&one)[:sizeof(one)]

    def remove(self, int fd):
        """Forget a descriptor."""
        self.held.pop(fd, None)

    def holds(self, int fd):
        """True if this one is still what it was."""
        cdef bytes one = self.held[fd]
        return bool(rfaas_is_held(<const rfaas_held *><const char *>one))

    def lost(self):
        """Descriptors that are closed or refer to something else now; an empty list nearly always."""
        cdef bytes one
        found = []
        for fd, one in self.held.items():
            if not rfaas_is_held(<const rfaas_held *><const char *>one):
                found.append(fd)
        return found


def remember_surroundings():
    """Remember what `put_back_surroundings` restores, in the thread that will.

    Raises:
        OSError: the kernel refused.
    """
    if rfaas_remember() != 0:
        raise failed("sigaction")


def put_back_surroundings():
    """Restore signal mask and SIGCHLD, disarm the interval timers, put /dev/null in place of closed standard streams.

    Returns:
        False if a function has lowered the limit of descriptors for good: no connection can be taken any more.
    """
    return bool(rfaas_put_back())


def exit_within(int ms, int status):
    """End this process with `status` in `ms` at the latest, by SIGALRM.

    Raises:
        OSError: the kernel refused.
    """
    if rfaas_exit_within(ms, status) != 0:
        raise failed("setitimer")
