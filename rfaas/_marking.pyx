"""`rfaas.mark` for Python: rfaas_mark.h in a module of its own, which needs nothing else of rfaas."""

cdef extern from "rfaas_mark.h" nogil:
    void rfaas_mark()
    void rfaas_mark_end()
    char rfaas_mark_path_[256]


def mark():
    """Tell the neighbour guard of this node, if there is one, that an iteration of this program is done.

    For jobs whose nodes lend what they leave: call it once an iteration, from one thread. The guard compares iterations
    beside functions with iterations without, and slows, moves or sends away functions that are felt
    (docs/neighbours.md). Costs some 35 ns, never blocks, raises nothing; where nobody watches it changes nothing.
    Source of the format: docs/spec/012-marks.md.
    """
    rfaas_mark()


def end_marks():
    """Let go of the page, whose file goes; a later mark begins anew. Happens by itself when the program exits."""
    rfaas_mark_end()


def marks_path():
    """The file of this process's page; empty before the first mark, and where there can be none."""
    return rfaas_mark_path_.decode()
