"""The TLS of transport/core/tls/, as a table of functions for `_core`. Loaded only where encryption is asked for.

Must not hold policy, nor a key: those go from Python straight to the channel. `tls.py` is what others use.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

cdef extern from "tls_stream.h" nogil:
    ctypedef struct rfaas_secure_ops:
        pass
    const rfaas_secure_ops rfaas_tls
    const char *rfaas_tls_library()
    void rfaas_tls_change_keys_after(uint64_t records)

operations = PyCapsule_New(<void *>&rfaas_tls, "rfaas_transport._tls.operations", NULL)


def library():
    """The OpenSSL that is loaded, as it names itself."""
    return rfaas_tls_library().decode()


def _change_keys_after(uint64_t records):
    """For tests: have channels made from now on change their sending key after so many records; 0: as usual."""
    rfaas_tls_change_keys_after(records)
