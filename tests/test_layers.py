"""Who may import whom: a file sees only floors below it, and rooms of one floor never import each other."""

import ast
from pathlib import Path

import pytest

# From the lowest floor up; a room is a file or a folder of `sciml`. The design's chart, and a basement below it.
FLOORS = [
    {"_progress", "_precision", "_sharding"},
    {"_fit", "_loss", "_save", "optim"},
    {"data", "nn", "metrics"},
    {"pde", "operators", "ode", "molecules", "generative", "uncertainty", "analysis", "interop"},
    {"_problem", "_tune"},
    {"_make", "_check", "_inspect", "_compare"},
    {"__init__", "__main__"},
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
WITHIN_A_FLOOR = {("_fit", "_save"), ("_fit", "_loss"), ("optim", "_loss")}


def imported_modules(source: str, module: str) -> set[str]:
    """The absolute names of all that a file imports, inside functions too; `from a import b` gives `a.b`, since b may
    be a module. `module` is the file's own name; a package's ends in `.__init__`.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def room_of(name: str) -> str | None:
    """The room of `sciml` that an imported name lies in; None outside of the package."""
    parts = name.split(".")
    if parts[0] != "sciml":
        return None
    # `import sciml` and `from sciml import PDE` open the table of contents.
    return parts[1] if len(parts) > 1 and parts[1] in FLOOR_OF else "__init__"


def violations(files: dict[str, str]) -> list[str]:
    """The forbidden imports in a package, given as sources by module name."""
    found = []
    for module, source in sorted(files.items()):
        here = module.split(".")[1]
        if here not in FLOOR_OF:
            found.append(f"{module}: on no floor; add it to FLOORS")
            continue
        for name in sorted(imported_modules(source, module)):
            there = room_of(name)
            if there is None or there == here or (here, there) in WITHIN_A_FLOOR:
                continue
            if FLOOR_OF[there] >= FLOOR_OF[here]:
                found.append(f"{module} imports {name}")
    return found


def cycles(files: dict[str, str]) -> list[str]:
    """The modules that import themselves in a circle while they are loaded; imports inside functions do not count."""
    edges = {module: _at_load(source, module, set(files)) for module, source in files.items()}
    return sorted(m for m in edges if m in _reachable(m, edges))


def _at_load(source: str, module: str, known: set[str]) -> set[str]:
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = imported_modules(ast.unparse(tree), module)
    return {m for name in names for m in (name, name.rpartition(".")[0]) if m in known}


def _reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(edges[start])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += edges[module]
    return seen


def roof_violations(source: str) -> list[str]:
    """Imports of a problem or a data set that are neither `sciml`'s public names nor another distribution's."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.append(f"relative import in line {node.lineno}")
    for name in sorted(imported_modules(source, "problem")):
        parts = name.split(".")
        if parts[0] in ("problems", "datasets", "notebooks", "tests"):
            found.append(f"imports {name}")
        if parts[0] == "sciml" and any(part.startswith("_") for part in parts):
            found.append(f"imports {name}, which is not public")
    return found


def package_files(root: Path) -> dict[str, str]:
    """The sources of the package by module name."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in (root / "sciml").rglob("*.py")
        if path.relative_to(root).parts[1] not in ("problems", "datasets")
    }


def test_floors_are_kept(checkout):
    files = package_files(checkout)
    assert {"sciml.__init__", "sciml._fit", "sciml.pde._solve"} <= set(files)
    assert violations(files) == []


def test_no_circle_of_imports(checkout):
    assert cycles(package_files(checkout)) == []


def test_roof_uses_public_names_only(checkout):
    paths = [*checkout.glob("problems/*.py"), *checkout.glob("datasets/*.py")]
    assert paths
    assert {p.name: v for p in paths if (v := roof_violations(p.read_text(encoding="utf-8")))} == {}


def test_problems_and_datasets_are_no_packages(checkout):
    assert not [name for name in ("problems", "datasets") if (checkout / name / "__init__.py").exists()]


@pytest.mark.parametrize(
    "module, source",
    [
        ("sciml._fit", "from .pde import PDE"),
        ("sciml._fit", "def f():\n    from .pde._domain import Box"),
        ("sciml._save", "from . import _fit"),
        ("sciml._loss", "import sciml"),
        ("sciml._loss", "from sciml import fit"),
        ("sciml._loss", "from ._save import save"),
        ("sciml.optim._lbfgs", "from .._fit import fit"),
        ("sciml.optim._lbfgs", "from ..nn import mlp"),
        ("sciml.nn._mlp", "from ..data import statistics"),
        ("sciml.pde._solve", "import sciml.ode._euler"),
        ("sciml.pde._solve", "from ..ode import euler"),
        ("sciml.pde._solve", "from .. import ode"),
        ("sciml.pde.__init__", "from .._problem import problem"),
        ("sciml._problem", "if True:\n    from . import __main__"),
        ("sciml._unheard_of", "import numpy"),
    ],
)
def test_checker_sees_forbidden_imports(module, source):
    assert len(violations({module: source})) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        ("sciml._fit", "from ._save import save\nfrom ._loss import total\nfrom ._progress import ProgressBar"),
        ("sciml.optim._lbfgs", "from .._loss import Groups\nfrom ._line_search import search"),
        ("sciml.pde._solve", "from .._fit import fit\nfrom ..nn import mlp\nfrom . import _checks\nimport jax"),
        ("sciml.pde.__init__", "from ._solve import solve"),
        ("sciml.__init__", "from . import pde as pde\nfrom ._fit import fit"),
    ],
)
def test_checker_allows_what_the_design_allows(module, source):
    assert violations({module: source}) == []


def test_checker_sees_circles():
    files = {
        "sciml.pde._a": "from ._b import f",
        "sciml.pde._b": "from . import _c",
        "sciml.pde._c": "import sciml.pde._a",
    }
    assert cycles(files) == ["sciml.pde._a", "sciml.pde._b", "sciml.pde._c"]
    assert cycles(files | {"sciml.pde._b": "def f():\n    from . import _c"}) == []


@pytest.mark.parametrize(
    "source",
    [
        "from sciml._fit import fit",
        "from sciml.pde._pde import PDE",
        "from . import burgers",
        "import problems.burgers",
    ],
)
def test_checker_sees_roof_violations(source):
    assert roof_violations(source)
