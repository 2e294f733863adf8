"""The gRPC contract: `*.proto` beside this file, and the stubs that tools/generate_stubs.sh made of them.

Only `rfaas.control.wire` and `rfaas.control.dial`, and the allocator's service, import the stubs. Must not hold code.
Spec: docs/spec/003-control.md.
"""
