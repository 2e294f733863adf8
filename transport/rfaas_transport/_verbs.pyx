"""The RDMA of transport/core/ibverbs/, as a table of functions for `_core`, and the devices that are here.

Must not hold policy. Loaded only where RDMA is asked for; `verbs.py` is what others use.
"""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

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
        uint64_t node_guid, max_mr_size, page_size_cap
        uint32_t vendor_id, vendor_part_id, hw_ver, device_cap_flags
        int max_qp, max_qp_wr, max_sge, max_cq, max_cqe, max_mr, max_pd, max_mw, max_srq, max_srq_wr
        int max_qp_rd_atom, max_qp_init_rd_atom, max_res_rd_atom, max_ah
        int atomic_cap
        uint8_t phys_port_cnt, local_ca_ack_delay
    enum ibv_port_state:
        pass
    enum ibv_mtu:
        pass
    struct ibv_port_attr:
        ibv_port_state state
        ibv_mtu max_mtu, active_mtu
        int gid_tbl_len
        uint32_t max_msg_sz
        uint16_t lid, sm_lid
        uint8_t active_width, active_speed, phys_state, link_layer

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
PHYSICAL_STATES = {1: "sleep", 2: "polling", 3: "disabled", 4: "training", 5: "link up", 6: "recovery", 7: "test"}
LANES = {1: 1, 2: 4, 4: 8, 8: 12, 16: 2}
LANE_GBPS = {1: 2.5, 2: 5.0, 4: 10.0, 8: 10.0, 16: 14.0625, 32: 25.78125, 64: 53.125, 128: 106.25}
# Bits of device_cap_flags (enum ibv_device_cap_flags) that matter to who calls functions, and atomic_cap.
CAPABILITIES = {
    13: "shared receive queues that grow", 17: "memory windows", 20: "XRC", 21: "memory management extensions",
    23: "memory windows type 2A", 24: "memory windows type 2B",
}
ATOMICS = {0: "", 1: "atomics", 2: "atomics with the CPU's"}


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
        "physical_state": PHYSICAL_STATES.get(attributes.phys_state, "unknown"),
        "rate_gbps": LANES.get(attributes.active_width, 0) * LANE_GBPS.get(attributes.active_speed, 0.0),
        "lid": attributes.lid,
        "mtu_bytes": 128 << <int>attributes.active_mtu,
        "max_mtu_bytes": 128 << <int>attributes.max_mtu,
        "max_message_bytes": attributes.max_msg_sz,
        "gid_index": -1 if gid == NULL else <int>gid.gid_index,
        "gid": b"" if gid == NULL else bytes((<uint8_t *>gid.gid.raw)[:16]),
        "gid_type": "" if gid == NULL else {0: "IB", 1: "RoCE v1", 2: "RoCE v2"}.get(gid.gid_type, "unknown"),
    }
    (<list>told).append(entry)


cdef void _tell_device(void *told, const char *device, const ibv_device_attr *limits, uint8_t port,
                       const ibv_port_attr *attributes, const ibv_gid_entry *gid) noexcept:
    """Called for each address: the device is told once."""
    cdef bytes guid = bytes((<uint8_t *>&limits.node_guid)[:8])
    name = device.decode()
    if any(one["name"] == name for one in <list>told):
        return
    capabilities = [text for bit, text in CAPABILITIES.items() if limits.device_cap_flags >> bit & 1]
    (<list>told).append({
        "name": name,
        "firmware": (<bytes>limits.fw_ver).decode("utf-8", "replace"),
        "node_guid": guid.hex(":", 2),
        "vendor_id": limits.vendor_id,
        "vendor_part_id": limits.vendor_part_id,
        "hardware_version": limits.hw_ver,
        "n_ports": limits.phys_port_cnt,
        "capabilities": tuple(filter(None, [*capabilities, ATOMICS.get(limits.atomic_cap, "")])),
        "limits": {
            "queue_pairs": limits.max_qp,
            "requests_per_queue_pair": limits.max_qp_wr,
            "pieces_per_request": limits.max_sge,
            "completion_queues": limits.max_cq,
            "completions_per_queue": limits.max_cqe,
            "memory_regions": limits.max_mr,
            "region_bytes": limits.max_mr_size,
            "memory_windows": limits.max_mw,
            "protection_domains": limits.max_pd,
            "shared_receive_queues": limits.max_srq,
            "requests_per_shared_queue": limits.max_srq_wr,
            "address_handles": limits.max_ah,
            "reads_under_way_to_it": limits.max_qp_rd_atom,
            "reads_under_way_from_it": limits.max_qp_init_rd_atom,
        },
    })


def devices():
    """A dict for each device.

    Raises:
        OSError: the system gives no list of devices.
    """
    cdef list told = []
    cdef int error = rfaas_verbs_devices(_tell_device, <void *>told)
    if error != 0:
        raise OSError(error, os.strerror(error))
    return told


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
