"""Which of two models of open_clip a file of weights belongs to: with the usual GELU, or the quick one, as OpenAI's.

Both have tensors of the same names and shapes. With the wrong one the answers are worse, and nothing fails.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedhelp_edge import files
from fedhelp_edge.errors import FedhelpError, UsageError
from fedhelp_edge.safe_text import shortened

CONFIG = "open_clip_config.json"  # beside weights of open_clip's hub
SUFFIX = "-quickgelu"
_LIMIT = 1 << 20  # bytes of a config


def check(model: str, weights: Path, open_clip: Any) -> str:
    """Raises where a model is known to be the wrong one of two for these weights; returns a doubt, or "".

    A config beside the weights decides, then the name of the file, then that all known weights need the same.
    """
    plain = model.removesuffix(SUFFIX)
    quick = plain + SUFFIX
    if not {plain, quick} <= set(open_clip.list_models()):
        return ""
    tags = {
        tag: bool(open_clip.get_pretrained_cfg(plain, tag).get("quick_gelu"))
        for tag in open_clip.list_pretrained_tags_by_model(plain)
    }
    needs_quick, reason = _known_need(weights, tags, open_clip.get_model_config(plain))
    if needs_quick is None:
        lists = [shortened((tag for tag in tags if tags[tag] is is_quick), 4) for is_quick in (True, False)]
        examples = f" ({lists[0]}), or {plain} ({lists[1]})" if all(lists) else f", or {plain}"
        return f"nobody can tell whether {weights.name} belongs to {quick}{examples}; {model} is asked"
    right = quick if needs_quick else plain
    if model != right:
        remedy = f"write clip:{right}@FILE; for other weights say quick_gelu in an {CONFIG} beside the file"
        raise UsageError(f"{weights.name} does not belong to {model}: {reason}", remedy=remedy)
    return ""


def _known_need(weights: Path, tags: Mapping[str, bool], model: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Whether the weights need quick GELU, None if nothing tells; and what tells it."""
    config = _config(weights.with_name(CONFIG))
    if config.keys() and all(config.get(part) == model[part] for part in ("embed_dim", "vision_cfg")):
        return bool(config.get("quick_gelu")), f"{CONFIG} beside it says so"
    name = f"_{weights.stem.lower().replace('-', '_').replace('.', '_')}_"
    if "_quickgelu_" in name:
        return True, "its name says so"
    if named := [tag for tag in tags if f"_{tag}_" in name]:
        tag = max(named, key=len)
        return tags[tag], f"open_clip's weights {tag!r} need {'quick' if tags[tag] else 'the usual'} GELU"
    if tags and all(tags.values()):
        return True, "all weights of it that open_clip knows need quick GELU"
    return None, ""


def _config(path: Path) -> Mapping[str, Any]:
    """The model's config in a file of open_clip's hub; empty if there is none that can be read."""
    try:
        with files.reading(path) as file:
            config = json.loads(file.read(_LIMIT))["model_cfg"]
        return config if isinstance(config, dict) else {}
    except (FedhelpError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
