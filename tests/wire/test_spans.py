"""A SPAN's answer (spec 008 section 2.1) against its vectors, written and read by the C core."""

import struct
import subprocess

from support.c_build import ROOT, CBuild, core_file
from support.vectors import load, raw

ANSWERS = load("spans")["answers"]


def test_c_and_a_reader_of_the_document_agree(tmp_path):
    program = CBuild(tmp_path, [core_file("region_span.c"), ROOT / "tests/wire/span_codec.c"]).link("span_codec")
    fields = [f"{vector['address']} {vector['size_bytes']} {vector['rkey']}" for vector in ANSWERS]
    lines = [*fields, *(raw(vector).hex() for vector in ANSWERS)]
    done = subprocess.run([program], input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [*(raw(vector).hex() for vector in ANSWERS), *fields]
    for vector in ANSWERS:
        expected = (vector["address"], vector["size_bytes"], vector["rkey"])
        assert struct.unpack("<QQI4x", raw(vector)) == expected
