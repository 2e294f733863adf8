"""The client in C: librfaas's sources, what builds programs with it, and the helper that it runs to join a session process.

The C side is a second implementation of the specification (docs/spec/001, 004, 006) over transport/core/; it shares no
code with `rfaas.client`. Must not be imported by `rfaas` itself. For people: docs/c.md.
"""
