"The house has one room for each thing: imports run one way, and a notebook, its folder and its module agree."
import ast
import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

from stepdr.core.artifacts import root

CHAPTERS = ("core", "world", "tools", "agent", "synthesis", "model", "train", "judge", "rl", "evaluate", "run")
PACKAGE = Path(root(), "stepdr")
MODULES = {".".join(path.relative_to(root()).with_suffix("").parts): path
           for path in sorted(PACKAGE.rglob("*.py")) if path.parent != PACKAGE and path.name != "__init__.py"}
NOTEBOOKS = sorted(Path(root(), "nbs").glob("*/*.ipynb"))


def chapter(module):
    return module.split(".")[1]


def imported(source, module): # text of a module, its dotted name -> [(imported module of the house, line, whether late)]
    "What a module imports of the house, inside functions too."
    tree, package = ast.parse(source), module.rpartition(".")[0]
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = {id(inner) for function in functions for inner in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
            names = [whole if (whole := f"{base}.{alias.name}") in MODULES else base for alias in node.names]
        else:
            continue
        found += [(name, node.lineno, id(node) in late) for name in names if name in MODULES]
    return found


def circle(graph): # {module: modules that it imports} -> the modules of a circle, in order, or None
    "The first circle that a walk in depth meets."
    done = set()
    def walk(module, path):
        if module in path:
            return [*path[path.index(module):], module]
        if module in done:
            return None
        found = next((ring for other in sorted(graph[module]) if (ring := walk(other, [*path, module]))), None)
        done.add(module)
        return found
    return next((ring for module in graph if (ring := walk(module, []))), None)


IMPORTS = {module: imported(path.read_text(), module) for module, path in MODULES.items()}


def test_what_counts_as_an_import():
    source = "from ..core.config import root\ndef f():\n    from stepdr.core import quotes\n    import stepdr.world.pages, json\n"
    assert imported(source, "stepdr.world.index") == [
        ("stepdr.core.config", 1, False), ("stepdr.core.quotes", 3, True), ("stepdr.world.pages", 4, True)]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_imports_run_one_way_through_the_chapters():
    assert {chapter(module) for module in MODULES} == set(CHAPTERS)
    against = [f"{module}, line {line}: {other}" for module, found in IMPORTS.items() for other, line, _ in found
               if CHAPTERS.index(chapter(other)) > CHAPTERS.index(chapter(module))]
    assert not against


def test_no_circle_among_modules():
    """Late imports between packages count as well. Inside a package they do not: the loop calls TRL's trainer where a
    run asks for it, and that trainer is made of the loop's batches and rates."""
    graph = {module: {other for other, _, late in found if not late or chapter(other) != chapter(module)}
             for module, found in IMPORTS.items()}
    assert circle(graph) is None


def test_notebooks_have_two_digits_once_in_a_folder():
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", name) for path in NOTEBOOKS for name in (path.stem, path.parent.name))
    numbers = Counter((path.parent.name, path.stem[:2]) for path in NOTEBOOKS)
    assert [place for place, count in numbers.items() if count > 1] == []
    folders = sorted({path.parent.name for path in NOTEBOOKS})
    assert tuple(name[3:] for name in folders) == CHAPTERS and len({name[:2] for name in folders}) == len(CHAPTERS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_notebook_and_its_module_share_their_name(path):
    told = re.search(r"#\| default_exp ([\w.]+)", path.read_text())
    assert told is None or told[1] == f"{path.parent.name[3:]}.{path.stem[3:]}"


def test_each_module_has_its_notebook():
    exported = {f"stepdr.{found[1]}" for path in NOTEBOOKS if (found := re.search(r"#\| default_exp ([\w.]+)", path.read_text()))}
    assert set(MODULES) == exported
