"""Ways of reading a Slurm cluster, and the one view that they all make."""
