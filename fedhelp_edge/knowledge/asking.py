"""What a source is, and how one is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedhelp_edge.knowledge.prompts import DEFAULT, Prompts, read
from fedhelp_edge.knowledge.source_spec import SourceSpec


def say_nothing(line: str) -> None:
    pass


@dataclass(frozen=True)
class Asking:
    """How sources are asked; what a kind does not need, it ignores."""

    rows: NDArray[np.int64] | None = None  # which of the public images are asked about; None: all
    batch: int | None = None  # images asked at once; None: as many as suit the kind
    prompts: Prompts | None = None  # the sentences for CLIP; None: the usual ones
    timeout: float = 120.0  # seconds in which a program or a service answers
    rate: float = 60.0  # requests a minute to a service
    keys: Mapping[str, str] = field(default_factory=dict)  # of services, by their origin (https://host:port)
    ca_file: Path | None = None  # certificates to trust besides the usual ones
    say: Callable[[str], None] = say_nothing  # gets a line for each doubt that a person should know

    def prompts_for(self, spec: SourceSpec, classes: Sequence[str]) -> Prompts | None:
        """The prompts by which a source is asked, if it is asked by any."""
        if spec.kind != "clip":
            return None
        return self.prompts or read(DEFAULT, classes)

    def image_name(self, index: int) -> str:
        """How a message names the image that is asked about at this index: by its row among the public images."""
        return f"public image {index if self.rows is None else self.rows[index]}"


class Source:
    """A foundation model, which gives probabilities over the public classes."""

    model = ""  # what a program or a service says about itself

    def prepare(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], cache: Path, progress: Callable[[int], None]
    ) -> None:
        """Sees all images and their labels, once, before the first answer. It may keep in `cache` what it found."""

    def probabilities(self, images: NDArray[np.uint8], first: int) -> NDArray[np.floating]:
        """The probabilities of a batch, images x classes; `first` is the index of its first image among all."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends what the source started."""
