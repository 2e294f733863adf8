"""The control plane's shared language: ids, messages, lease states, links, event log, gRPC stubs.

Used by allocator, agents, session processes and harvester. Must not decide anything: deciding lives in the components.
Only `wire`, `dial` and `proto` load protobuf and grpc; the user's process imports neither of them.
"""
