"""How fast an encoder's features are computed and cached, against onnxruntime alone over the same images in memory.

Without a file the encoder is a small net of convolutions, drawn at random: `--encoder FILE` measures a real one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from benchmarks import interleaved, report
from fedhelp_edge import encoder
from fedhelp_edge import plan as plans
from fedhelp_edge.cores import usable_cores
from fedhelp_edge.data import features
from fedhelp_edge.data.images import Images
from fedhelp_edge.encoder import onnx_file
from fedhelp_edge.methods.registry import METHODS

SIDE, WIDTHS = 224, (16, 32, 64, 128)


def drawn() -> bytes:
    """An encoder of four convolutions."""
    draw, channels, last, weights = np.random.default_rng(0), 3, "chw", []
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["chw"], perm=[0, 3, 1, 2]),
    ]
    for index, width in enumerate(WIDTHS):
        kernel = draw.normal(0, (2 / (9 * channels)) ** 0.5 / (255 if index == 0 else 1), (width, channels, 3, 3))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], strides=[2, 2], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        channels, last = width, f"r{index}"
    nodes += [helper.make_node("GlobalAveragePool", [last], ["mean"]), helper.make_node("Flatten", ["mean"], ["out"])]
    taken = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", SIDE, SIDE, 3])
    given = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", WIDTHS[-1]])
    graph = helper.make_graph(nodes, "drawn", [taken], [given], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--short", action="store_true")
    options = parser.parse_args()
    count, repeats = (40, 1) if options.short else (options.images, 3)
    opened = onnx_file.read(options.encoder) if options.encoder else onnx_file.parse(drawn(), "drawn.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    none = ("",) * count
    hashes = tuple(features.hash_image(image) for image in pixels)  # which decoding gives
    images = Images(pixels, np.zeros(count, np.int64), none, none, none, none, hashes=hashes)
    nets = {"encoder": "a.onnx", "encoder_sha256": opened.sha256, "small": "linear", "large": "linear"}
    settings = {f"nets.{name}": f'"{value}"' for name, value in nets.items()}
    settings |= {"nets.encoder_width": str(opened.measured_width()), "image.size": str(SIDE)}
    plan = plans.read('classes = ["a", "b"]', METHODS, settings)
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(opened.model, session_options, providers=["CPUExecutionProvider"])

    def alone(batch: int) -> None:
        for begin in range(0, count, batch):
            session.run(None, {opened.input: pixels[begin : begin + batch]})

    def cached() -> None:
        with tempfile.TemporaryDirectory() as folder:
            encoder.embed_images(images, plan, opened, Path(folder), workers=options.threads)

    contestants = {"cached": cached, **{f"alone {batch}": partial(alone, batch) for batch in (1, 8, 32)}}
    for clock, unit in ((time.perf_counter, "second"), (time.process_time, "second of a core")):
        seconds = interleaved(contestants, repeats, clock)
        rates = {name: count / taken for name, taken in seconds.items()}
        best = max(rate for name, rate in rates.items() if name != "cached")
        report(
            f"features of images, computed and cached once: images a {unit}", ("numpy", "onnxruntime"), images=count,
            threads=options.threads, cached=round(rates["cached"], 1), onnxruntime_alone=round(best, 1),
            share=round(rates["cached"] / best, 2),
        )  # fmt: skip


if __name__ == "__main__":
    main()
