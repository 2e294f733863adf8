"""Deciding who may use which slice: inventory, leases, quotas, placement, accounting, the gRPC service and its journal.

Must never unpickle, run user code, need root, or touch a slice by itself: agents accept or refuse what it proposes.
Imports rfaas and rfaas_transport only; others start it with `python -m rfaas_allocator`.
"""
