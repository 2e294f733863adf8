"""The real-cluster ring: a real Slurm of several nodes on this machine, and tests of the built wheel on it."""
