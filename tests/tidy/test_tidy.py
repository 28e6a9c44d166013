"""The house rules as tests: sizes, banned calls, leavings, import contracts, documented names."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp

import paymaster
from paymaster.kernel.errors import PaymasterError
from paymaster.settings import reference

PROJECT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Modules that count money: a float there is a lost cent.
MONEY = (
    "kernel/money.py",
    "dispatch",
    "ledger",
    "rails",
    "reconcile",
    "settle",
    "shop",
    "withdraw",
)
CLOCK_CALLS = (
    "date.today",
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "time.time",
    "time.time_ns",
    "uuid.uuid1",
    "uuid.uuid4",
    "uuid1",
    "uuid4",
)
# Written in two parts so that this file does not hold what it looks for.
LEFT_FOR_LATER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")
MACHINE = re.compile(
    "|".join(
        (
            r"(?<![\w.~-])/ro" + r"ot/",
            r"(?<![\w.~-])/wo" + r"rk/",
            r"(?<![\w.~-])/Us" + r"ers/",
            r"pypi\." + r"org",
            r"python" + r"hosted\.org",
            r"registry\.npm" + r"js\.org",
            r"crates\." + r"io",
            r"proxy\.golang\." + r"org",
            r"--(?:extra-)?index" + r"-url",
        )
    )
)


@cache
def kept_files() -> tuple[Path, ...]:
    """Every file that is, or is about to be, under version control."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = {PROJECT / name for name in listed.split("\0") if name}
    return tuple(sorted(file for file in files if file.is_file()))


def python_files(below: str = "") -> Iterator[Path]:
    root = PROJECT / below
    return (file for file in kept_files() if file.suffix == ".py" and file.is_relative_to(root))


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), filename=str(file))


def place(file: Path, node: ast.AST | int) -> str:
    line = node if isinstance(node, int) else getattr(node, "lineno", 0)
    return f"{file.relative_to(PROJECT)}:{line}"


def text_lines() -> Iterator[tuple[Path, int, str]]:
    for file in kept_files():
        raw = file.read_bytes()
        if b"\0" not in raw[:8192]:
            for number, line in enumerate(raw.decode(errors="replace").splitlines(), 1):
                yield file, number, line


def test_the_files_are_seen() -> None:
    assert len(list(python_files("src"))) > 20


def test_no_file_is_too_long() -> None:
    lengths = {file: len(file.read_text().splitlines()) for file in python_files()}
    long = {place(file, n) for file, n in lengths.items() if n > MAX_FILE_LINES}
    assert not long, f"split them by what they are about: {sorted(long)}"


def test_no_function_is_too_long() -> None:
    long = [
        f"{place(file, node)} {node.name}"
        for below in ("src", "bench")
        for file in python_files(below)
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert not long, f"give their parts names: {long}"


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def calls(file: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def owns_the_clock(file: Path) -> bool:
    inside = file.relative_to(PROJECT / "src")
    return inside.is_relative_to("paymaster/kernel") or (
        inside.is_relative_to("paymaster_sandbox") and inside.name == "clock.py"
    )


def test_time_and_randomness_come_from_the_kernel() -> None:
    found = [
        f"{place(file, call)} {name}"
        for file in python_files("src")
        if not owns_the_clock(file)
        for call, name in calls(file)
        if any(name == banned or name.endswith(f".{banned}") for banned in CLOCK_CALLS)
    ]
    assert not found, f"ask the Clock and the id maker that you are given: {found}"


def test_no_float_where_money_is_counted() -> None:
    source = PROJECT / "src" / "paymaster"
    found = [
        place(file, call)
        for part in MONEY
        for file in python_files(f"src/paymaster/{part}")
        for call, name in calls(file)
        if name == "float"
    ]
    assert (source / "kernel" / "money.py") in set(python_files("src/paymaster/kernel"))
    assert not found, f"count in minor units, or in Decimal where a rate needs it: {found}"


def test_no_fault_is_swallowed() -> None:
    found: list[str] = []
    for file in python_files():
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ExceptHandler):
                silent = all(isinstance(step, ast.Pass) for step in node.body)
                if node.type is None or silent:
                    found.append(place(file, node))
    assert not found, f"name the exception; contextlib.suppress says it is expected: {found}"


def test_nothing_is_unfinished() -> None:
    found = [
        place(file, node)
        for file in python_files()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Name) and node.id == "NotImplemented" + "Error"
    ]
    found += [place(file, n) for file, n, line in text_lines() if LEFT_FOR_LATER.search(line)]
    assert not found, f"finish it or leave it out: {found}"


def test_no_registry_host_and_no_path_of_a_machine() -> None:
    found = [
        f"{place(file, number)} {line.strip()[:80]}"
        for file, number, line in text_lines()
        if MACHINE.search(line)
    ]
    assert not found, found


def test_lock_file_pins_every_package_by_hash() -> None:
    text = (PROJECT / "requirements.lock").read_text()
    blocks = re.split(r"(?m)^(?=\S)", text)
    packages = [block for block in blocks if block.strip() and not block.startswith("#")]
    assert len(packages) > 20
    unpinned = [
        block.split()[0]
        for block in packages
        if not re.match(r"[a-z0-9._-]+==\S+", block) or "--hash=sha256:" not in block
    ]
    assert not unpinned
    assert "://" not in text


def test_import_contracts_hold() -> None:
    """In a process of its own: the linter disables every logger that exists before it."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stores_are_private_to_their_package() -> None:
    graph = grimp.build_graph("paymaster", cache_dir=None)
    stores = [
        module
        for module in sorted(graph.modules)
        if module.count(".") == 2 and module.rsplit(".", 1)[1] == "store"
    ]
    assert "paymaster.ledger.store" in stores
    strangers = [
        f"{importer} imports {module}"
        for store in stores
        for module in {store, *graph.find_descendants(store)}
        for importer in graph.find_modules_that_directly_import(module)
        if not importer.startswith(store.removesuffix("store"))
    ]
    assert not strangers, f"ask the package for a function instead of its SQL: {strangers}"


def test_the_map_names_every_package() -> None:
    described = paymaster.__doc__ or ""
    packages = {found.name for found in pkgutil.iter_modules(paymaster.__path__) if found.ispkg}
    missing = {name for name in packages if not re.search(rf"(?m)^    {name}\s", described)}
    assert not missing, f"say in src/paymaster/__init__.py what they are for: {missing}"


def error_classes() -> set[str]:
    """The names of PaymasterError and all its subclasses, wherever they are."""
    for found in pkgutil.walk_packages(paymaster.__path__, "paymaster."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    classes = [PaymasterError]
    for known in classes:
        classes += [new for new in known.__subclasses__() if new not in classes]
    return {known.__name__ for known in classes if known.__module__.startswith("paymaster.")}


def slugs() -> dict[str, str]:
    """Every slug that the code can raise, and a place where it does."""
    names, found = error_classes(), dict[str, str]()
    for file in python_files("src/paymaster"):
        for node in ast.walk(tree(file)):
            raised = list[ast.Call]()
            if isinstance(node, ast.Call) and dotted(node.func).rsplit(".", 1)[-1] in names:
                raised = [node]
            elif isinstance(node, ast.ClassDef) and node.name in names:
                raised = [
                    call
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Attribute)
                    and call.func.attr == "__init__"
                ]
            given = [call.args[0] for call in raised if call.args]
            if isinstance(node, ast.keyword) and (node.arg or "").endswith("_slug"):
                given = [node.value]
            for first in given:
                if isinstance(first, ast.Constant) and re.fullmatch(
                    r"[a-z0-9]+(-[a-z0-9]+)*", str(first.value)
                ):
                    found.setdefault(str(first.value), place(file, first))
    return found


def test_every_error_slug_is_documented() -> None:
    found = slugs()
    assert {"embedded-postgres", "consent-refused"} <= set(found)
    page = (PROJECT / "docs" / "reference" / "errors.md").read_text()
    missing = {slug: where for slug, where in found.items() if f"`{slug}`" not in page}
    assert not missing, f"say in docs/reference/errors.md what to do about them: {missing}"


def test_every_setting_is_documented() -> None:
    page = (PROJECT / "docs" / "reference" / "settings.md").read_text()
    assert page == reference(), "write paymaster.settings.reference() to docs/reference/settings.md"
