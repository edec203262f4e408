"""The layers and habits of the code base, read from its own source."""

import ast
import importlib
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("simcore", "executor", "analysis")
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}
MOST_LINES_OF_FILE, MOST_LINES_OF_FUNCTION = 350, 70

every_module = pytest.mark.parametrize("module", MODULES)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def nodes_at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when the module is imported: no function bodies, nothing for type checkers only."""
    found: list[ast.AST] = [tree]
    while found:
        node = found.pop()
        yield node
        only_typed = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not only_typed and not isinstance(node, ast.FunctionDef | ast.Lambda):
            found += ast.iter_child_nodes(node)


def imports(nodes: Iterator[ast.AST]) -> set[str]:
    """Dotted names of imported modules; `from a import b` may name the module a.b or a."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@every_module
def test_layers_do_not_point_back(module: str) -> None:
    layer = module.partition(".")[0]
    above = LAYERS[LAYERS.index(layer) + 1 :]
    imported = roots(imports(ast.walk(tree_of(MODULES[module]))))
    assert not imported.intersection(above)
    assert "tests" not in imported


@every_module
def test_heavy_libraries_are_imported_where_they_belong(module: str) -> None:
    imported = roots(imports(ast.walk(tree_of(MODULES[module]))))
    if module.startswith("simcore"):
        assert not imported & {"torch", "matplotlib", "sklearn"}
    if module != "simcore.engine":
        assert "simpy" not in imported
    if not module.startswith("simcore.compiled"):
        assert "numba" not in imported
    if module != "simcore.testing":
        assert not imported & {"hypothesis", "pytest"}


def test_modules_do_not_import_each_other_in_circles() -> None:
    edges = {
        module: imports(nodes_at_import(tree_of(path))) & MODULES.keys()
        for module, path in MODULES.items()
    }
    finished: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in finished:
            for target in sorted(edges[module] - {module}):
                visit(target, (*way, module))
            finished.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize(
    ("imported", "unwanted"),
    [
        ("simcore", "torch, simpy, numba, matplotlib"),
        ("simcore.schedules", "torch, simpy, numba, matplotlib"),
        ("simcore.engine", "torch, numba, matplotlib"),
        ("simcore.engines", "torch, simpy, numba, matplotlib"),
    ],
)
def test_imports_stay_light(imported: str, unwanted: str) -> None:
    code = f"import sys, {imported}; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not set(unwanted.split(", ")) & set(run.stdout.split())


@every_module
def test_modules_say_what_they_are_and_what_they_offer(module: str) -> None:
    tree = tree_of(MODULES[module])
    assert ast.get_docstring(tree), "no docstring"
    if len(tree.body) == 1:  # a package that is only a folder
        return
    loaded = importlib.import_module(module)
    names = loaded.__all__
    assert len(set(names)) == len(names)
    assert not [name for name in names if not hasattr(loaded, name)]


def functions_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Lines of each function without its docstring: what has to be understood at once."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                docstring = node.body[0]
                length -= (docstring.end_lineno or 0) - docstring.lineno + 1
            yield node.name, length


def test_sizes_are_reported() -> None:
    """A file or function that outgrows its size holds two ideas: worth a look, not a failure."""
    large = []
    for path in FILES:
        name = path.relative_to(ROOT)
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MOST_LINES_OF_FILE:
            large.append(f"{name}: {lines} lines")
        large += [
            f"{name}: {function} has {length} lines"
            for function, length in functions_of(tree_of(path))
            if length > MOST_LINES_OF_FUNCTION
        ]
    if large:
        warnings.warn("large: " + "; ".join(large), stacklevel=1)


GENERATED = re.compile(
    r"\.venv|\.git|\.hypothesis|\.\w+_cache|__pycache__|build|dist|out|.*egg-info"
)
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".ini", ".typed", ""}


def project_files() -> Iterator[Path]:
    """Text of the project itself, without environments, builds and caches."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not GENERATED.fullmatch(name)]
        for path in (Path(folder, name) for name in names):
            if path.suffix in TEXT and path.is_file():
                yield path


def test_nothing_refers_to_this_machine() -> None:
    foreign = ["\\.\\./" + "shared\\b", re.escape(str(ROOT)) + r"\b"]
    for folder in (ROOT.parent, Path.home()):
        if folder != Path(folder.anchor):
            foreign.append(rf"(?<![\w.-]){re.escape(str(folder))}/")
    pattern = re.compile("|".join(foreign))
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in project_files()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found
