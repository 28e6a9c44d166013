"""The documentation as a test: its examples run, its JSON parses, its links lead somewhere.

An example runs when its fence says so:

    ```python run      a program; it must exit with 0, warnings are errors
    ```bash run        a script; it must exit with 0
    ```console run     lines that begin with `$ ` are run (`> ` continues one); the other lines must
                       be printed, in this order; a line `...` stands for any number of lines

Each runs in an empty directory with the project's own programs on PATH. A fence with `run` in any
other language is refused, so that a misspelt one does not just look tested.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE_SECONDS = 100


def pages() -> list[Path]:
    top = [PROJECT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    return [page for page in top if page.exists()] + sorted((PROJECT / "docs").rglob("*.md"))


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


@dataclass(frozen=True)
class Example:
    """One fenced block."""

    page: Path
    line: int
    language: str
    runs: bool
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def examples() -> list[Example]:
    found: list[Example] = []
    for page in pages():
        for token in tokens(page):
            if token.type == "fence" and token.map:
                language, *marks = token.info.split() or [""]
                found.append(
                    Example(page, token.map[0] + 1, language, "run" in marks, token.content)
                )
    return found


EXAMPLES = examples()
RUNNABLE = [example for example in EXAMPLES if example.runs]


def run(command: list[str], where: Path) -> str:
    programs = str(Path(sys.executable).parent)
    done = subprocess.run(
        command,
        cwd=where,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT / "src"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=EXAMPLE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def commands_and_output(text: str) -> tuple[str, list[str]]:
    """A console example as a script, and the lines it promises."""
    script: list[str] = []
    promised: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            script.append(line[2:])
            promised.append("...")
        elif line.startswith("> ") and script:
            script[-1] += "\n" + line[2:]
        else:
            promised.append(line.rstrip())
    return "\n".join(script), promised


def prints(printed: str, promised: list[str]) -> bool:
    """Whether the promised lines were printed in order, `...` standing for any others."""
    pattern = "".join(
        r"(?:[^\n]*\n)*?" if line == "..." else re.escape(line) + r"[ \t]*\n"
        for line in [*promised, "..."]
    )
    return re.fullmatch(pattern, printed if printed.endswith("\n") else printed + "\n") is not None


@pytest.mark.parametrize("example", RUNNABLE, ids=str)
def test_example_runs(example: Example, tmp_path: Path) -> None:
    if example.language == "python":
        run([sys.executable, "-W", "error", "-c", example.text], tmp_path)
    elif example.language == "bash":
        run(["sh", "-eu", "-c", example.text], tmp_path)
    elif example.language == "console":
        script, promised = commands_and_output(example.text)
        assert script, "no line begins with `$ `"
        printed = run(["sh", "-eu", "-c", script], tmp_path)
        assert prints(printed, promised), f"promised {promised}, printed:\n{printed}"
    else:
        pytest.fail(f"{example}: only python, bash and console examples can be run")


@pytest.mark.parametrize(
    "example", [found for found in EXAMPLES if found.language == "json"], ids=str
)
def test_json_parses(example: Example) -> None:
    json.loads(example.text)


def test_the_readme_shows_something_that_runs() -> None:
    assert PROJECT / "README.md" in pages()
    assert any(example.page.name == "README.md" for example in RUNNABLE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, made as the common renderers make them."""
    found: list[str] = []
    for opening, inline in zip(tokens(page), tokens(page)[1:], strict=False):
        if opening.type == "heading_open":
            shown = "".join(part.content for part in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")
            found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def links(page: Path) -> list[str]:
    return [
        str(part.attrs.get("href") or part.attrs.get("src"))
        for token in tokens(page)
        for part in token.children or ()
        if part.type in {"link_open", "image"}
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken: list[str] = []
    for link in links(page):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside = target.is_relative_to(PROJECT) and target.exists()
        if not inside or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize(
    ("promised", "fits"),
    [
        (["...", "two"], True),
        (["...", "one", "two"], True),
        (["...", "two", "one"], False),
        (["...", "one", "...", "three"], True),
        (["...", "tw"], False),
    ],
)
def test_the_comparison_itself(promised: list[str], *, fits: bool) -> None:
    assert prints("one\ntwo\nthree", promised) is fits
