"""The RDMA of transport/core/verbs/, as a table of functions for `_core`, and the devices that are here.

Must not hold policy. Loaded only where RDMA is asked for; `verbs.py` is what others use.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t, uint32_t, uint64_t

import os

cdef extern from "<infiniband/verbs.h>" nogil:
    union ibv_gid:
        uint8_t raw[16]
    struct ibv_gid_entry:
        ibv_gid gid
        uint32_t gid_index
        uint32_t gid_type
    struct ibv_device_attr:
        char fw_ver[64]
        uint64_t max_mr_size
        int max_qp, max_qp_wr, max_cq, max_cqe, max_mr, max_pd, max_srq
    enum ibv_port_state:
        pass
    enum ibv_mtu:
        pass
    struct ibv_port_attr:
        ibv_port_state state
        ibv_mtu active_mtu
        uint8_t link_layer

cdef extern from "verbs_device.h":
    ctypedef void (*rfaas_verbs_tell)(void *told, const char *device, const ibv_device_attr *limits, uint8_t port,
                                      const ibv_port_attr *attributes, const ibv_gid_entry *gid) noexcept
    int rfaas_verbs_devices(rfaas_verbs_tell tell, void *told)

cdef extern from "verbs_over_ib.h" nogil:
    ctypedef struct rfaas_verbs_ops:
        pass
    const rfaas_verbs_ops rfaas_verbs

operations = PyCapsule_New(<void *>&rfaas_verbs, "rfaas_transport._verbs.operations", NULL)


STATES = {1: "down", 2: "initialised", 3: "armed", 4: "active", 5: "deferred"}


cdef void _tell(void *told, const char *device, const ibv_device_attr *limits, uint8_t port,
                const ibv_port_attr *attributes, const ibv_gid_entry *gid) noexcept:
    entry = {
        "device": device.decode(),
        "firmware": (<bytes>limits.fw_ver).decode("utf-8", "replace"),
        "max_queue_pairs": limits.max_qp,
        "max_work_requests": limits.max_qp_wr,
        "max_memory_regions": limits.max_mr,
        "max_region_bytes": limits.max_mr_size,
        "port": port,
        "state": STATES.get(<int>attributes.state, "unknown"),
        "link_layer": {1: "InfiniBand", 2: "Ethernet"}.get(attributes.link_layer, "unknown"),
        "mtu_bytes": 128 << <int>attributes.active_mtu,
        "gid_index": -1 if gid == NULL else <int>gid.gid_index,
        "gid": b"" if gid == NULL else bytes((<uint8_t *>gid.gid.raw)[:16]),
        "gid_type": "" if gid == NULL else {0: "IB", 1: "RoCE v1", 2: "RoCE v2"}.get(gid.gid_type, "unknown"),
    }
    (<list>told).append(entry)


def addresses():
    """What can be connected to: a dict for each address (GID) of each port, or for each port without one.

    Raises:
        OSError: the system gives no list of devices.
    """
    cdef list told = []
    cdef int error = rfaas_verbs_devices(_tell, <void *>told)
    if error != 0:
        raise OSError(error, os.strerror(error))
    return told
