"""Sets of prompts, built in and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedhelp_edge.data.source_row import normalise
from fedhelp_edge.errors import BadPromptsError
from fedhelp_edge.knowledge import prompts

CLASSES = ("MEL", "Other Thing")


@pytest.mark.parametrize("name", prompts.names())
def test_a_built_in_set_fills_every_template_with_every_word(name: str) -> None:
    chosen = prompts.read(name, CLASSES)
    assert len(chosen.templates) >= 4
    for class_name, words in chosen.words.items():
        sentences = chosen.sentences(class_name.upper())
        assert len(set(sentences)) == len(chosen.templates) * len(words) == len(sentences)
        assert not any("{" in sentence or len(sentence) > 120 for sentence in sentences)
        assert len(set(words)) == len(words)
    assert chosen.sentences("Other Thing") == [text.replace("{}", "Other Thing") for text in chosen.templates]


def test_the_built_in_sets_know_the_classes_of_the_plans_that_they_are_for() -> None:
    for name, classes in {
        "skin": "MEL NV BCC AK BKL DF VASC SCC", "xray": "normal pneumonia bacteria virus",
        "cells": "basophil eosinophil erythroblast ig lymphocyte monocyte neutrophil platelet",
        "retina": "CNV DME drusen normal", "tissue": "ADI BACK DEB LYM MUC MUS NORM STR TUM",
    }.items():  # fmt: skip
        words = prompts.read(name, ()).words
        assert {normalise(class_name) for class_name in classes.split()} <= words.keys()
    assert prompts.read(prompts.DEFAULT, ()).words == {}


def test_the_hash_is_of_the_sentences_for_these_classes_alone(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('templates = ["a {}"]\n[classes]\nmel = ["x"]\n')
    first = prompts.read(str(file), CLASSES)
    file.write_text('# the same\ntemplates = [\n "a {}",\n]\nclasses.MEL = ["x"]\n')
    assert prompts.read(str(file), CLASSES).sha256(CLASSES) == first.sha256(CLASSES)
    assert first.sha256(CLASSES[::-1]) != first.sha256(CLASSES)
    assert first.fact(CLASSES) == f"own.toml: a {{}} (SHA-256 of all sentences: {first.sha256(CLASSES)})"


@pytest.mark.parametrize(
    "text",
    ["", "templates = []", "templates = ['no place']", "templates = ['{} and {}']", "templates = ['{0}']",
     "templates = '{}'", "templates = [1]", 'templates = ["{}\\nb"]', "templates = ['{}'", "\x00", "[" * 5000,
     "templates = ['{}']\nmore = 1", "templates = ['{}']\nclasses = ['MEL']", "templates = ['{}']\nclasses.MEL = 'x'",
     "templates = ['{}']\nclasses.MEL = []", "templates = ['{}']\nclasses.MEL = [' ']",
     "templates = ['{}']\nclasses.MEL = ['a']\nclasses.mel = ['b']", "templates = ['{}']\nclasses.MELL = ['a']",
     "templates = [" + "'{}'," * 101 + "]", "# " + "x" * 17_000],
)  # fmt: skip
def test_a_file_of_another_form_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(BadPromptsError, match=r"own\.toml") as refused:
        prompts.read(str(tmp_path / "own.toml"), CLASSES)
    assert len(refused.value.cause) < 400


@pytest.mark.parametrize(
    ("class_name", "words"),
    [("aquarium_fish", "aquarium fish"), ("lawn__mower_", "lawn mower"), ("BreastMRI", "Breast MRI"),
     ("AbdomenCT", "Abdomen CT"), ("CTHead", "CT Head"), ("melanocyticNevus", "melanocytic Nevus"), ("CXR", "CXR"),
     ("McCune", "McCune"), ("HeLa", "HeLa"), ("iPhone", "iPhone"), ("DNAs", "DNAs"), ("t-shirt", "t-shirt"),
     ("class 0", "class 0"), ("immature granulocytes", "immature granulocytes"), ("_", "_")],
)  # fmt: skip
def test_a_class_without_words_is_called_as_a_person_would_write_its_name(class_name: str, words: str) -> None:
    usual = prompts.read(prompts.DEFAULT, (class_name,))
    assert usual.sentences(class_name)[0] == f"a photo of a {words}."


def test_words_of_a_file_are_found_by_either_spelling_of_a_class(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        "templates = ['{}']\nclasses.'Other thing' = ['x']\nclasses.aquarium_fish = ['y']\n"
    )
    chosen = prompts.read(str(tmp_path / "own.toml"), ("other_thing", "aquarium_fish"))
    assert chosen.sentences("other_thing") + chosen.sentences("aquarium_fish") == ["x", "y"]


def test_abbreviations_without_words_are_told_with_the_set_that_has_words_for_them() -> None:
    skin = ("MEL", "NV", "VASC")
    usual = prompts.read(prompts.DEFAULT, skin)
    told = prompts.abbreviation_note(usual, (*skin, "ship"))
    assert told == "CLIP is asked about abbreviations, MEL, NV, VASC; --prompts skin has words for them"
    assert "FILE.toml" in prompts.abbreviation_note(usual, ("MEL", "QZX"))
    assert not prompts.abbreviation_note(prompts.read("skin", skin), skin)
    assert not prompts.abbreviation_note(usual, ("ship", "aquarium_fish", "Hand"))


def test_an_unknown_set_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(BadPromptsError, match="cells, photo, retina, skin, tissue, xray"):
        prompts.read("skins", CLASSES)
