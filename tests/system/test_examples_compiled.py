"""The examples in C and Fortran, built by their Makefiles and run as the README says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RFAAS = Path(sys.executable).parent / "rfaas"
TIMEOUT_S = 120


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Build an example in a copy of its folder."""
    monkeypatch.delenv("RFAAS_PYTHON", raising=False)

    def build(name, **variables):
        folder = tmp_path / name
        shutil.copytree(ROOT / "examples" / name, folder)
        words = ["make", "-C", str(folder), f"RFAAS={RFAAS}", *(f"{key}={value}" for key, value in variables.items())]
        done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        assert "warning" not in done.stderr.lower()
        return folder

    return build


def run(*command, cwd="/"):
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


def test_nbody_answers_each_call_once_and_keeps_its_energy(built):
    folder = built("c", CFLAGS="-O2 -Werror")
    output = run(folder / "nbody", "--bodies=300", "--steps=20", "--chunks=5")
    assert "rank 0: 20 steps of 300 bodies: 105 calls, 105 answers, each once; energy -" in output


def test_nbody_says_what_it_takes(built):
    folder = built("c")
    done = subprocess.run([folder / "nbody", "--bodies=1"], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage:" in done.stderr


@pytest.mark.skipif(not shutil.which("gfortran"), reason="needs gfortran (tools/apt-packages.txt)")
def test_quadrature_in_fortran_is_pi(built):
    folder = built("fortran", FFLAGS="-O2 -Werror")
    output = run("./quadrature", cwd=folder)
    assert "in one call:   3.14159265358979" in output
    assert "in many calls: 3.14159265358979" in output
    assert "(200 calls, 200 answers)" in output
