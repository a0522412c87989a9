"""The package as a whole: public names, direction of imports, documentation."""

import ast
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from numpydoc.validate import validate

import sklearn_mgs

ROOT = Path(sklearn_mgs.__file__).parent
FILES = {
    ".".join(("sklearn_mgs", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]

# --------------------------------------------------------------------------- names


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_listed_and_there(module):
    names = importlib.import_module(module).__all__
    assert len(set(names)) == len(names) > 0
    for name in names:
        assert hasattr(importlib.import_module(module), name), name


def test_every_public_name_of_the_package_is_defined_in_it():
    for name in sklearn_mgs.__all__:
        thing = getattr(sklearn_mgs, name)
        assert name == "__version__" or thing.__module__.startswith("sklearn_mgs."), name
        assert name == "__version__" or thing.__name__ == name


def test_the_names_of_the_specification():
    expected = """
        MLPClassifier MLPRegressor MGSNeuralNetClassifier MGSNeuralNetRegressor mgs_score
        make_mgs_scorer one_standard_error MLPClassifierCV MLPRegressorCV MGSMonitor
        MGSEarlyStopping MGSHistoryDisplay MGSPathDisplay GramMatrixDisplay
        RegularizerComparisonDisplay gradient_deflection gradient_gap_deviation path_kinks
        make_deflection_scorer SegmentDisplay
    """
    assert set(expected.split()) <= set(sklearn_mgs.__all__)
    kernel = importlib.import_module("sklearn_mgs.gram").__all__
    assert {"gram_matrix", "gram_trace", "GramOperator", "mgs_metric"} <= set(kernel)


def test_version_and_types():
    assert sklearn_mgs.__version__ == importlib.metadata.version("sklearn_mgs")
    assert (ROOT / "py.typed").exists()


# --------------------------------------------------------------------------- imports


def imports(path, module_level=False):
    """Absolute names of what a file imports."""
    tree = ast.parse(path.read_text())
    nodes = _top_level(tree) if module_level else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in whole)


def _top_level(node):
    """Nodes that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _top_level(child)


def outside(name):
    top = name.split(".")[0]
    return top not in sys.stdlib_module_names and top != "sklearn_mgs"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("sklearn_mgs.gram")])
def test_the_kernel_needs_torch_alone(module):
    for name in imports(MODULES[module]):
        assert not outside(name) or name.split(".")[0] == "torch", name
        assert not name.startswith("sklearn_mgs") or name.startswith("sklearn_mgs.gram"), name


def test_the_penalty_needs_torch_and_the_kernel():
    for name in imports(MODULES["sklearn_mgs.penalty"]):
        assert not outside(name) or name.split(".")[0] == "torch", name
        assert not name.startswith("sklearn_mgs") or name.startswith("sklearn_mgs.gram"), name


def test_imports_point_one_way():
    graph = {
        module: {name for name in imports(path, module_level=True) if name in MODULES}
        for module, path in MODULES.items()
    }
    assert graph["sklearn_mgs"]
    list(TopologicalSorter(graph).static_order())  # raises a CycleError


@pytest.mark.parametrize("module", MODULES)
def test_what_is_optional_is_imported_where_it_is_used(module):
    tops = {name.split(".")[0] for name in imports(MODULES[module], module_level=True)}
    needed = {"numpy", "scipy", "sklearn", "skorch", "torch"}
    theirs = {"joblib", "tqdm"}  # scikit-learn's and skorch's own requirements
    assert {name for name in tops if outside(name)} <= needed | theirs


def test_the_package_works_without_what_is_optional_or_slow():
    program = """
import sys
for name in ("matplotlib", "rich"):
    sys.modules[name] = None
import sklearn_mgs
X, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
clf = sklearn_mgs.MLPClassifier((3,), max_iter=2, mgs_strength=0.1).fit(X, y)
assert sklearn_mgs.mgs_score(clf, X) > 0
assert not {"torch._dynamo", "sympy"} & set(sys.modules)  # torch's compiler, seconds to import
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


# ---------------------------------------------------------------------- documentation

IGNORED = {
    "ES01": "an extended summary where the first line does not say it all",
    "EX01": "examples where they teach something",
    "SA01": "references where there is something to see",
    "PR03": "what is handed on to another class comes first",
    "PR04": "parameters that are another object's share a line, which names it",
    "RT02": "what is returned has a name, and arrays a shape",
    "RT03": "the same",
    "SS02": "skorch is written in lower case",
}


def documented():
    """Public classes and functions, and their methods but for the hooks that skorch documents."""
    for module in ("sklearn_mgs", "sklearn_mgs.gram"):
        for name in importlib.import_module(module).__all__:
            thing = getattr(importlib.import_module(module), name)
            if inspect.isfunction(thing) or (inspect.isclass(thing) and module == "sklearn_mgs"):
                yield f"{module}.{name}"
            if inspect.isclass(thing) and module == "sklearn_mgs":
                for method, value in vars(thing).items():
                    hook = method.startswith("on_") or method == "initialize"
                    if inspect.isfunction(value) and not method.startswith("_") and not hook:
                        yield f"{module}.{name}.{method}"
    yield from ("sklearn_mgs.gram.GramOperator", "sklearn_mgs.penalty.MGSPenalty")


@pytest.mark.parametrize("name", list(documented()))
def test_documentation_is_valid(name):
    errors = [error for error in validate(name)["errors"] if error[0] not in IGNORED]
    assert not errors


def test_reasons_to_ignore_are_still_needed():
    codes = {code for name in documented() for code, _ in validate(name)["errors"]}
    assert codes == set(IGNORED)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_fitted_attributes_are_documented(name):
    X, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
    estimator = getattr(sklearn_mgs, name)(max_iter=2).fit(X, y)
    document = inspect.getdoc(type(estimator))
    attributes = document[document.index("Attributes\n") : document.index("Notes\n")]
    fitted = [name for name in dir(estimator) if name.endswith("_") and not name.startswith("_")]
    assert len(fitted) > 15
    assert [name for name in fitted if name not in attributes] == []
