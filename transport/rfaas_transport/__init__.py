"""Moving bytes between two processes: channels, framing and the hot path; the C core lies beside it in transport/core/.

Must not know what a call, a lease or Slurm is, must not import any other rfaas package, and puts no system call,
allocation, lock or log line between a request and its reply. Also the home of the error base class, because every
other package stands above this one. Specs: docs/spec/001-invocation.md, docs/spec/004-session.md.
"""
