"""The sum of masked updates is the sum of updates, exactly; and a masked update looks like random words."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_edge.errors import SumRangeError
from fedhelp_edge.merge import rules
from fedhelp_edge.plan import MergeSettings
from fedhelp_edge.secure_sum import arithmetic
from fedhelp_edge.secure_sum.arithmetic import COUNTS, MAX_SITES, SumFormat, mask, total
from fedhelp_edge.update import Array, Schema

SCHEMA = Schema.parse(["conv.weight F32 3x4", "bn1.weight F32 4", "bn1.running_var F32 4", "prototypes F32 2x2 even"])
SETTINGS = MergeSettings(cap=1.0, clip="none")
FORMAT = SumFormat(SCHEMA, max_weight=1000, max_examples=1000)
Arrays = Mapping[str, Array]


def drawn(seed: int, size: float = 1.0) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    return {t.name: (size * draw.standard_normal(t.shape)).astype(np.float32) for t in SCHEMA.tensors}


def round_of(seed: int, examples: list[int], size: float = 1.0) -> tuple[Arrays, dict[str, Arrays], dict[str, int]]:
    """A base model, and the updates and the images of some sites."""
    sites = [f"site-{number:03}" for number in range(1, len(examples) + 1)]
    updates = {site: drawn(seed + number, size) for number, site in enumerate(sites, 1)}
    return drawn(seed), updates, dict(zip(sites, examples, strict=True))


rounds = st.builds(
    round_of,
    st.integers(0, 2**32),
    st.lists(st.integers(1, 1000), min_size=1, max_size=7),
    st.sampled_from([1e-4, 1.0, 100.0, 3000.0]),
)


@settings(max_examples=60, deadline=None)
@given(rounds, st.randoms())
def test_the_unmasked_sum_is_the_plain_sum_in_any_order(drawn_round, order) -> None:  # type: ignore[no-untyped-def]
    base, updates, examples = drawn_round
    plain = {site: FORMAT.quantise(base, updates[site], {"examples": examples[site]}) for site in updates}
    seeds = {site: os.urandom(32) for site in updates}
    masked = [plain[site] + mask(seeds[site], FORMAT.length) for site in updates]
    masks = [mask(seed, FORMAT.length) for seed in seeds.values()]
    order.shuffle(masked)
    order.shuffle(masks)
    unmasked = total(masked, FORMAT.length) - total(masks, FORMAT.length)
    integers = [sum(int(vector.view(np.int64)[i]) for vector in plain.values()) for i in range(FORMAT.length)]
    assert unmasked.view(np.int64).tolist() == integers  # Python's integers never wrap around


@settings(max_examples=60, deadline=None)
@given(rounds)
def test_the_model_is_that_of_plain_averaging(drawn_round) -> None:  # type: ignore[no-untyped-def]
    base, updates, examples = drawn_round
    summed = total((FORMAT.quantise(base, updates[s], {"examples": examples[s]}) for s in updates), FORMAT.length)
    arrays, counts = FORMAT.decode(base, summed, len(updates))
    averaged = rules.merge(base, updates, examples, SETTINGS, schema=SCHEMA)
    assert counts == {"examples": sum(examples.values()), "val": 0, "correct": 0}
    for name in averaged:
        scale = np.abs(averaged[name]).max() + 1
        assert np.abs(arrays[name] - averaged[name]).max() <= 1e-6 * scale, name


def test_sites_weigh_alike_where_the_plan_says_so() -> None:
    base, updates, examples = round_of(5, [1, 10, 1000])
    even = SumFormat(SCHEMA, max_weight=1)
    summed = total((even.quantise(base, updates[s], {"examples": examples[s]}) for s in updates), even.length)
    arrays, counts = even.decode(base, summed, 3)
    averaged = rules.merge(base, updates, examples, MergeSettings(weight="uniform", cap=1.0, clip="none"))
    assert counts["examples"] == 1011
    assert all(np.allclose(arrays[name], averaged[name], atol=1e-6) for name in averaged)


def test_whole_numbers_of_sums_stay_as_they_are() -> None:
    sums = SumFormat(Schema.parse(["sums.gram I64 6 sum"]), max_weight=1)
    numbers = [np.array([1, -(2**52), 3, 0, 5, 2**52 + 1]) * sign for sign in (1, 1, -1)]
    vectors = [sums.quantise({}, {"sums.gram": each}, {"examples": 1}) for each in numbers]
    arrays, _ = sums.decode({}, total(vectors, sums.length), 3)
    assert (arrays["sums.gram"] == sum(numbers)).all()


# --- bounds --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weight", [1, 2, 1000, 1_000_000, 10**9])
def test_the_largest_sum_cannot_wrap_around(weight: int) -> None:
    extreme = SumFormat(Schema.parse(["w F32 2"]), weight)
    base = {"w": np.array([-1e4, 1e4], np.float32)}
    arrays = {"w": np.array([1e4, -1e4], np.float32)}
    number = extreme.quantise(base, arrays, {"examples": weight}).view(np.int64)
    assert extreme.bits >= 0
    assert number[0] == -number[1] == (weight * 20_000) << extreme.bits  # exact, also as a double
    assert MAX_SITES * int(number[0]) < 2**63 <= 2 * MAX_SITES * (weight * 20_000) << extreme.bits
    assert MAX_SITES * arithmetic.MAX_COUNT < 2**63


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e4, -3e4])
def test_a_number_beyond_its_bound_is_refused_and_not_wrapped(value: float) -> None:
    arrays = {**drawn(1), "conv.weight": np.full((3, 4), value, np.float32)}
    with pytest.raises(SumRangeError):
        FORMAT.quantise(drawn(0), arrays, {"examples": 10})


@pytest.mark.parametrize("counts", [{"examples": 0}, {"examples": 1001}, {"examples": 5, "val": 10**9 + 1}])
def test_counts_beyond_their_bounds_are_refused(counts: dict[str, int]) -> None:
    with pytest.raises(SumRangeError):
        FORMAT.quantise(drawn(0), drawn(1), counts)


def test_a_sum_beyond_the_bound_is_refused() -> None:
    sums = SumFormat(Schema.parse(["sums.gram I64 1 sum"]), max_weight=1)
    with pytest.raises(SumRangeError):
        sums.quantise({}, {"sums.gram": np.array([2**53])}, {"examples": 1})


def test_a_sum_with_a_wrong_mask_is_no_model() -> None:
    base, updates, examples = round_of(3, [10, 20, 30])
    summed = total((FORMAT.quantise(base, updates[s], {"examples": examples[s]}) for s in updates), FORMAT.length)
    with pytest.raises(SumRangeError):
        FORMAT.decode(base, summed + mask(os.urandom(32), FORMAT.length), 3)
    with pytest.raises(SumRangeError):
        FORMAT.decode(base, summed[:-1], 3)


def test_a_clip_bounds_the_change_of_the_weights_alone() -> None:
    base, arrays = drawn(0), drawn(1, 30)
    clipped = SumFormat(SCHEMA, max_weight=1000, clip=2.0)
    got, _ = clipped.decode(base, clipped.quantise(base, arrays, {"examples": 7}), 1)
    weights = [t.name for t in SCHEMA.tensors if t.role in ("weight", "norm")]
    norm = np.sqrt(sum(np.square(got[name] - base[name]).sum() for name in weights))
    assert norm == pytest.approx(2.0, rel=1e-5)
    direction = arrays["conv.weight"] - base["conv.weight"]
    moved = got["conv.weight"] - base["conv.weight"]
    assert np.allclose(moved / np.linalg.norm(moved), direction / np.linalg.norm(direction), atol=1e-5)
    assert np.allclose(got["bn1.running_var"], arrays["bn1.running_var"], atol=1e-4)


# --- the specification ---------------------------------------------------------------------------------------------
def test_the_numbers_of_the_specification_hold_also_by_whole_numbers_alone() -> None:
    """A second implementation without numpy: sections 3 and 4 as they are written."""
    page = (Path(__file__).parents[3] / "docs" / "spec" / "secure-sum.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d \| ([0-9a-f]{16}) \| ([0-9a-f]{16}) \| ([0-9a-f]{16}) \|$", page, re.M)
    bits = {w: ((2**63 - 1) // (1024 * w * 20_000)).bit_length() - 1 for w in (1, 1000, 10**6, 10**9)}
    assert "are {}, {}, {} and {}.".format(*bits.values()) in page
    changes = [round((new - old) * 7 * 2 ** bits[10**6]) for old, new in ((0.5, 0.75), (-1, -3.5))]
    vector = [number % 2**64 for number in (*changes, 7, 3, 2)]
    stream = Cipher(ChaCha20(bytes(range(32)), bytes(16)), None).encryptor().update(bytes(40))
    masks = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(5)]
    masked = [(number + word) % 2**64 for number, word in zip(vector, masks, strict=True)]
    assert rows == [tuple(f"{word:016x}" for word in words) for words in zip(vector, masks, masked, strict=True)]
    ours = SumFormat(Schema.parse(["w F32 2"]), 10**6, max_examples=10**6)
    base, update = ({"w": np.array(values, np.float32)} for values in ([0.5, -1], [0.75, -3.5]))
    words = ours.quantise(base, update, {"examples": 7, "val": 3, "correct": 2}) + mask(bytes(range(32)), 5)
    assert words.tolist() == masked


def test_a_program_without_the_kit_computes_the_same_numbers_and_finds_a_wrong_one(tmp_path: Path) -> None:
    spec = Path(__file__).parents[3] / "docs" / "spec"

    def check(page: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(spec / "check_secure_sum.py"), str(page)]  # no packages
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert check(spec / "secure-sum.md").stdout == "all numbers agree\n"
    text = (spec / "secure-sum.md").read_text(encoding="utf-8")
    (tmp_path / "page.md").write_text(text.replace("6a19c5d97d32fd39", "6a19c5d97d32fd38"), encoding="utf-8")
    wrong = check(tmp_path / "page.md")
    assert (wrong.returncode, wrong.stdout.count("a row of the table")) == (1, 1)


# --- masks ---------------------------------------------------------------------------------------------------------
def test_a_mask_is_the_key_stream_of_rfc_8439() -> None:
    """The first block of the RFC's appendix A.1, test vector 1: the key and the nonce are zeros."""
    block = mask(bytes(32), 8).tobytes()
    assert block.hex().startswith("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert mask(b"\1" * 32, 100)[:50].tobytes() == mask(b"\1" * 32, 50).tobytes()
    whole = Cipher(ChaCha20(bytes(range(32)), bytes(16)), None).encryptor().update(bytes(8 * 50_001))
    assert mask(bytes(range(32)), 50_001).tobytes() == whole  # it is made in pieces


def test_masked_words_are_uniform_whatever_the_update_is() -> None:
    """Chi-squared over bytes and over bits, for the most regular update: no change at all."""
    wide = SumFormat(Schema.parse(["w F32 40000"]), max_weight=1)
    still = {"w": np.zeros(40000, np.float32)}
    seed = hashlib.sha256(b"any").digest()  # a fixed draw, so that the test is the same each time
    masked = wide.quantise(still, still, {"examples": 1}) + mask(seed, wide.length)
    counted = np.bincount(masked.view(np.uint8), minlength=256)
    expected = masked.nbytes / 256
    chi_squared = float(((counted - expected) ** 2 / expected).sum())
    assert 170 < chi_squared < 350  # 255 degrees of freedom: 255 +- 4 standard deviations
    by_bit = np.unpackbits(masked.view(np.uint8).reshape(-1, 8), axis=1).mean(0)
    assert np.abs(by_bit - 0.5).max() < 5 * 0.5 / np.sqrt(len(masked))
    halves = masked.view(np.uint32).astype(np.float64)
    assert abs(np.corrcoef(halves[:-1], halves[1:])[0, 1]) < 5 / np.sqrt(len(halves))


def test_each_count_is_masked_too() -> None:
    vectors = [FORMAT.quantise(drawn(0), drawn(1), {"examples": 7}) + mask(os.urandom(32), FORMAT.length) for _ in "ab"]
    assert all(7 not in vector[-len(COUNTS) :].tolist() for vector in vectors)
    assert (vectors[0] != vectors[1]).all()
