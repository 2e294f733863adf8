"""The client's side of a call: what to send where (`core`), how values travel (`serial`), futures, the I/O thread.

Must not load grpc, protobuf or numpy, must not decide about leases (the allocator does), and sends nothing to a worker
but frames of docs/spec/001-invocation.md. Users import `rfaas`, never this package.
"""
