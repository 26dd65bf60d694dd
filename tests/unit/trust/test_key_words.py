from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge.parcel import keys
from fedhelp_edge.trust import key_words


@pytest.fixture(scope="module")
def clinic() -> keys.PublicKeys:
    return keys.generate().public


def test_there_are_2048_different_words() -> None:
    assert len(set(key_words.word_list())) == len(key_words.word_list()) == 2048


def test_the_first_four_letters_identify_a_word() -> None:
    assert len({word[:4] for word in key_words.word_list()}) == 2048


def test_words_can_be_typed_on_any_keyboard() -> None:
    assert [word for word in key_words.word_list() if not (word.isascii() and word.isalpha() and word.islower())] == []


def test_keys_are_eight_words_and_always_the_same(clinic: keys.PublicKeys) -> None:
    words = key_words.of_keys("fh-1", clinic)
    assert len(words) == 8
    assert words == key_words.of_keys("fh-1", clinic)


def test_each_of_the_two_keys_and_the_federation_changes_the_words(clinic: keys.PublicKeys) -> None:
    second = keys.generate().public
    all_words = [
        key_words.of_keys("fh-1", clinic),
        key_words.of_keys("fh-2", clinic),
        key_words.of_keys("fh-1", replace(clinic, sign=second.sign)),
        key_words.of_keys("fh-1", replace(clinic, recipient=second.recipient)),
        key_words.of_keys("fh-1", keys.PublicKeys(clinic.recipient, clinic.sign)),
    ]
    assert len(set(map(tuple, all_words))) == len(all_words)


def test_the_order_of_the_words_matters() -> None:
    first, second = key_words.of_text("charter"), key_words.of_text("retrahc")
    assert first != second
    assert first != sorted(first)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_only_equal_texts_have_equal_words(first: str, second: str) -> None:
    assert (key_words.of_text(first) == key_words.of_text(second)) == (first == second)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_eight_words_of_the_list(text: str) -> None:
    words = key_words.of_text(text)
    assert len(words) == 8
    assert set(words) <= set(key_words.word_list())


def test_the_words_of_a_text_are_the_same_in_every_version() -> None:
    assert [key_words.word_list().index(word) for word in key_words.of_text("abc")] == [
        1491,
        1541,
        1407,
        240,
        231,
        1961,
        40,
        320,
    ]


def test_a_passphrase_is_five_words_joined_by_hyphens() -> None:
    words = key_words.new_passphrase().split("-")
    assert len(words) == 5
    assert set(words) <= set(key_words.word_list())


def test_no_two_passphrases_are_alike() -> None:
    assert len({key_words.new_passphrase() for _ in range(50)}) == 50
