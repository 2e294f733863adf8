"""The client in C: sources of librfaas, what builds programs with it, the helper by which it finds session processes.

The C side is a second implementation of the specification (docs/spec/001, 004, 006) over transport/core/; it shares no
code with `rfaas.client`. Must not be imported by `rfaas` itself. For people: docs/c.md.
"""
