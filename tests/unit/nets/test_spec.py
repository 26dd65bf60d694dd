from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from fedhelp_edge import plan, update
from fedhelp_edge.errors import NonFiniteError, SchemaShapeError
from fedhelp_edge.nets import spec
from fedhelp_edge.nets.spec import Form
from fedhelp_edge.update import Schema

_ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = (_ROOT / os.environ.get("FEDHELP_DATA", "../shared/data")).parent / "weights"
NORMS = ("running_mean", "running_var")

published = pytest.mark.parametrize("net", ["resnet20", "resnet32", "resnet56"])
every = pytest.mark.parametrize("net", sorted(plan.IMAGE_NETS))


def published_file(net: str) -> Path:
    path = WEIGHTS / f"{net}_cifar10.safetensors"
    if not path.exists():
        pytest.skip("the folder 'weights' beside FEDHELP_DATA is not here")
    return path


def trainable(schema: Schema) -> int:
    return sum(math.prod(tensor.shape) for tensor in schema.tensors if not tensor.name.endswith(NORMS))


@pytest.mark.parametrize(("net", "numbers"), [("resnet8", 75_160), ("resnet20", 269_592), ("resnet110", 1_727_832)])
def test_a_schema_has_the_papers_number_of_trainable_values(net: str, numbers: int) -> None:
    assert trainable(spec.schema(net, Form(8, channels=3))) == numbers


PUBLISHED_SIZES = [
    ("resnet20", 10, 269_722), ("resnet32", 10, 464_154), ("resnet56", 10, 853_018), ("resnet10", 10, 4_903_242),
    ("resnet12", 10, 4_977_226), ("mobilenetv2", 1000, 3_504_872), ("efficientnet_lite0", 1000, 4_652_008),
    ("shufflenetv2", 1000, 2_278_604),
]  # fmt: skip


@pytest.mark.parametrize(("net", "classes", "numbers"), PUBLISHED_SIZES)
def test_a_schema_for_the_published_classes_has_the_published_number_of_trainable_values(
    net: str, classes: int, numbers: int
) -> None:
    assert trainable(spec.schema(net, Form(classes, channels=3))) == numbers


@every
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_role_of_each_tensor_follows_from_its_name(net: str, norm: str) -> None:
    """So programs that guess roles are right, and a task's lines name none."""
    schema = spec.schema(net, Form(8, norm=norm))
    assert all(update.role_by_name(tensor.name) == tensor.role for tensor in schema.tensors)
    assert {tensor.role for tensor in schema.tensors if len(tensor.shape) > 1} == {"weight"}


@every
def test_a_header_of_each_net_fits_in_an_update(net: str) -> None:
    assert len(spec.schema(net, Form(1000)).header_bytes) <= update.HEADER_LIMIT


@pytest.mark.parametrize(
    ("side", "published", "strides"),
    [
        (8, 5, [1, 1, 1, 1, 2]), (16, 5, [1, 1, 1, 2, 2]), (28, 5, [1, 1, 2, 2, 2]), (32, 5, [1, 1, 2, 2, 2]),
        (64, 5, [1, 2, 2, 2, 2]), (128, 5, [2] * 5), (224, 5, [2] * 5), (1024, 5, [2] * 5), (7, 4, [1, 1, 1, 2]),
        (6, 4, [1] * 4), (1, 4, [1] * 4), (32, 4, [1, 2, 2, 2]), (64, 4, [2] * 4),
    ],
)  # fmt: skip
def test_the_first_halvings_are_left_out_until_the_last_maps_have_four_rows(
    side: int, published: int, strides: list[int]
) -> None:
    assert spec.strides(side, published) == strides


@published
def test_names_and_shapes_are_those_of_the_published_weights(net: str) -> None:
    with published_file(net).open("rb") as file:
        header = update.read_header(file)
    ours = spec.schema(net, Form(10, channels=3)).tensors
    assert {tensor for tensor, _ in header.entries} == set(ours)


@published
def test_the_published_weights_pass_the_value_checks(net: str) -> None:
    update.check_values(update.load(published_file(net)))


@every
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_first_weights_fit_the_schema(net: str, norm: str) -> None:
    schema = spec.schema(net, Form(8, channels=1, norm=norm))
    first = spec.initial_weights(schema, seed=1)
    assert update.schema_of(first) == schema
    update.check_values(first)


def test_the_same_seed_gives_the_same_bytes() -> None:
    schema = spec.schema("resnet20", Form(8, 3))
    first, second = spec.initial_weights(schema, 7), spec.initial_weights(schema, 7)
    assert [a.tobytes() for a in first.values()] == [a.tobytes() for a in second.values()]


def test_another_seed_gives_other_weights() -> None:
    schema = spec.schema("resnet20", Form(8, 3))
    first, second = spec.initial_weights(schema, 7), spec.initial_weights(schema, 8)
    assert all((first[name] != second[name]).any() for name in first if first[name].ndim > 1)


def test_no_two_tensors_of_a_net_have_equal_first_weights() -> None:
    first = spec.initial_weights(spec.schema("resnet20", Form(8, 3)), 7)
    convolutions = [array.tobytes() for array in first.values() if array.ndim > 1]
    assert len(set(convolutions)) == len(convolutions)


@pytest.mark.parametrize(
    ("net", "seed"),
    [*(("resnet20", seed) for seed in range(3)), ("resnet12", 0), ("mobilenetv2", 0), ("shufflenetv2", 0)],
)
def test_weights_are_drawn_with_he_initialisation(net: str, seed: int) -> None:
    first = spec.initial_weights(spec.schema(net, Form(8, 3)), seed)
    for name, array in first.items():
        if array.ndim < 2:
            continue
        spread = math.sqrt(2 / math.prod(array.shape[1:]))
        assert abs(array.std() / spread - 1) < 5 / math.sqrt(2 * array.size), name
        assert abs(array.mean()) < 5 * spread / math.sqrt(array.size), name


@pytest.mark.parametrize("net", ["resnet20", "mobilenetv2"])
def test_norms_and_biases_start_as_the_identity(net: str) -> None:
    ones = ("bn.weight", "bn1.weight", "bn2.weight", "running_var")
    for name, array in spec.initial_weights(spec.schema(net, Form(8, 3)), 7).items():
        assert array.ndim > 1 or (array == name.endswith(ones)).all(), name


@every
def test_group_norm_has_no_running_statistics(net: str) -> None:
    grouped = spec.schema(net, Form(8, 3, norm="group"))
    assert not [tensor.name for tensor in grouped.tensors if tensor.name.endswith(NORMS)]
    assert trainable(grouped) == trainable(spec.schema(net, Form(8, 3)))


def test_a_grey_image_needs_one_third_of_the_first_layer() -> None:
    assert spec.schema("resnet20", Form(8, 1)).tensors[0].shape == (16, 1, 3, 3)


def test_batch_norm_counters_do_not_travel() -> None:
    assert not [tensor for tensor in spec.schema("resnet20", Form(8, 3)).tensors if "num_batches" in tensor.name]


def published_weights() -> dict[str, update.Array]:
    return update.load(published_file("resnet20"))


@pytest.mark.parametrize(("channels", "ends"), [(3, ["linear.weight", "linear.bias"]), (1, None)])
def test_a_net_starts_from_one_for_other_classes_and_channels_except_its_ends(
    channels: int, ends: list[str] | None
) -> None:
    ends = ends or ["conv1.weight", "linear.weight", "linear.bias"]
    published, drawn = published_weights(), spec.initial_weights(spec.schema("resnet20", Form(8, channels=channels)), 0)
    first, random = spec.warm_start(drawn, published)
    assert random == ends
    assert all(np.array_equal(array, (drawn if name in ends else published)[name]) for name, array in first.items())


@pytest.mark.parametrize("other", ["resnet32", "resnet110"])
def test_another_kind_of_net_cannot_be_a_start(other: str) -> None:
    drawn = spec.initial_weights(spec.schema("resnet20", Form(8, channels=3)), 0)
    with pytest.raises(SchemaShapeError, match="another net"):
        spec.warm_start(drawn, spec.initial_weights(spec.schema(other, Form(8, channels=3)), 0))


def test_a_head_for_other_classes_alone_cannot_be_a_start() -> None:
    drawn = spec.initial_weights(spec.schema("resnet20", Form(8, channels=3)), 0)
    with pytest.raises(SchemaShapeError, match=r"linear\.bias"):
        spec.warm_start(drawn, {"linear.bias": np.zeros(10, np.float32)})


def test_empty_weights_cannot_be_a_start() -> None:
    with pytest.raises(SchemaShapeError, match="no tensor"):
        spec.warm_start(spec.initial_weights(spec.schema("resnet20", Form(8, channels=3)), 0), {})


def test_first_weights_with_nan_are_refused() -> None:
    drawn = spec.initial_weights(spec.schema("resnet20", Form(8, channels=3)), 0)
    with pytest.raises(NonFiniteError):
        spec.warm_start(drawn, {"conv1.weight": np.full_like(drawn["conv1.weight"], np.nan)})
