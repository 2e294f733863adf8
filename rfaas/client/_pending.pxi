# The part of a future that is as hot as its call: what it is, and the ways to its end that nobody has to be told of.
# Part of _borrowing.pyx. In each of them no Python code runs but what unpickles the result: a KeyboardInterrupt leaves
# it as it was, or at its end.

from _thread import allocate_lock as _allocate_lock
from concurrent.futures import _base
from threading import Condition as _Condition
from types import GenericAlias as _GenericAlias

cdef object CANCELLED_AND_NOTIFIED = _base.CANCELLED_AND_NOTIFIED, FINISHED = _base.FINISHED, PENDING = _base.PENDING

ENDED = object()
"""As `Pending._first`: it ended before anybody made its condition."""


class _Told(_Condition):
    """A condition whose lock is never lost.

    A KeyboardInterrupt between the lines of the standard one's methods leaves its lock taken for ever, and the I/O thread
    then waits for it with all other calls, or gives it back twice. In compiled ones it comes while they wait, or not.
    """

    def __enter__(self):
        return self._lock.__enter__()

    def __exit__(self, *about):
        return self._lock.__exit__(*about)

    def wait(self, timeout=None):
        """As the standard one's."""
        if not self._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        bell = _allocate_lock()
        bell.acquire()
        self._waiters.append(bell)
        kept = self._release_save()
        rang = False
        try:
            if timeout is None:
                rang = bell.acquire()
            elif timeout > 0:
                rang = bell.acquire(True, timeout)
            else:
                rang = bell.acquire(False)
        finally:
            self._acquire_restore(kept)
            if not rang and bell in self._waiters:
                self._waiters.remove(bell)
        return rang


cdef class Pending:
    """What `rfaas.client.futures.Future` is made of; that holds the rest, and says what it all means.

    What a standard future makes at once, a condition and two lists, is made here when it is first wanted: that costs as
    much as a whole call.
    """

    cdef public object _request    # of a call on a channel on loan
    cdef public Borrowing _borrowing
    cdef public object _own_state
    cdef public object _result, _exception
    cdef public object _first      # what came first: the condition, or ENDED
    cdef public object _withdraw   # cancels the call; False if it can't any more
    cdef public bint _told         # those who wait know
    cdef tuple answer              # what the request brought: value and error
    cdef object condition
    cdef list waiters, callbacks

    def __cinit__(self):
        self._own_state = PENDING

    def __init__(self):  # what the standard one does here is done when it is wanted
        pass

    def __class_getitem__(cls, item):
        return _GenericAlias(cls, item)

    def __reduce__(self):
        raise TypeError("cannot pickle a future; its result can be, once it is there")

    cdef void belong_to(self, Borrowing borrowing, request) noexcept:
        """Be the future of a request on a channel on loan."""
        self._borrowing = borrowing
        self._request = request

    # --- what is made when somebody wants to wait, or to be told ---

    @property
    def _condition(self):
        """As the standard one's."""
        if self.condition is None:
            made = _Told()
            if self._first is None:
                self._first = made
            elif self._first is not ENDED:
                made = self._first
            if self.condition is None:
                self.condition = made
            self.be_told()
        return self.condition

    @_condition.setter
    def _condition(self, condition):
        self.condition = condition

    @property
    def has_condition(self):
        """True once somebody wanted to wait, or to be told."""
        return self.condition is not None

    @property
    def _waiters(self):
        """As the standard one's."""
        if self.waiters is None:
            self.waiters = []
            self.be_told()
        return self.waiters

    @property
    def _done_callbacks(self):
        """As the standard one's."""
        if self.callbacks is None:
            self.callbacks = []
            self.be_told()
        return self.callbacks

    cdef int be_told(self) except -1:
        if self._request is not None and not request_is_done(self._request):
            self.give_up()
        return 0

    def give_up(self):
        """Have the I/O thread see to the call, and tell whoever waits for it."""
        if self._request is not None:
            request_is_wanted(self._request)
            self._borrowing.give_up()

    # --- its end ---

    def result(self, timeout=None):
        """As the standard one's, and meanwhile this thread looks after what is on loan."""
        if self._request is not None:
            if timeout is None and self._borrowing.wait(self._request, None):
                self.take_answer()
            else:
                timeout = self._await_answer(timeout)
        if self._own_state == FINISHED and self._exception is None:
            return self._result
        return self._result_in_time(timeout)

    def settle(self):
        """Take the answer of a request that is done, and tell whoever waits. Harmless if that was done, or half."""
        self.take_answer()

    def _finish(self, value, error):
        """End with a result or an error, and run the callbacks in this thread."""
        self.finish(value, error)

    cdef int take_answer(self) except -1:
        request = self._request
        if request is None:
            return 0
        if request_is_withdrawn(request):
            self._own_state = CANCELLED_AND_NOTIFIED
            self._request = None
            return 0
        if self.answer is None:
            answer = self._borrowing.outcome_of(request)
            if self.answer is None:  # no other thread was faster
                self.answer = answer
        self.finish(self.answer[0], self.answer[1])
        self._request = None
        return 0

    cdef int finish(self, value, error) except -1:
        # What comes first, this end or a condition, is found out in one step: who makes a condition after it sees the
        # end. Who made one before must not see it but with that condition held: `wait` counts what it is to be told of.
        self._result = value
        self._exception = error
        if self._first is None:
            self._first = ENDED
        if self._first is ENDED:
            self._own_state = FINISHED
        else:
            self._tell(self._first)
        return 0
