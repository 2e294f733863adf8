"""Site mode: slices outside of Slurm's allocations, by an allocator's grant and the node's root agent.

Must not decide who gets what (the site's allocator does) nor start anything itself (the node agent does). Loads neither
grpc nor protobuf. Specs: docs/spec/010-node-agent.md; use: docs/site.md.
"""
