"""What a site deploys beside the package follows the package."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RECIPE = ROOT / "slurm_plugin" / "deploy" / "spack" / "package.py"


def test_the_spack_recipe_depends_on_what_the_package_depends_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {*project["project"]["dependencies"], *project["build-system"]["requires"]}
    calls = [node for node in ast.walk(ast.parse(RECIPE.read_text())) if isinstance(node, ast.Call)]
    specs = [call.args[0].value for call in calls if getattr(call.func, "id", "") == "depends_on"]
    python = project["project"]["requires-python"].removeprefix(">=")
    assert f"python@{python}:" in specs
    as_spack_says = {re.sub(r"^([\w-]+)>=([\d.]+)$", r"py-\1@\2:", one) for one in wanted}
    assert as_spack_says == {spec for spec in specs if spec.startswith("py-")}
