"""Running functions on one slice: the agent, the template process, its workers, and their sandbox.

Must not decide who gets which core (the allocator does), must not talk to Slurm, and must not let user code run in the
agent. Imports rfaas and rfaas_transport only; others start it with `python -m rfaas_executors`.
"""
