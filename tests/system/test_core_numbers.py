"""More calls on one channel than 16 bits number, over each medium, on loan, and by the core in C.

Through executors and sessions: T37; by a program in C: test_c_client.py.
"""

import subprocess
from pathlib import Path

from support import soak
from support.c_build import CBuild, core_sources, tls_sources

HERE = Path(__file__).parent
N_CALLS = soak.scaled(66_000, 20_000_000)
MEDIA = ("inproc", "shm", "unix", "tcp", "tls", "loan")


def test_each_of_more_calls_than_16_bits_number_gets_its_answer(tmp_path):
    own = [HERE / name for name in ("core_numbers.c", "core_pairs.c", "core_loan_test.c")]
    sources = [*own, *core_sources(), *tls_sources()]
    program = CBuild(tmp_path, sources, libraries=["-lssl", "-lcrypto"]).link("core_numbers")
    result = subprocess.run([program, str(N_CALLS)], capture_output=True, text=True, timeout=soak.timeout_s())
    assert (result.returncode, result.stderr) == (0, "")
    assert dict(line.split() for line in result.stdout.splitlines()) == dict.fromkeys(MEDIA, str(N_CALLS))
    assert N_CALLS > 1 << 16
