"""The answer of a program or a service is read with suspicion; what is wrong with it is said by image."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedhelp_edge.errors import SourceAnswerError
from fedhelp_edge.knowledge.build import check_answers
from fedhelp_edge.knowledge.protocol import PROTOCOL, Question

CLASSES = ("na\u00efve", "b", "c")
IMAGES = np.random.Generator(np.random.Philox(3)).integers(0, 256, (4, 9, 7, 3), np.uint8)
ROWS = [[0.2, 0.3, 0.5], [1, 0, 0], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5]]


def name_of(index: int) -> str:
    return f"public image {100 + index}"


def asked() -> Question:
    return Question.ask(IMAGES, CLASSES, name_of)


def answer_to(question: Question, **changes: Any) -> dict[str, Any]:
    rows = json.loads(json.dumps(ROWS))
    return {"id": question.id, "classes": list(CLASSES), "probabilities": rows, **changes}


def read(question: Question, data: bytes) -> tuple[Any, str]:
    """The answer as it is used: read, then checked as that of every source is."""
    rows, model = question.read(data, "asker")
    check_answers(rows, (len(IMAGES), len(CLASSES)), "asker", name_of)
    return rows, model


def test_a_question_has_the_pixels_the_classes_and_nothing_else() -> None:
    line = asked().line()
    assert line.count(b"\n") == 1
    question = json.loads(line.decode("ascii"))
    assert set(question) == {"protocol", "id", "classes", "images"}
    assert (question["protocol"], question["classes"]) == (PROTOCOL, list(CLASSES))
    for png, pixels in zip(question["images"], IMAGES, strict=True):
        data = base64.b64decode(png, validate=True)
        opened = Image.open(io.BytesIO(data))
        assert (np.asarray(opened) == pixels).all()
        assert {data[at : at + 4] for at in chunks(data)} == {b"IHDR", b"IDAT", b"IEND"}  # no text, no date


def chunks(png: bytes) -> list[int]:
    """Where the type of each chunk of a PNG stands."""
    places, at = [], 8
    while at < len(png):
        places.append(at + 4)
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    return places


def test_an_answer_is_read_to_the_bit_with_further_keys_and_spaces() -> None:
    question = asked()
    text = json.dumps(answer_to(question, model="m 1", seconds=3), indent=4)
    rows, model = read(question, text.encode())
    assert (rows.tolist(), model) == (ROWS, "m 1")


def test_the_longest_answer_that_a_formatter_writes_is_not_too_long() -> None:
    question = Question.ask(np.repeat(IMAGES, 64, 0), CLASSES, name_of)
    rows = [[1 / 3 + 1e-17, 2.2250738585072014e-308, 0.6666666666666666]] * 256
    answer = {"id": question.id, "classes": list(CLASSES), "probabilities": rows}
    assert len(question.read(json.dumps(answer, indent=8).encode(), "asker")[0]) == 256


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no object": lambda answer: [1],
    "nothing in it": lambda answer: {},
    "another question's answer": lambda answer: {**answer, "id": "0"},
    "an id that is a number": lambda answer: {**answer, "id": 0},
    "the classes in another order": lambda answer: {**answer, "classes": list(CLASSES[::-1])},
    "fewer classes": lambda answer: {**answer, "classes": list(CLASSES[:2])},
    "classes that are no texts": lambda answer: {**answer, "classes": [[], {}, None]},
    "too few answers": lambda answer: {**answer, "probabilities": ROWS[:3]},
    "too many answers": lambda answer: {**answer, "probabilities": [*ROWS, ROWS[0]]},
    "answers by name": lambda answer: {**answer, "probabilities": {"0": ROWS[0]}},
    "a model's name on two lines": lambda answer: {**answer, "model": "a\nb"},
    "a model with a long name": lambda answer: {**answer, "model": "a" * 201},
    "a model that is a number": lambda answer: {**answer, "model": 5},
}
ODD_ROWS: dict[str, Any] = {
    "NaN": [float("nan"), 0.5, 0.5], "infinity": [float("inf"), 0, 0], "a negative value": [1.5, -0.5, 0],
    "a sum below 1": [0.1, 0.1, 0.79], "logits": [12.5, 1, 0], "zeros": [0, 0, 0], "a short row": [0.5, 0.5],
    "a long row": [0.25] * 4, "no row": 1, "a row in a row": [[0.1, 0.1, 0.8]], "text": ["0.1", 0.1, 0.8],
    "true": [True, False, False], "null": [None, 0.5, 0.5], "a huge number": [10**400, 0, 0],
    "a row by name": {"a": 1},
}  # fmt: skip
ODD_BYTES = {
    "no JSON": b"loading the model", "nothing": b"", "half": b'{"id": ', "bytes that are no text": b"\xff\xfe{}",
    "a digit too many": b"9" * 5000, "deep nesting": b"[" * 60_000, "without end": b" " * 1_000_000,
    "two objects": b"{} {}",
}  # fmt: skip


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_answer_of_another_form_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    question = asked()
    with pytest.raises(SourceAnswerError, match="asker") as refused:
        read(question, json.dumps(change(answer_to(question))).encode())
    assert refused.value.cause.isprintable()


@pytest.mark.parametrize("row", ODD_ROWS.values(), ids=ODD_ROWS)
def test_a_row_that_is_no_probabilities_is_refused_by_the_name_of_its_image(row: Any) -> None:
    question = asked()
    answer = answer_to(question)
    answer["probabilities"][2] = row
    with pytest.raises(SourceAnswerError, match="public image 102"):
        read(question, json.dumps(answer).encode())


@pytest.mark.parametrize("data", ODD_BYTES.values(), ids=ODD_BYTES)
def test_bytes_that_are_no_answer_are_refused(data: bytes) -> None:
    with pytest.raises(SourceAnswerError, match="asker"):
        read(asked(), data)
