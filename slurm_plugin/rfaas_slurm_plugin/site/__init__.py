"""A site's own configuration of Slurm: read, added to, and put back as it was, byte for byte.

Must not change a line that somebody else wrote, nor write anything that was not shown before.
"""
