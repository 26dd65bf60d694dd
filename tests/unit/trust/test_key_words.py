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


def test_four_letters_tell_two_words_apart() -> None:
    assert len({word[:4] for word in key_words.word_list()}) == 2048


def test_words_can_be_typed_on_any_keyboard() -> None:
    assert [word for word in key_words.word_list() if not (word.isascii() and word.isalpha() and word.islower())] == []


def test_keys_are_eight_words_and_always_the_same(clinic: keys.PublicKeys) -> None:
    words = key_words.of_keys("fh-1", clinic)
    assert len(words) == 8
    assert words == key_words.of_keys("fh-1", clinic)


def test_each_of_the_two_keys_and_the_federation_changes_the_words(clinic: keys.PublicKeys) -> None:
    other = keys.generate().public
    all_words = [
        key_words.of_keys("fh-1", clinic),
        key_words.of_keys("fh-2", clinic),
        key_words.of_keys("fh-1", replace(clinic, sign=other.sign)),
        key_words.of_keys("fh-1", replace(clinic, recipient=other.recipient)),
        key_words.of_keys("fh-1", keys.PublicKeys(clinic.recipient, clinic.sign)),
    ]
    assert len(set(map(tuple, all_words))) == len(all_words)


def test_the_order_of_the_words_matters() -> None:
    one, other = key_words.of_text("charter"), key_words.of_text("retrahc")
    assert one != other
    assert one != sorted(one)


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_two_texts_have_the_same_words_only_when_they_are_one(one: str, other: str) -> None:
    assert (key_words.of_text(one) == key_words.of_text(other)) == (one == other)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_eight_words_of_the_list(text: str) -> None:
    words = key_words.of_text(text)
    assert len(words) == 8
    assert set(words) <= set(key_words.word_list())


def test_the_words_of_a_text_never_change_from_one_version_to_the_next() -> None:
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
