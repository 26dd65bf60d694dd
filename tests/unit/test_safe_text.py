"""Text by others cannot forge a line, control a terminal, look like other text or be evaluated as a formula."""

from __future__ import annotations

import ast
import unicodedata
from pathlib import Path

import pytest

from fedhelp_edge import safe_text
from fedhelp_edge.errors import BadNameError
from fedhelp_edge.safe_text import counted

ROOT = Path(__file__).parents[2]


def test_every_control_or_invisible_character_is_escaped() -> None:
    steering = {"Cc", "Cs", "Zl", "Zp"}
    for number in range(0x110000):
        sign = chr(number)
        shown = safe_text.visible(f"a{sign}b")
        if unicodedata.category(sign) in steering or unicodedata.bidirectional(sign) in {
            "LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
        }:  # fmt: skip
            assert shown.startswith("a\\"), hex(number)
            assert shown.isascii()
        assert "\n" not in shown


@pytest.mark.parametrize("name", ["Clinic A", "Übung 好", "عيادة", "می\u200cخواهم", "👩\u200d⚕️", "C:\\clinic"])
def test_names_in_every_script_stay_unchanged(name: str) -> None:
    assert safe_text.visible(name) == name
    safe_text.check_name(name)


@pytest.mark.parametrize("sign", ["\n", "\r", "\t", "\x1b", "\x7f", "\x9b", "\u200b", "\u202e", "\u2028", "\udcff"])
def test_a_name_with_an_invisible_character_is_refused_by_a_safe_message(sign: str) -> None:
    with pytest.raises(BadNameError) as refused:
        safe_text.check_name(f"A{sign}words: forged")
    assert safe_text.visible(refused.value.cause) == refused.value.cause


def test_markup_is_shown_as_text_on_pages() -> None:
    assert safe_text.visible_html("<b>\n\u202e\x1b") == "&lt;b&gt;\\n\\u202e\\x1b"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", " =1", "\n=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    assert str(safe_text.csv_cell(text)).startswith("'")


def test_only_the_shell_prints_and_it_prints_a_line_at_a_time() -> None:
    """Output that bypasses `console.show` and `console.say` would print other people's text unescaped."""
    elsewhere = {
        "console.py",
        "install.py",
        "sandbox.py",
        "agent.py",
        "torchvision_shim.py",
    }  # of no person, or of the kit
    for package in ("fedhelp_edge", "server_ref", "export"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id != "print" or path.name in elsewhere, path
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("show", "say", "say_next"):
                    texts = [text for text in ast.walk(node) if isinstance(text, ast.Constant)]
                    split = any(isinstance(part, ast.Attribute) and part.attr == "split" for part in ast.walk(node))
                    assert split or not any("\n" in str(text.value) for text in texts), path


def test_a_long_list_of_names_is_shortened_to_its_first_names_and_the_number_of_others() -> None:
    names = [f"site-{number:03}" for number in range(5000)]
    assert safe_text.shortened(names[:3], limit=3) == "site-000, site-001, site-002"
    assert safe_text.shortened(names, limit=2) == "site-000, site-001 and 4998 more"
    assert safe_text.shortened([]) == ""


def test_one_thing_is_counted_in_the_singular() -> None:
    assert [counted(number, "update") for number in (0, 1, 2)] == ["0 updates", "1 update", "2 updates"]
    assert [counted(number, "request waits", "requests wait") for number in (1, 2)] == [
        "1 request waits",
        "2 requests wait",
    ]
