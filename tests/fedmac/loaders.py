"""Calls that run what a file says: unpickling, evaluating, importing by a name. Found in source text by its tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "skops"}
"""Modules that read objects, and with them code, out of bytes."""

EVALUATES = {"eval", "exec", "compile", "__import__"}

UNPICKLES = {
    "torch.load": ("weights_only", True),
    "torch.save": (None, None),
    "numpy.load": ("allow_pickle", False),
    "numpy.savez": ("allow_pickle", False),
    "numpy.savez_compressed": ("allow_pickle", False),
    "numpy.save": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    "numpy.fromfile": (None, None),
    "pandas.read_pickle": (None, None),
    "pandas.read_hdf": (None, None),
    "yaml.load": (None, None),
    "yaml.unsafe_load": (None, None),
    "yaml.full_load": (None, None),
    "datasets.load_dataset": (None, None),
    "datasets.load_from_disk": (None, None),
    "importlib.import_module": (None, None),
    "runpy.run_path": (None, None),
    "runpy.run_module": (None, None),
    "os.system": (None, None),
    "os.popen": (None, None),
}
"""Functions, and the keyword with which they are safe; none makes the others so."""

METHODS = {"to_pickle", "read_pickle"}


def loaders(source: str) -> Iterator[tuple[int, str]]:
    """Line and what is wrong, for each place in a module's source that may run what it reads."""
    nodes = list(ast.walk(ast.parse(source)))
    names = dict(_imported(nodes))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, f"import {a.name}") for a in node.names if a.name.partition(".")[0] in PICKLES)
        elif isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in PICKLES:
            yield node.lineno, f"from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from _call(node, names)


def _imported(nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """What a name of the module stands for: ``np`` for ``numpy``, ``load`` for ``torch.load``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.partition(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _call(node: ast.Call, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    called = _dotted(node.func)
    head, dot, rest = called.partition(".")
    full = names.get(head, head) + dot + rest
    if full in EVALUATES or full.removeprefix("builtins.") in EVALUATES:
        yield node.lineno, f"{full}()"
    elif called.rpartition(".")[2] in METHODS:
        yield node.lineno, f"{called}()"
    elif full in UNPICKLES:
        keyword, safe = UNPICKLES[full]
        if full == "importlib.import_module" and node.args and isinstance(node.args[0], ast.Constant):
            return
        given = next((k.value for k in node.keywords if k.arg == keyword), None) if keyword else None
        if not (isinstance(given, ast.Constant) and given.value is safe):
            yield node.lineno, f"{full}()" + (f" without {keyword}={safe}" if keyword else "")
    for keyword in node.keywords:
        unsafe = keyword.arg == "trust_remote_code" or (keyword.arg == "shell" and full.startswith("subprocess."))
        if unsafe and getattr(keyword.value, "value", True) is not False:
            yield node.lineno, f"{keyword.arg}="


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def modules(root: Path, *folders: str) -> list[Path]:
    """The Python files below some folders, without environments that lie among them."""
    found = (path for folder in folders for path in sorted((root / folder).rglob("*.py")))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]
