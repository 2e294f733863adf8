"""The session process, and how a client starts and reaches it (docs/spec/004-session.md).

One session process serves the programs of one user, allocator and job: it speaks gRPC for them, renews their leases,
hands over descriptors and tells them of losses. `start`, `connection`, `names` and `environment` are for the user's
process: standard library and msgpack only, no asyncio, no grpc. `core` decides without I/O; `process` is its shell.
"""
