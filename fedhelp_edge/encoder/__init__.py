"""Frozen encoders: any ONNX file that turns an image into features, and the features of a site's images. No torch."""

from fedhelp_edge.encoder.embed import beside, embed_images, embed_pack, find
from fedhelp_edge.encoder.onnx_file import Encoder

__all__ = ["Encoder", "beside", "embed_images", "embed_pack", "find"]
