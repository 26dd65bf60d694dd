"""Every sentence that a person meets has at most 25 words: pages, help, errors, messages, docstrings, comments."""

from __future__ import annotations

import pytest

from fedhelp_edge import errors, plan, recipes
from fedhelp_edge.methods.registry import METHODS
from server_ref.kit import leaflet
from tests.sentences import LIMIT, ROOT, blocks, docstrings, files, hashes, literal, markdown, python, too_long, words

GENERATED = {"docs/errors.md"}  # from the remedies, which are judged


def test_no_sentence_has_more_than_25_words() -> None:
    named = {str(path.relative_to(ROOT)): path for path in files()}
    assert len(named) > 250
    long_sentences = [
        f"{name}:{line}" for name in sorted(named.keys() - GENERATED) for line in too_long(blocks(named[name]))
    ]
    assert not long_sentences, "\n".join(long_sentences)


def test_no_docstring_of_a_test_has_a_sentence_of_more_than_25_words() -> None:
    paths = sorted((ROOT / "tests").rglob("*.py"))
    assert len(paths) > 150
    found = {path.name: too_long(docstrings(path.read_text(encoding="utf-8"))) for path in paths}
    assert not {name: long_sentences for name, long_sentences in found.items() if long_sentences}


def test_no_remedy_has_more_than_25_words() -> None:
    assert not [kind.remedy for kind in errors.tree() if words(kind.remedy) > LIMIT]


def test_no_sentence_of_a_leaflet_or_a_new_plan_has_more_than_25_words() -> None:
    for system in ("win32", "linux", "darwin"):
        facts = leaflet.LeafletFacts(system, "3.11", True, 1, "0" * 64, "a.invite", True)
        assert not too_long(literal(leaflet.page(facts), 1))
    assert not too_long(hashes(plan.template(METHODS)))
    values = dict.fromkeys(("encoder", "sha256", "width", "side"), 1)
    assert not [
        kind for kind in recipes.KINDS for encoder in (None, values) if too_long(hashes(recipes.plan(kind, encoder)))
    ]


LONG = " ".join(f"word{number}" for number in range(LIMIT + 1))


@pytest.mark.parametrize(
    "page",
    [
        LONG,
        f"Short. {LONG}",
        f"- {LONG}",
        f"# {LONG}",
        f"| a | {LONG} |",
        f"> {LONG}",
        "```\nx\n```\n" + LONG.replace(" ", "\n"),
    ],
)
def test_a_long_sentence_is_found_wherever_a_page_has_it(page: str) -> None:
    assert len(too_long(markdown(page))) == 1
    assert not too_long(markdown(page.replace(" word0 ", " ").replace("word0", "").replace("word1 ", "word1. ")))


@pytest.mark.parametrize(
    "code",
    [
        f'"""{LONG}"""',
        f'def f():\n    """A.\n\n    {LONG}\n    """',
        f"# {LONG}",
        "# " + LONG.replace(" ", "\n# "),
        f"x = 1  # {LONG}",
        f'raise ValueError("{LONG}")',
        f'f(help=f"{{x}} {LONG[6:]}")',
        f"x = f\"{{'' if y else '{LONG}'}} images\"",
        f'_A = "{LONG[:40]}"\nx = _A + "{LONG[40:]}"',
        f'x = "<p>{LONG[:40]}<b>{LONG[40:]}</b></p>"',
    ],
)
def test_a_long_sentence_is_found_wherever_code_has_it(code: str) -> None:
    assert len(too_long(python(code))) == 1
