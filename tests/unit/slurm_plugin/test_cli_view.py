"""Slurm's commands: what becomes of those that hang, fail, or print something else."""

import asyncio
import sys

import pytest

from rfaas_slurm_plugin.views import cli_view
from rfaas_slurm_plugin.views.cli_view import CliView, run
from rfaas_slurm_plugin.views.view import ClusterUnavailable


def put(directory, **scripts):
    """Programs in place of Slurm's."""
    for name, text in scripts.items():
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
    return CliView({"PATH": f"{directory}:/usr/bin:/bin"})


def test_a_command_that_hangs_is_killed_and_said():
    with pytest.raises(ClusterUnavailable, match=r"no answer within 0\.2 s"):
        asyncio.run(run([sys.executable, "-c", "import time; time.sleep(60)"], {}, timeout_s=0.2))


def test_a_command_that_is_not_installed_or_fails_is_said():
    with pytest.raises(ClusterUnavailable, match="can't be started"):
        asyncio.run(run(["rfaas-no-such-command"], {}))
    with pytest.raises(ClusterUnavailable, match="boom"):
        asyncio.run(run([sys.executable, "-c", "import sys; sys.exit('boom')"], {}))


def test_output_without_end_is_cut_and_said(monkeypatch):
    monkeypatch.setattr(cli_view, "OUTPUT_LIMIT_BYTES", 1 << 20)
    with pytest.raises(ClusterUnavailable, match="more than 1 MiB"):
        asyncio.run(run(["yes"], {"PATH": "/usr/bin:/bin"}, timeout_s=30.0))


def test_a_program_that_reads_nothing_and_fails_is_said():
    with pytest.raises(ClusterUnavailable, match="boom"):
        asyncio.run(run([sys.executable, "-c", "import sys; sys.exit('boom')"], {}, stdin="x" * 1_000_000))


def test_answers_that_are_not_json_are_said(tmp_path):
    words = "echo 'slurm_load_jobs error: Unable to contact slurm controller'"
    source = put(tmp_path, sinfo=words, squeue=words, scontrol=words)
    with pytest.raises(ClusterUnavailable, match="not JSON"):
        asyncio.run(source.read())


NODES = """echo '{"nodes": [{"name": "n1", "state": ["IDLE"], "partitions": ["p"], "cpus": 4, "alloc_cpus": 1,\
 "real_memory": 10, "alloc_memory": 0}]}'"""


def test_where_sinfo_prints_rows_scontrol_is_asked_for_nodes(tmp_path):
    source = put(
        tmp_path,
        sinfo=f"echo asked >> {tmp_path}/sinfos; echo '{{\"sinfo\": []}}'",
        squeue="echo '{\"jobs\": []}'",
        scontrol=f'case "$*" in *nodes) {NODES};; *) echo No reservations in the system;; esac',
    )
    for _ in range(3):
        assert [node.idle_cores for node in asyncio.run(source.read()).nodes] == [3]
    assert (tmp_path / "sinfos").read_text() == "asked\n"  # once, not in every cycle


def test_ping_believes_only_up(tmp_path):
    asyncio.run(put(tmp_path, scontrol="echo 'Slurmctld(primary) at head is UP'").ping())
    with pytest.raises(ClusterUnavailable, match="DOWN"):
        asyncio.run(put(tmp_path, scontrol="echo 'Slurmctld(primary) at head is DOWN'").ping())


@pytest.mark.parametrize("failing", ["sinfo", "squeue"])
def test_an_empty_list_with_errors_is_no_empty_cluster(tmp_path, failing):
    """What 22.05 prints, and exits with 0, when slurmctld dies between two of the three queries of one reading."""
    empty = {"sinfo": """echo '{"nodes": []}'""", "squeue": """echo '{"jobs": []}'"""}
    name = {"sinfo": "nodes", "squeue": "jobs"}[failing]
    errors = '[{"description": "Failed while looking", "error_number": -1, "error": "Unspecified error"}]'
    empty[failing] = f"""echo '{{"errors": {errors}, "{name}": []}}'"""
    source = put(tmp_path, **empty, scontrol="echo No reservations in the system")
    with pytest.raises(ClusterUnavailable, match=f"{failing} .*: Failed while looking, Unspecified error"):
        asyncio.run(source.read())
