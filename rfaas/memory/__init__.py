"""Memory lent by another node: what stands behind `rfaas.RemoteMemory` in the program that borrows it.

`core` decides (sans-IO), `keeper` is its thread, `gate` carries out reads and writes, `spill` is the file that may
take the region's place. Must not load grpc, and numpy only for arrays. Spec: docs/spec/008-memory.md.
"""
