"""The rules of the house: who may import whom."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def sources() -> dict[str, Path]:
    """Every module of the library by its dotted name; the engines through their real place."""
    found: dict[str, Path] = {}
    for top, prefix in ((ROOT / "ee_runner", "ee_runner"), (ROOT / "engines", "ee_runner.engines")):
        for path in top.rglob("*.py"):
            if prefix == "ee_runner" and path.is_relative_to(ROOT / "ee_runner" / "engines"):
                continue
            parts = path.relative_to(top).with_suffix("").parts
            found[".".join((prefix, *parts)).removesuffix(".__init__")] = path
    return found


MODULES = sources()


def imports(module: str, *, types_too: bool = False) -> set[str]:
    """What a module imports anywhere in it, except for type checkers alone."""
    tree = ast.parse(MODULES[module].read_text())
    return set(_walk(tree, types_too=types_too))


def _walk(node: ast.AST, *, types_too: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            yield base
            yield from (f"{base}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not types_too:
            continue
        else:
            yield from _walk(child, types_too=types_too)


def importers(*names: str) -> set[str]:
    return {
        module
        for module in MODULES
        if any(name == wanted or name.startswith(f"{wanted}.") for name in imports(module) for wanted in names)
    }


def within(module: str, *rooms: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.mark.parametrize("module", ["job", "errors", "names", "secrets", "values", "entry_points", "logs"])
def test_the_values_need_the_standard_library_alone(module: str) -> None:
    foreign = {
        name
        for name in imports(f"ee_runner.{module}")
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "ee_runner"}
    }
    assert not foreign


@pytest.mark.parametrize(
    "module",
    [
        "ee_runner.events.decoder",
        *(f"ee_runner.stream.{name}" for name in ("records", "lines", "frames", "decoder", "archive.zipformat")),
    ],
)
def test_protocol_code_does_no_input_or_output(module: str) -> None:
    assert not imports(module) & {"os", "subprocess", "socket", "pathlib", "select", "selectors"}


def test_the_executor_knows_no_engine_no_artifacts_no_workspace() -> None:
    known = {name for m in MODULES if within(m, "ee_runner.executor") for name in imports(m)}
    assert not any(
        within(name, "ee_runner.engines", "ee_runner.artifacts", "ee_runner.workspace", "rich") for name in known
    )


DRIVERS = ("podman", "docker", "bwrap", "local")


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_driver_imports_what_a_driver_may(driver: str) -> None:
    allowed = {"job", "plan", "errors", "names", "secrets", "processes", "executor"}
    siblings = {f"ee_runner.engines.{other}" for other in DRIVERS if other != driver}
    for name in imports(f"ee_runner.engines.{driver}"):
        assert not within(name, *siblings), name
        if within(name, "ee_runner") and not within(name, "ee_runner.engines") and name != "ee_runner":
            assert name.split(".")[1] in allowed, name


def test_argparse_lays_out_help_and_does_nothing_else() -> None:
    assert importers("argparse") == {"ee_runner.cli.help"}


def test_rich_lives_in_the_display_and_the_report_alone() -> None:
    assert all(within(module, "ee_runner.cli.display", "ee_runner.report") for module in importers("rich"))


def test_yaml_is_read_where_input_is_read() -> None:
    assert all(within(module, "ee_runner.workspace", "ee_runner.settings") for module in importers("yaml"))


def test_processes_are_started_by_the_executor_alone() -> None:
    assert all(within(module, "ee_runner.executor") for module in importers("subprocess", "pexpect", "pty"))


def test_nothing_imports_the_command_line() -> None:
    users = importers("ee_runner.cli")
    assert all(within(module, "ee_runner.cli", "ee_runner.__main__") for module in users)


def test_the_library_never_imports_its_drop_in() -> None:
    assert not importers("ansible_runner")


def test_there_is_no_circle() -> None:
    graph = {
        module: {name for name in imports(module, types_too=True) if name in MODULES and name != module}
        for module in MODULES
    }
    for module in graph:  # a package is there before its parts: importing the parent is no arrow
        graph[module] = {name for name in graph[module] if not module.startswith(f"{name}.")}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())
