"""Benchmark problems and data sets: files found by path, each with one function."""

import ast
import difflib
import hashlib
import importlib.util
import inspect
import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from ._precision import double_precision
from .data._dataset import Dataset
from .data._fetch import cache_folder
from .data._recipe import Recipe
from .data._source import digest
from .data._write import write

# What the trained model is called among its baselines.
TRAINED = "trained"


@dataclass(frozen=True)
class Problem:
    """What `sciml run` trains: the four arguments of `fit`, its steps, and `evaluate` (model -> metrics).

    - `baselines`: other models by name, called as the trained one is, such as `persistence` or `kernel_ridge`. They are
      evaluated as they are, and their metrics reported as `METRIC_NAME`; of a model for which a metric means nothing,
      `evaluate` returns fewer.
    - `figure`: draws the trained model (model -> Matplotlib figure).
    - `double`: trains and evaluates within `sciml.double_precision()`. The model must have been made within it too.

    Raises ValueError for a baseline without a name, or with that of the trained model.
    """

    model: Any
    loss: Callable
    data: Any
    optimiser: Any
    steps: int
    evaluate: Callable[[Any], Mapping[str, Any]]
    baselines: Mapping[str, Any] = field(default_factory=dict)
    figure: Callable[[Any], Any] | None = None
    double: bool = False

    def __post_init__(self):
        for name in self.baselines:
            if not isinstance(name, str) or name in ("", TRAINED):
                raise ValueError(f"Problem: a baseline needs a name of its own, got {name!r}")

    def evaluations(self, models: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """The metrics of each of these models, by its name."""
        # Metrics may come as arrays of one element; a report holds numbers.
        with double_precision(self.double):
            return {name: {m: float(v) for m, v in self.evaluate(model).items()} for name, model in models.items()}


def flat_metrics(evaluations: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The metrics of several models, each under a name of its own: those of a baseline as `METRIC_BASELINE`.

    Raises ValueError where two would have one name.
    """
    found: dict[str, float] = {}
    for model, metrics in evaluations.items():
        for metric, value in metrics.items():
            name = metric if model == TRAINED else f"{metric}_{model}"
            if name in found:
                raise ValueError(f"two metrics are called '{name}'; rename the baseline '{model}'")
            found[name] = value
    return found


@dataclass(frozen=True)
class Card:
    """What a problem file says of itself, read without running it."""

    name: str
    path: Path
    title: str
    text: str
    settings: dict[str, str]
    annotations: dict[str, str]
    expected: dict[str, float]
    budget: float


def problems() -> dict[str, Path]:
    """The provided problems by name."""
    return _files("problems")


def datasets() -> dict[str, Path]:
    """The recipes of data sets by name."""
    return _files("datasets")


def peers() -> dict[str, Path]:
    """The results of other packages, by the name of the problem."""
    return {path.stem: path for path in sorted(_folder("problems/peers").glob("*.json"))}


def problem(name_or_path: str | Path, **settings: Any) -> Any:
    """The problem in a file, provided (by name) or one's own (by path), with these settings: what its function
    `problem(**settings)` returns, a `PDE` or a `Problem`.

    Raises ValueError for a name or a setting that does not exist, naming the nearest; FileNotFoundError.
    """
    module = load_module(find_problem(name_or_path))
    return make_problem(module, settings)


def make_problem(module: ModuleType, settings: dict[str, Any]) -> Any:
    """Calls the function `problem` of a loaded file."""
    return _call(module, "problem", "problem", settings)


def dataset(name_or_path: str | Path, **settings: Any) -> Dataset:
    """The data set of a recipe, provided (by name) or one's own (by path), with these settings. It is made or fetched
    into the cache once, and opened from there.

    Raises ValueError for a name or a setting that does not exist, naming the nearest; FileNotFoundError; DataError
    where it cannot be made or fetched.
    """
    path = find_dataset(name_or_path)
    made = make_dataset(path, settings)
    if isinstance(made, Dataset):
        return made
    file = cache_folder() / f"{path.stem}-{digest(dict(made.attributes))}.h5"
    if not file.is_file():
        write(made, file)
    from .data._open import open as open_data

    return open_data(file)


def make_dataset(path: Path, settings: dict[str, Any]) -> Recipe | Dataset:
    """What the function `make` of a recipe's file gives with these settings; a `Recipe` gets the file's title, its
    checksum and all settings as attributes.
    """
    module = load_module(path)
    made = _call(module, "make", "data set", settings)
    if isinstance(made, Dataset):
        return made
    if not isinstance(made, Recipe):
        raise ValueError(f"{path}: make() must return a Recipe or a Dataset, it returned {type(made).__name__}")
    defaults = {n: p.default for n, p in inspect.signature(module.make).parameters.items()}
    facts = {
        "title": (inspect.getdoc(module) or path.stem).splitlines()[0],
        "dataset": path.stem,
        "settings": json.dumps(defaults | settings, default=str),
        "recipe_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "source": "made by sciml",
    }
    return replace(made, attributes=facts | dict(made.attributes))


def equations(name_or_path: str | Path, **settings: Any) -> Any:
    """The PDE that the data of a recipe satisfy, with these settings: what its function `equations` gives. The initial
    values or coefficients are those of each sample, so that the PDE alone need not determine a solution.

    Raises ValueError for a name that does not exist and for data without equations; FileNotFoundError.
    """
    from .pde._checks import UndeterminedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndeterminedWarning)
        return _call(load_module(find_dataset(name_or_path)), "equations", "data set", settings)


def _call(module: ModuleType, name: str, kind: str, settings: dict[str, Any]) -> Any:
    function = getattr(module, name, None)
    if not callable(function):
        raise ValueError(f"{module.__file__}: a {kind} file needs a function `{name}(**settings)`")
    parameters = inspect.signature(function).parameters
    known = list(parameters)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for setting in settings:
        if setting not in known and not takes_all:
            raise ValueError(f"no setting '{setting}'; {nearest_names(setting, known)}")
    return function(**settings)


def find_problem(name_or_path: str | Path) -> Path:
    """The file of a problem. Raises ValueError for an unknown name, FileNotFoundError for a path without a file."""
    return _find(name_or_path, problems(), "problem")


def find_dataset(name_or_path: str | Path) -> Path:
    """The file of a data set's recipe, as `find_problem`."""
    return _find(name_or_path, datasets(), "data set")


def _find(name_or_path: str | Path, known: dict[str, Path], kind: str) -> Path:
    text = str(name_or_path)
    if text.endswith(".py") or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        if path.suffix != ".py":
            raise ValueError(f"{path}: a {kind} file ends in .py")
        return path
    if text not in known:
        raise ValueError(f"no {kind} '{text}'; {nearest_names(text, list(known))} (a file of your own ends in .py)")
    return known[text]


def load_module(path: Path) -> ModuleType:
    """Runs a Python file as a module of its own."""
    name = f"sciml_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their own module up there to read annotations that are strings.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def read_card(path: Path, function: str = "problem") -> Card:
    """The card of a problem file, or with the function `make` of a data set's, from its text alone: nothing is
    imported, so this is fast and safe.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    text = ast.get_docstring(tree) or "(no description)"
    settings: dict[str, str] = {}
    annotations: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            names = [*node.args.args, *node.args.kwonlyargs]
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
            settings = {n.arg: ast.unparse(d) for n, d in zip(names[len(names) - len(defaults) :], defaults)}
            annotations = {n.arg: ast.unparse(n.annotation) for n in names if n.annotation is not None}
            text += "\n\n" + (ast.get_docstring(node) or "")
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return Card(
        path.stem,
        path,
        text.splitlines()[0],
        text.strip(),
        settings,
        annotations,
        _literal(constants.get("EXPECTED"), {}),
        float(_literal(constants.get("BUDGET"), 60.0)),
    )


def _literal(node, otherwise):
    try:
        return otherwise if node is None else ast.literal_eval(node)
    except ValueError:
        return otherwise


def _files(folder: str) -> dict[str, Path]:
    """The Python files of a folder by name. Empty where there is none."""
    return {p.stem: p for p in sorted(_folder(folder).glob("*.py")) if not p.stem.startswith("_")}


def _folder(name: str) -> Path:
    """In the wheel the folder lies in the package, in a checkout beside it."""
    here = Path(__file__).parent
    # What lies beside an installed package is site-packages, where `datasets` is Hugging Face's.
    is_checkout = (here.parent / "pyproject.toml").is_file()
    return here.parent / name if is_checkout else here / name


def nearest_names(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"there are {', '.join(known) or 'none'}"
