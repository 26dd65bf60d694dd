"""What a program or a service is asked and answers: one JSON object each (docs/spec/sources.md)."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedhelp_edge.errors import SourceAnswerError
from fedhelp_edge.safe_text import NAME_PATTERN, counted

PROTOCOL = "fedhelp-source/1"
_FRAME_LIMIT, _NUMBER_LIMIT = 64 << 10, 64  # bytes of an answer around its numbers, and of each number


@dataclass(frozen=True)
class Question:
    """A batch of images and the classes to choose from. Its answer repeats its id, so that no two are mistaken."""

    images: NDArray[np.uint8]
    classes: Sequence[str]
    name_of: Callable[[int], str]  # of an image of the batch, for messages
    id: str

    @classmethod
    def ask(cls, images: NDArray[np.uint8], classes: Sequence[str], name_of: Callable[[int], str]) -> Question:
        """A question with an id that no other has."""
        return cls(images, classes, name_of, token_hex(8))

    def line(self) -> bytes:
        """The question as one line of ASCII."""
        pngs = [base64.b64encode(_png(image)).decode() for image in self.images]
        question = {"protocol": PROTOCOL, "id": self.id, "classes": list(self.classes), "images": pngs}
        return json.dumps(question).encode("ascii") + b"\n"

    @property
    def answer_limit(self) -> int:
        """The bytes that an answer can have."""
        names = len(json.dumps(list(self.classes)))
        return _FRAME_LIMIT + names + len(self.images) * len(self.classes) * _NUMBER_LIMIT

    def read(self, data: bytes, who: str) -> tuple[NDArray[np.float64], str]:
        """The probabilities in an answer (images x classes) and the model's name. Their values are not checked yet."""
        if len(data) > self.answer_limit:
            raise SourceAnswerError(f"{who} gives an answer that is longer than possible")
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise SourceAnswerError(f"{who} does not answer with one JSON object") from error
        match answer:
            case {"id": id_, "classes": list(names), "probabilities": list(rows)}:
                model = answer.get("model", "")
            case _:
                raise SourceAnswerError(f"{who} answers without 'id', 'classes' and 'probabilities'")
        if id_ != self.id:
            raise SourceAnswerError(f"{who} answers another question: the 'id' differs")
        if names != list(self.classes):
            raise SourceAnswerError(f"{who} answers for other classes than it was asked about, or in another order")
        if len(rows) != len(self.images):
            raise SourceAnswerError(
                f"{who} gives {counted(len(rows), 'answer')} for {counted(len(self.images), 'image')}"
            )
        if not isinstance(model, str) or not NAME_PATTERN.fullmatch(model):
            raise SourceAnswerError(f"{who} names its model with more than 200 letters, or with control characters")
        return np.array([self._numbers(row, index, who) for index, row in enumerate(rows)]), model

    def _numbers(self, row: object, index: int, who: str) -> list[float]:
        if isinstance(row, list) and len(row) == len(self.classes) and all(type(n) in (int, float) for n in row):
            try:
                return [float(number) for number in row]
            except OverflowError:
                pass
        raise SourceAnswerError(
            f"{who}: its answer for {self.name_of(index)} is not {counted(len(self.classes), 'number')}"
        )


def _png(image: NDArray[np.uint8]) -> bytes:
    """An image as a file that holds its pixels and nothing else."""
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(file, "PNG")
    return file.getvalue()
