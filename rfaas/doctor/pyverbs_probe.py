"""What pyverbs tells of RDMA devices, as JSON: a script, `python -I pyverbs_probe.py`, for the Python that has it.

The distribution's pyverbs is built for the distribution's Python alone, so rfaas's own can't import it as a rule. Must
import nothing of rfaas and run on any Python 3.8. The answer has `addresses` and `devices` as `rfaas devices --json`
does, or `error`. Source: pyverbs' own documentation (rdma-core, Documentation/pyverbs.md).
"""

from __future__ import annotations

import ipaddress
import json
import os
from typing import Any

LANES = {1: 1, 2: 4, 4: 8, 8: 12, 16: 2}
LANE_GBPS = {1: 2.5, 2: 5.0, 4: 10.0, 8: 10.0, 16: 14.0625, 32: 25.78125, 64: 53.125, 128: 106.25}
STATES = {1: "down", 2: "initialised", 3: "armed", 4: "active", 5: "deferred"}
LIMITS = {
    "queue_pairs": "max_qp",
    "requests_per_queue_pair": "max_qp_wr",
    "pieces_per_request": "max_sge",
    "completion_queues": "max_cq",
    "completions_per_queue": "max_cqe",
    "memory_regions": "max_mr",
    "region_bytes": "max_mr_size",
    "memory_windows": "max_mw",
    "protection_domains": "max_pd",
    "shared_receive_queues": "max_srq",
    "requests_per_shared_queue": "max_srq_wr",
    "address_handles": "max_ah",
    "reads_under_way_to_it": "max_qp_rd_atom",
    "reads_under_way_from_it": "max_qp_init_rd_atom",
}


def ask(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One device, and the addresses of its ports."""
    import pyverbs.enums as e
    from pyverbs.device import Context

    with Context(name=name) as context:
        limits = context.query_device()
        flags = int(limits.device_cap_flags)
        device = {
            "name": name,
            "firmware": limits.fw_version,
            "vendor_id": limits.vendor_id,
            "vendor_part_id": limits.vendor_part_id,
            "n_ports": limits.phys_port_cnt,
            "capabilities": [
                text
                for bit, text in (
                    (e.IBV_DEVICE_MEM_WINDOW, "memory windows"),
                    (e.IBV_DEVICE_XRC, "XRC"),
                    (e.IBV_DEVICE_MEM_MGT_EXTENSIONS, "memory management extensions"),
                    (e.IBV_DEVICE_MEM_WINDOW_TYPE_2A, "memory windows type 2A"),
                    (e.IBV_DEVICE_MEM_WINDOW_TYPE_2B, "memory windows type 2B"),
                )
                if flags & bit
            ],
            "limits": {ours: getattr(limits, theirs) for ours, theirs in LIMITS.items()},
        }
        gids = context.query_gid_table(1024)
        addresses = []
        for number in range(1, limits.phys_port_cnt + 1):
            port = context.query_port(number)
            common = {
                "device": name,
                "port": number,
                "state": STATES.get(port.state, "unknown"),
                "link_layer": {1: "InfiniBand", 2: "Ethernet"}.get(port.link_layer, "unknown"),
                "rate_gbps": LANES.get(port.active_width, 0) * LANE_GBPS.get(port.active_speed, 0.0),
                "lid": port.lid,
                "mtu_bytes": 128 << port.active_mtu,
                "max_mtu_bytes": 128 << port.max_mtu,
                "max_message_bytes": port.max_msg_sz,
            }
            here = [entry for entry in gids if entry.port_num == number]
            addresses += [
                {
                    **common,
                    "gid_index": entry.gid_index,
                    "gid": ipaddress.IPv6Address(entry.gid_str()).packed.hex(),
                    "gid_type": {0: "IB", 1: "RoCE v1", 2: "RoCE v2"}.get(entry.gid_type, "unknown"),
                }
                for entry in here
            ] or [{**common, "gid_index": -1, "gid": "", "gid_type": ""}]
    return device, addresses


def main() -> None:
    """Ask all devices and print what they said."""
    try:
        from pyverbs.device import get_device_list
    except ImportError as error:
        print(json.dumps({"error": str(error), "absent": isinstance(error, ModuleNotFoundError)}))
        return
    answer: dict[str, Any] = {"devices": [], "addresses": []}
    try:
        for listed in get_device_list() if os.path.isdir("/sys/class/infiniband") else []:
            device, addresses = ask(listed.name.decode())
            answer["devices"].append(device)
            answer["addresses"] += addresses
    except Exception as error:  # whatever it raises is what there is to tell
        answer = {"error": f"{type(error).__name__}: {error}", "absent": False}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
