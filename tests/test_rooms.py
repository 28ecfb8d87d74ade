"""The rooms of the package: imports go one way, also lazy and type-only ones, and each room says what it is for."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import neurexp

PACKAGE = Path(neurexp.__file__).parent
# From the bottom to the top; rooms in one line do not import each other
ORDER = [
    {"errors", "lazy"},
    {"console"},
    {"io"},
    {"config"},
    {"text"},
    {"models"},
    {"mini"},
    {"stats", "figures", "report"},
    {"pages"},
    {"engine"},
    {"experiments"},
    {"tracking"},
    {"runs"},
    {"cli", "compare", "rerun", "ui"},
    {"run", "__main__"},
]
MODULES = {
    ".".join(("neurexp", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


@cache
def imports(module: str) -> set[str]:
    """The package's modules that a module imports, wherever in the file."""
    file, found = MODULES[module], set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            parents = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
            base = ".".join(parents[: len(parents) + 1 - node.level]) + "." if node.level else ""
            base = (base + (node.module or "")).rstrip(".")
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and node.args:
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        found |= {name for name in names if name in MODULES}
    # The public door of the whole package leads everywhere; nothing inside goes through it
    return found - {module}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "neurexp"


def test_there_is_no_circle_of_modules():
    graph = {module: imports(module) for module in MODULES if module != "neurexp"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {error.args[1]}")


def test_imports_go_down():
    place = {name: index for index, names in enumerate(ORDER) for name in names}
    upward = [
        f"{module} imports {name}"
        for module in sorted(set(MODULES) - {"neurexp"})
        for name in imports(module)
        if room(name) != room(module) and not place.get(room(name), 99) < place[room(module)]
    ]
    assert upward == []


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("__init__.py")), ids=lambda file: file.parent.name)
def test_a_room_says_what_it_is_for_and_what_it_offers(file):
    tree = ast.parse(file.read_text("utf-8"))
    assert len(ast.get_docstring(tree) or "") > 40
    assert "__all__" in [ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("__init__.py")), ids=lambda file: file.parent.name)
def test_public_names_exist_and_are_no_names_of_modules_that_cannot_be_called(file):
    """`from package import name` gives the module of that name once it is imported, not the function; unless the
    module is callable (`lazy.make_callable`)."""
    package = import_module(".".join(("neurexp", *file.parent.relative_to(PACKAGE).parts)))
    assert all(getattr(package, name) is not None for name in package.__all__)
    named_twice = set(package.__all__) & {path.stem for path in file.parent.iterdir()}
    assert all(callable(import_module(f"{package.__name__}.{name}")) for name in named_twice)


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").exists()
