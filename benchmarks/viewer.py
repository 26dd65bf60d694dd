"""How long a person waits on the page of `fedhelp-edge serve`: from a drop to the answer on the screen.

The page is in a real Chromium. The command is a process of its own, and so is the browser. An image counts as answered
when its heading, the image and its heat-map are drawn. Images are dropped one by one, each a second after the last
answer. The first image of a page is apart from those that follow it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import report
from benchmarks.inference import CLASSES, export_model
from fedhelp_edge.demo import phantoms
from tests.browser.chromium import PROGRAM, Browser, browser
from tests.unit.data import samples

_DRAWN = (
    "Promise.all([...document.querySelectorAll('section img')].map(image => image.decode()))"
    ".then(() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done))))"
    ".then(() => document.querySelector('section h2').textContent)"
)


def pictures(height: int, width: int, count: int) -> Iterator[NDArray[np.uint8]]:
    """Phantoms as a camera takes them, with the noise of its sensor."""
    drawn, _ = phantoms.draw(count, len(CLASSES), size=64, seed=2, difficulty=0.0)
    noise = np.random.default_rng(0).integers(-8, 9, (height, width, 3), np.int16)
    for pixels in drawn:
        large = np.asarray(Image.fromarray(pixels).resize((width, height)), np.int16)
        yield (large + noise).clip(0, 255).astype(np.uint8)


def photographs(folder: Path, height: int, width: int, count: int) -> list[Path]:
    paths = [folder / f"{width}-{number}.jpg" for number in range(count)]
    for path, pixels in zip(paths, pictures(height, width, count), strict=True):
        Image.fromarray(pixels).save(path, quality=90)
    return paths


def radiographs(folder: Path, height: int, width: int, count: int) -> list[Path]:
    """DICOM files of 12 bits, stored without compression."""
    return [
        samples.dicom(
            folder / f"{width}-{number}.dcm", pixels[..., 1].astype(np.uint16) * 16,
            BitsStored=12, HighBit=11, WindowCenter=2048, WindowWidth=4096, Modality="DX",
        )
        for number, pixels in enumerate(pictures(height, width, count))
    ]  # fmt: skip


@contextmanager
def served(model: Path, home: Path) -> Iterator[str]:
    """Run the command, and yield the address of its page."""
    command = (sys.executable, "-m", "fedhelp_edge", "serve", model, "--no-browser", "--home", home)
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            yield next(word for line in process.stderr for word in line.split() if word.startswith("http://"))
        finally:
            process.terminate()


def seconds_to_answer(tab: Browser, path: Path) -> float:
    time.sleep(1)
    begin = time.perf_counter()
    tab.drop(path)
    tab.ask(_DRAWN)
    return time.perf_counter() - begin


def main() -> None:
    if not PROGRAM:
        print("chromium is not installed: the page is not measured", file=sys.stderr)
        return
    count = 3 if "--short" in sys.argv else 21
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, _ = export_model(folder, 32 if "--short" in sys.argv else 64, int8=False)
        kinds = {
            "photographs of 600 x 450": photographs(folder, 450, 600, count),
            "photographs of 4000 x 3000": photographs(folder, 3000, 4000, count),
            "DICOM of 2048 x 2500": radiographs(folder, 2500, 2048, count),
        }
        for kind, paths in kinds.items():
            with served(model, folder / "home") as link, browser(folder / f"profile {kind}") as tab:
                tab.scripts(True)
                tab.open(link)
                first, *others = (seconds_to_answer(tab, path) for path in paths)
            report(
                f"a page, from drop to answer: {kind}", ("onnxruntime", "pillow"), first_s=round(first, 3),
                second_s=round(others[0], 3), median_of_others_s=round(statistics.median(others), 3),
                slowest_s=round(max(others), 3), aim_s=0.3, load=round(os.getloadavg()[0], 1),
            )  # fmt: skip


if __name__ == "__main__":
    main()
