"""Measurements that a user can make where rfaas is installed: each figure beside the raw medium, in one run.

Must not be imported by anything but commands and benchmarks; functions here are called on workers by name.
"""
