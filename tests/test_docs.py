"""Every snippet of the documentation and the README runs, page by page."""

import doctest
import importlib.util
import re
from pathlib import Path

import pytest

import sklearn_mgs

ROOT = Path(__file__).parents[1]
SKLEARN_CALLBACKS = importlib.util.find_spec("sklearn.callback")  # scikit-learn 1.9 and later


def snippets(page):
    """Line numbers and texts of the page's Python blocks."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        if SKLEARN_CALLBACKS or "sklearn.callback" not in block[1]:
            yield text[: block.start(1)].count("\n"), block[1]


PAGES = [p for p in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if [*snippets(p)]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    names = {}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for line, text in snippets(page):
        if ">>>" in text:
            test = doctest.DocTestParser().get_doctest(text, names, page.name, str(page), line)
            runner.run(test, clear_globs=False)
            names = test.globs
        else:
            exec(compile("\n" * line + text, str(page), "exec"), names)
    assert runner.summarize().failed == 0


def test_every_public_name_is_in_the_api_reference():
    listed = set(re.findall(r"^   (\w+)$", (ROOT / "docs" / "api.rst").read_text(), re.M))
    core = {"gram_matrix", "gram_trace", "GramOperator", "mgs_metric", "MGSPenalty"}
    assert ({*sklearn_mgs.__all__} | core) - {"__version__"} <= listed


def test_there_are_snippets():
    assert len(PAGES) >= 9
