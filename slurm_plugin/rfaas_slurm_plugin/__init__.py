"""Slurm: the view of the cluster, the harvester that keeps preemptible slices, reclaim hooks, and admin commands.

Must not decide about leases, must not delay or fail a rigid job, and must work for a user without privileges.
Imports rfaas and rfaas_transport only; it reaches the allocator through the Offers service.
"""
