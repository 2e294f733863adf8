"""Measurements that a user can make where rfaas is installed: each figure beside the raw medium, in one run.

Must not be imported by anything but commands and benchmarks; functions in `served` are called on workers by name.
Pure: `statistics`, `noise`, `report`. What a call is: `kinds`. Who talks to whom over what: `link`, `pinning`.
"""
