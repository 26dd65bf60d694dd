"""A plan is read whole, and all its mistakes are reported at once."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhelp_edge import codec, plan
from fedhelp_edge.errors import BadPlanError, FedhelpError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.nets import spec
from fedhelp_edge.plan import tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LEAST = 'classes = ["a", "b"]\n'
MASKS = 'task = "segmentation"\nclasses = ["lung"]\n'
ENCODER = f'[nets]\nencoder = "a.onnx"\nencoder_sha256 = "{"0" * 64}"\nencoder_width = 9\n'


def mistakes(text: str) -> list[str]:
    with pytest.raises(BadPlanError) as caught:
        plan.read(text, METHODS)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_every_key_except_the_classes_has_a_default() -> None:
    read = plan.read(LEAST, METHODS)
    assert (read.method, read.rounds, read.method_settings.lambda_j) == ("fedhelp", 100, 0.2)
    assert mistakes("") == ["classes: name the classes of the model"]


def test_the_template_has_exactly_the_defaults() -> None:
    written = plan.read(plan.template(METHODS), METHODS)
    plain = plan.read(LEAST, METHODS)
    for part in fields(plan.Plan):
        if part.name not in ("classes", "text", "tables"):
            assert getattr(written, part.name) == getattr(plain, part.name)
    assert written.tables == {name: method.table() for name, method in METHODS.items() if fields(method.table)}


def test_the_template_names_every_key() -> None:
    raw = tomllib.loads(plan.template(METHODS))
    assert set(raw) == {tables.name_of(f) for f in fields(plan.Plan) if f.name not in ("tables", "text")} | {
        name for name, method in METHODS.items() if fields(method.table)
    }
    assert "from" in raw["start"]


def test_the_text_is_kept_byte_for_byte() -> None:
    text = "# a note\n" + LEAST + "\n\n[image]\nsize   =  32\n"
    assert plan.read(text, METHODS).text == text


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    text = """name = "x"
classes = [
  "a",
  "b",
]
metod = "fedhelp"
rounds = "3"
[image]
size = 4
mean = [1]
[fedhlp]
x = 1
[start]
from = "pak"
"""
    assert mistakes(text) == [
        "line 6: metod: no such key; do you mean 'method'?",
        "line 7: rounds: should be a whole number",
        "line 9: [image] size: should be from 8 to 1024",
        "line 10: [image] mean: needs 3 numbers, one for each channel",
        "line 11: [fedhlp]: no such table; do you mean 'fedhelp'?",
        "line 14: [start] from: 'pak' is not one of seed, pack; do you mean 'pack'?",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("classes = [", "line 1: TOML: "),
        ('classes = ["a", "a "]', "line 1: classes: a name is repeated"),
        (
            'classes = ["a", ""]',
            "line 1: classes: a name is empty, has spaces around it or an invisible character",
        ),
        ('classes = ["a"]', "line 1: classes: name at least two"),
        ('classes = ["a", 1]', "line 1: classes: should be text in quotes"),
        (LEAST + "rounds = true", "line 2: rounds: should be a whole number"),
        (LEAST + "seed = -1", "line 2: seed: should be from 0"),
        (LEAST + "[training]\nlr = nan", "line 3: [training] lr: should be from"),
        (LEAST + "[image]\nchannels = 2", "line 3: [image] channels: 1 or 3"),
        (LEAST + "[nets]\nown = 3", "line 3: [nets] own: should be a table in braces"),
        (LEAST + '[nets]\nown = {site-003 = "lenet"}', "line 3: [nets] own: 'lenet' is not one of resnet8"),
        (
            LEAST + '[nets]\nsmall = "linear"',
            "line 3: [nets] small: linear does not work on pixels: without an encoder",
        ),
        (LEAST + "[nets]\nencoder_views = 2", "line 3: [nets] encoder_views: there is no encoder"),
        (LEAST + '[nets]\nencoder_sha256 = "00"', "line 3: [nets] encoder_sha256: there is no encoder"),
        (LEAST + ENCODER + 'large = "linear"', "[nets] small: resnet20 does not work on features: with an encoder"),
        (LEAST + ENCODER + 'own = {site-003 = "resnet20"}', "line 6: [nets] own: resnet20 does not work on features"),
        (LEAST + ENCODER.replace("a.onnx", "x/a.onnx"), "line 3: [nets] encoder: the name of a file NAME.onnx"),
        (LEAST + ENCODER.replace("0" * 64, "0" * 63), "line 4: [nets] encoder_sha256: 64 digits"),
        (LEAST + ENCODER.replace("width = 9", "width = 0"), "line 5: [nets] encoder_width: the number of its features"),
        (LEAST + ENCODER + "encoder_views = 11", "line 6: [nets] encoder_views: should be from 1 to 10"),
        (LEAST + "[image]\nchannels = 1\n" + ENCODER, "line 3: [image] channels: an encoder looks at colour"),
        (LEAST + '[nets]\nown = {clinic = "resnet32"}', "line 3: [nets] own: sites are named like site-003"),
        (LEAST + 'method = "fedavg"\n[nets]\nown = {site-001 = "resnet32"}', "line 4: [nets] own: fedavg has every"),
        (LEAST + '[nets]\nsmall = "unet8"', "line 3: [nets] small: unet8 does not classify images: without an encoder"),
        (LEAST + "[image]\ndepth = 8", "line 3: [image] depth: volumes are for segmentation"),
        (LEAST + '[training]\nloss = "dice-ce"', "line 3: [training] loss: dice-ce does not fit classification"),
        (MASKS + 'method = "fedmd"', "line 3: method: fedmd does not do segmentation, as answers for each pixel"),
        (MASKS + '[nets]\nsmall = "resnet20"', "line 4: [nets] small: resnet20 does not give masks"),
        (MASKS + ENCODER, "line 4: [nets] encoder: an encoder gives no features of pixels"),
        (MASKS + "[image]\nsize = 20", "line 4: [image] size: a U-Net halves it 3 times: a multiple of 8"),
        (MASKS + "[image]\ndepth = 12", "line 4: [image] depth: a U-Net halves it 3 times: a multiple of 8"),
        (MASKS + "[image]\nspacing = [1.0]", "line 4: [image] spacing: needs 3 numbers"),
        (MASKS + '[training]\nloss = "symmetric"', "line 4: [training] loss: symmetric does not fit segmentation"),
        (MASKS + '[start]\nfrom = "pack"', "line 4: [start] from: first weights of nets for masks are drawn"),
        (MASKS.replace('"lung"', '"lung", "Background"'), "line 2: classes: leave the background out"),
        (MASKS.replace('"lung"', ""), "line 2: classes: name at least one"),
        (LEAST + 'method = "fedsgd"', f"line 2: method: 'fedsgd' is not one of {', '.join(METHODS)}"),
        (LEAST + "[[image]]\nsize = 3", "line 2: image: no such key"),
        (LEAST + "[fedhelp]\nlambda_f = 0\nproxy_ce = false", "line 3: [fedhelp] lambda_f: with 0 here"),
        ("#" * plan.LIMIT + "#", "plan: longer than 64 KiB"),
        ("a = " + "[" * 20000, "TOML: "),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: str, mistake: str) -> None:
    assert any(mistake in read for read in mistakes(text)), mistakes(text)


def test_a_plan_with_an_encoder_has_nets_on_features() -> None:
    read = plan.read(LEAST + ENCODER + 'small = "linear"\nlarge = "linear"', METHODS)
    assert spec.Form.of(read).features == read.nets.encoder_width == 9


def test_an_integer_is_accepted_as_a_float() -> None:
    assert plan.read(LEAST + "[training]\nlr = 1", METHODS).training.lr == 1.0


def test_a_plan_may_have_settings_of_other_methods() -> None:
    read = plan.read(LEAST + 'method = "fedprox"\n[fedhelp]\ntop = 1\n[fedprox]\nmu = 0.5', METHODS)
    assert (read.method_settings.mu, read.tables["fedhelp"].top) == (0.5, 1)


def test_sites_may_keep_nets_of_their_own() -> None:
    nets = plan.read(LEAST + '[nets]\nown = {site-003 = "resnet32"}', METHODS).nets
    assert [nets.own_net(*site) for site in (("site-003", "small"), ("site-003", "large"), ("site-004", "large"))] == [
        "resnet32", "resnet32", "resnet110",
    ]  # fmt: skip
    assert nets.own_net("site-004", "small") == "resnet20"


def test_the_nets_and_codecs_of_a_plan_are_those_that_exist() -> None:
    allowed = {
        f"{kind.__name__}.{f.name}": f.metadata["choices"]
        for kind in (plan.NetSettings, plan.WireSettings)
        for f in fields(kind)
    }
    for role in ("small", "large", "own"):
        assert set(allowed[f"NetSettings.{role}"]) == set(spec.NETS)
    assert set(allowed["WireSettings.up"]) == set(codec.CODECS) - {"int8"}  # int8-delta loses less
    assert set(allowed["WireSettings.down"]) == {"f32", "f16", "int8"}  # the others need a base that both ends have


_VALUES = st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=5), st.lists(st.integers(), max_size=3))
_KEYS = st.sampled_from(
    [("", "rounds"), ("", "name"), ("", "classes"), ("image", "size"), ("image", "mean"), ("training", "lr"),
     ("training", "yardstick"), ("fedhelp", "top"), ("wire", "up"), ("nowhere", "x"), ("start", "from")]
)  # fmt: skip


@given(st.dictionaries(_KEYS, _VALUES, max_size=6))
def test_any_values_give_a_plan_or_mistakes(values: dict[tuple[str, str], Any]) -> None:
    tables: dict[str, list[str]] = {}
    for (table, name), value in values.items():
        tables.setdefault(table, []).append(f"{name} = {_spell(value)}")
    text = "\n".join(tables.pop("", [])) + "".join(f"\n[{t}]\n" + "\n".join(rows) for t, rows in tables.items())
    try:
        plan.read(text, METHODS)
    except FedhelpError as fault:
        assert fault.code == "E_PLAN"


def _spell(value: Any) -> str:
    if isinstance(value, float):
        return repr(value) if value == value and abs(value) != float("inf") else "nan"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_a_key_of_an_earlier_version_still_means_what_it_meant() -> None:
    old, new = (plan.read(LEAST + text, METHODS) for text in ("[fedhelp]\npublic_size = 24", "[public]\nsize = 24"))
    assert old.public.size == new.public.size == 24
    assert plan.read(LEAST, METHODS, {"fedhelp.public_size": "40"}).public.size == 40


@pytest.mark.parametrize("text", ["[fedhelp]\npublic_size = 24", "[public]\nsize = 24", ""])
@pytest.mark.parametrize("setting", ["fedhelp.public_size", "public.size"])
def test_a_setting_overrides_the_text_by_the_old_and_by_the_new_name_of_its_key(text: str, setting: str) -> None:
    assert plan.read(LEAST + text, METHODS, {setting: "40"}).public.size == 40
    table, _, name = setting.partition(".")
    with pytest.raises(BadPlanError, match=rf"\[{table}\] {name}: "):
        plan.read(LEAST + text, METHODS, {setting: "4"})


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[fedhelp]\npublic_size = 4", "line 3: [fedhelp] public_size: "),
        ("[public]\nsize = 24\n[fedhelp]\npublic_size = 24", "line 5: [fedhelp] public_size: no such key"),
        ("public = 3\n[fedhelp]\npublic_size = 24", "line 4: [fedhelp] public_size: no such key"),
        ("fedhelp = 3", "line 2: fedhelp: no such key"),
    ],
)
def test_a_mistake_in_a_key_of_an_earlier_version_is_reported_with_its_position(text: str, mistake: str) -> None:
    assert any(line.startswith(mistake) for line in mistakes(LEAST + text))


def test_settings_override_the_text_and_are_checked_with_it() -> None:
    read = plan.read(LEAST, METHODS, {"fedhelp.lambda_j": "0.4", "method": "fedavg", "rounds": "7"})
    assert (read.tables["fedhelp"].lambda_j, read.method, read.rounds) == (0.4, "fedavg", 7)


@pytest.mark.parametrize("name", ["rounds.x", "fedhelp.lambda_q", "nowhere.x", "round"])
def test_a_setting_of_an_unknown_key_is_a_mistake(name: str) -> None:
    with pytest.raises(BadPlanError):
        plan.read(LEAST + "rounds = 3\n", METHODS, {name: "1"})


def test_masks_have_defaults_of_their_own() -> None:
    read = plan.read(MASKS + "[image]\nchannels = 1", METHODS)
    assert (read.nets.small, read.nets.large, read.training.batch) == ("unet8", "unet32", 8)
    assert (read.outputs, read.method_settings.top) == (2, 1)
    assert plan.read(MASKS + "[image]\ndepth = 8", METHODS).nets.large == "unet16"
    given = plan.read(MASKS + '[nets]\nsmall = "unet16"\n[fedhelp]\ntop = 2', METHODS)
    assert (given.nets.small, given.nets.large, given.method_settings.top) == ("unet16", "unet32", 2)
    assert "fedhelp" not in plan.read(MASKS + 'method = "fedavg"', METHODS).tables


def test_grey_images_are_normalised_by_one_number() -> None:
    read = plan.read(LEAST + "[image]\nchannels = 1", METHODS)
    assert (read.image.mean, read.image.std) == ((0.5,), (0.25,))
    assert plan.read(LEAST + "[image]\nchannels = 1\nmean = [0.4]", METHODS).image.mean == (0.4,)
