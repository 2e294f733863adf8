"""`rfaas doctor`: what on this host, in a state directory and in a cluster may hinder rfaas, each with its remedy.

Must not change anything but a probe file of its own, need no allocator, and never fail as a whole: a check that can't
be made is a finding. Each check is a function that yields findings.
"""

from rfaas.doctor.checks import examine
from rfaas.doctor.finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
