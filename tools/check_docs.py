"""Checks that links between the Markdown files lead somewhere; with --run, also runs the programs in them.

usage: python tools/check_docs.py [--run] [FILE...]     default: every document

A link must name a file of the repository and, after `#`, a heading in it; links to the web are not followed.

What is run of a document lies in one folder, empty at first. Blocks that begin with "```c as kernel.c" are written
there under that name. Then those that begin with "```sh run" or "```python run" are run as a user would, the commands
before the programs; when a block "```text output" follows one, that must be exactly what it prints.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM_TIMEOUT_S = 120
SKIPPED_FOLDERS = {".venv", ".cache", ".git", "build", "dist", "out"}

FENCE = re.compile(r"^(```+)[^\n]*\n.*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)[^)]*\)")
HEADING = re.compile(r"^#{1,6} +(.*?)(?: +#+)?$", re.MULTILINE)
FILE = re.compile(r"^```\w+ as (?P<name>[\w.]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(
    r"^```(?P<language>python|sh) run\n(?P<program>.*?)^```$(?:\s*^```text output\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Problem:
    """Something wrong in a document; `line` counts from 1."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.what}"


def blank(match: re.Match[str]) -> str:
    """Replace code by as many newlines as it had, so that line numbers stay."""
    return "\n" * match.group().count("\n")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(FENCE.sub(blank, text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[anchor] = found.get(anchor, -1) + 1
        if found[anchor]:
            found[f"{anchor}-{found[anchor]}"] = 0
    return set(found)


def check_links(path: Path) -> Iterator[Problem]:
    """Yield a problem for each link that leads nowhere."""
    text = INLINE_CODE.sub("", FENCE.sub(blank, path.read_text()))
    for match in LINK.finditer(text):
        target, _, anchor = match.group(1).partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        line = text.count("\n", 0, match.start()) + 1
        file = (path.parent / target).resolve() if target else path
        if not file.is_relative_to(ROOT) or not file.exists():
            yield Problem(path, line, f"no such file: {target}")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text()):
            yield Problem(path, line, f"no such heading: {target}#{anchor}")


def check_programs(path: Path) -> Iterator[Problem]:
    """Run the programs in a document; yield a problem for each that fails."""
    text = path.read_text()
    programs = sorted(PROGRAM.finditer(text), key=lambda match: match["language"] == "python")
    with tempfile.TemporaryDirectory(prefix="rfaas-docs-") as folder:
        for match in FILE.finditer(text):
            (Path(folder) / match["name"]).write_text(match["text"])
        for match in programs:
            line = text.count("\n", 0, match.start()) + 1
            try:
                done = run_program(Path(folder), match["language"], match["program"])
            except subprocess.TimeoutExpired:
                yield Problem(path, line, f"program still runs after {PROGRAM_TIMEOUT_S} s")
                continue
            if done.returncode != 0:
                yield Problem(path, line, f"program ends with status {done.returncode}:\n{done.stderr}")
            elif match["output"] is not None and done.stdout != match["output"]:
                yield Problem(path, line, f"program prints\n{done.stdout}instead of\n{match['output']}")


def run_program(folder: Path, language: str, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program of a document, with the commands of this interpreter's environment first in PATH.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    script = folder / ("program.py" if language == "python" else "commands.sh")
    script.write_text(program)
    command = [sys.executable, str(script)] if language == "python" else ["sh", "-e", str(script)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, env=environment
    )


def main() -> None:
    """Check Markdown files; exit status 1 when anything is wrong."""
    named = [Path(name).resolve() for name in sys.argv[1:] if name != "--run"]
    documents = named or [
        path for path in sorted(ROOT.rglob("*.md")) if not SKIPPED_FOLDERS & set(path.relative_to(ROOT).parts)
    ]
    problems = [problem for path in documents for problem in check_links(path)]
    if "--run" in sys.argv[1:]:
        problems += [problem for path in documents for problem in check_programs(path)]
    for problem in problems:
        print(problem)
    print(f"{len(documents)} documents, {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
