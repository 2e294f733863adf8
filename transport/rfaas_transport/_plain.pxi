# What many calls bring and return, which both ends know at sight. Included by the two ends of a hot call.

import pickle

cdef object loads = pickle.loads, dumps = pickle.dumps  # bound now: a function may replace what the module holds
cdef bytes NO_ARGUMENTS = pickle.dumps(((), {}), 5), NOTHING = pickle.dumps(None, 5)
cdef frozenset PLAIN = frozenset([type(None), bool, int, float, complex, str])  # hold nothing that travels on its own
