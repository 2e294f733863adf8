"""The whole where protobuf is pinned, as users' environments do: the built wheel must live with old and newest."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 280  # most of it is pip fetching packages

PROGRAM = """
    import json, os, secrets, sys
    from importlib.metadata import version
    from pathlib import Path

    os.environ["SLURM_JOB_ID"] = secrets.token_hex(8)  # a session process of its own
    from rfaas.config import Embedded
    from support.personal import Personal
    from support.raw_client import RawClient

    def hello(choice):
        client = RawClient(choice)
        try:
            [number] = client.acquire()
            return [client.connection.mode, client.call(number, lambda name: "hello " + name, "world")]
        finally:
            client.close()

    personal = Personal(Path(sys.argv[1]))
    try:
        personal.start_allocator()
        personal.start_agent()
        answers = [hello(Embedded()), hello(personal.choice)]
    finally:
        personal.stop()
    logs = [*personal.logs.iterdir(), *(personal.state_dir / "log").iterdir()]
    print(json.dumps({
        "protobuf": version("protobuf"),
        "answers": answers,
        "loaded": sorted({"grpc", "google", "asyncio", "numpy"} & {name.partition(".")[0] for name in sys.modules}),
        "warnings": [line for log in logs for line in log.read_text().splitlines() if "Warning" in line],
        "rfaas": sys.modules["rfaas"].__file__,
    }))
"""


def run(*command, **settings):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return run(sys.executable, ROOT / "tools" / "build_wheel.py", cwd=folder, timeout=BUILD_TIMEOUT_S).stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_embedded_and_personal_mode_work_beside_old_and_newest(wheel, tmp_path):
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv, timeout=60)
    python = venv / "bin" / "python"
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    settings = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "PYTHONWARNINGS": "default"}
    for name, requirement in {"old": "protobuf==5.29.*", "newest": "protobuf"}.items():
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--upgrade")
        run(*pip, requirement, wheel, timeout=BUILD_TIMEOUT_S)
        (tmp_path / name).mkdir()
        done = run(python, program, tmp_path / name, env=settings, cwd=tmp_path, timeout=120)
        said = json.loads(done.stdout)
        assert done.stderr == ""
        assert said["answers"] == [["embedded", "hello world"], ["personal", "hello world"]]
        assert said["rfaas"].startswith(str(venv))
        assert said["protobuf"].startswith("5.29.") == (name == "old"), said["protobuf"]
        assert (said["loaded"], said["warnings"]) == ([], [])
