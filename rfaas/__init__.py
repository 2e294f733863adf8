"""Call functions on the cores that a Slurm cluster leaves idle: what a user's program imports, and the `rfaas` command.

Must not load grpc, protobuf or numpy (daemons do that in processes of their own), must not start anything at import,
and must not import the packages above it: allocator, executors, slurm_plugin. Names outside `__all__` are private.
"""

__version__ = "0.1.0.dev0"

__all__ = ["__version__"]
