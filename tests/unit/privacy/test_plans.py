"""What a plan with noise rules out is refused when it is checked, or before a site is invited: never at training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedhelp_edge import plan as plans
from fedhelp_edge.demo import phantoms
from fedhelp_edge.errors import BadPlanError, UsageError
from fedhelp_edge.methods.registry import METHODS
from fedhelp_edge.site import outbox, privacy_pin
from server_ref.admin import invites
from server_ref.hub import create
from tests import command
from tests.unit.privacy.plans import TEXT

EITHER = "it is for dp, or secure-sum with site_noise"
FEDHELP = TEXT.replace('"fedavg"', '"fedhelp"')


def checked(folder: Path, text: str) -> dict[str, Any]:
    (folder / "plan.toml").write_text(text)
    return command.json_output(command.run_in_process("plan", "check", "plan.toml", "--json", home=folder))


def test_a_check_says_that_no_large_site_of_fedhelp_can_take_part(tmp_path: Path) -> None:
    sentence = "no large site can take part: noise does not cover what a large site of fedhelp sends"
    assert checked(tmp_path, FEDHELP)["notes"] == [sentence]
    assert f"note: {sentence}" in command.run_in_process("plan", "check", "plan.toml", home=tmp_path).stderr
    assert checked(tmp_path, TEXT)["notes"] == []
    plain = FEDHELP.replace('mode = "dp"\nsampling_rate = 0.25', 'mode = "plain"')
    assert checked(tmp_path, plain)["notes"] == []


def test_a_net_of_its_own_which_only_a_large_site_has_is_refused() -> None:
    with pytest.raises(BadPlanError, match="a large site of fedhelp sends: leave this out"):
        plans.read(FEDHELP.replace("[nets]", '[nets]\nown = {site-003 = "resnet56"}'), METHODS)


@pytest.mark.parametrize(
    ("mode", "setting", "note"),
    [
        ("plain", "epsilon = 1.0", f'[privacy] epsilon does nothing with mode = "plain": {EITHER}'),
        ("plain", "gradient_norm = 0.5", '[privacy] gradient_norm does nothing with mode = "plain": it is for dp'),
        ("dp", "clip = 1.0", '[privacy] clip does nothing with mode = "dp": it is for secure-sum'),
        ("dp", "gradient_norm = 0.5", None),
        ("plain", "epsilon = 8.0", None),  # as a new plan has it
    ],
)
def test_a_check_names_privacy_settings_that_do_nothing(
    tmp_path: Path, mode: str, setting: str, note: str | None
) -> None:
    text = TEXT.partition("[privacy]")[0] + f'[privacy]\nmode = "{mode}"\n{setting}\n'
    assert checked(tmp_path, text)["notes"] == ([note] if note else [])


def test_a_large_site_is_not_invited_to_what_it_cannot_take_part_in(tmp_path: Path) -> None:
    hub = create.new_hub(tmp_path / "hub", plans.read(FEDHELP, METHODS), None)
    with pytest.raises(UsageError, match="Hospital is large, and noise does not cover") as caught:
        invites.issue(hub, "Hospital", "large", 14)
    assert "register it as a small site" in caught.value.remedy
    assert invites.issue(hub, "Hospital", "small", 14).site == "site-001"
    hub.database.close()


@pytest.mark.parametrize("words", [("run",), ("compare", "--methods", "fedavg,fedhelp")])
def test_the_laboratory_refuses_a_large_site_before_it_trains_a_small_one(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "plan.toml").write_text(FEDHELP)
    images, labels = phantoms.draw(24, 2, size=8)
    np.savez(tmp_path / "images.npz", train_images=images, train_labels=labels)
    sites = ("--split", "dirichlet:100", "--sites", "2", "--large", "1")
    done = command.run_in_process(
        "lab", *words, "plan.toml", "--data", "images.npz", *sites, "--out", "try", home=tmp_path
    )
    assert command.error_code(done) == "E_USAGE"
    assert "register it as a small site" in done.stderr
    assert not [*(tmp_path / "try").glob("**/round*"), *(tmp_path / "try").glob("runs")]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epsilon", "0"), ("epsilon", "nan"), ("epsilon", "true"), ("delta", "1.0"), ("delta", "0.0"),
        ("gradient_norm", "-1.0"), ("noise_multiplier", "nan"), ("noise_multiplier", "inf"),
        ("noise_multiplier", "0.0"), ("sampling_rate", "0.0"), ("sampling_rate", "1.5"), ("clip", "-1.0"),
        ("clip", "nan"), ("site_noise", "inf"),
    ],
)  # fmt: skip
def test_nonsense_in_numbers_of_privacy_is_refused_where_it_stands(setting: str, value: str) -> None:
    with pytest.raises(BadPlanError) as caught:
        plans.read(TEXT, METHODS, {f"privacy.{setting}": value})
    assert [mistake.where for mistake in caught.value.mistakes] == [f"[privacy] {setting}"]


@pytest.mark.parametrize("codec", ["f32", "f16", "int8-delta", "lowrank"])
def test_a_codec_goes_on_only_from_what_noise_covered(codec: str, tmp_path: Path) -> None:
    """What rounding took from an update that was trained without noise does not join one with noise."""
    plan = plans.read(TEXT, METHODS, {"wire.up": f'"{codec}"'})
    base = METHODS["fedavg"].start(plan)
    draw = np.random.default_rng(1)
    noisy = {name: (array + draw.normal(size=array.shape)).astype("f4") for name, array in base.items()}

    def second(privacy: dict[str, float] | None, of_first: float) -> dict[str, bytes]:
        """A second update, whose first one was `of_first` of it; as bytes of each tensor."""
        rounds = tmp_path / f"{privacy}-{of_first}"
        for number in "12":
            (rounds / number).mkdir(parents=True)
        first = {name: (array * of_first).astype("f4") for name, array in noisy.items()}
        outbox._encode(rounds / "1", plan, 1, first, base)
        (rounds / "1" / "report.json").write_text(json.dumps({"privacy": privacy}))
        wire = outbox._encode(rounds / "2", plan, 2, noisy, base)
        return {name: wire[name].tobytes() for name in wire}

    assert second(None, 0.9) == second(None, 0.7)
    remembers = codec in ("int8-delta", "lowrank")
    assert (second({"epsilon": 1.0}, 0.9) != second({"epsilon": 1.0}, 0.7)) == remembers


def test_a_net_goes_on_only_from_what_noise_covered(tmp_path: Path) -> None:
    plan, plain = (plans.read(TEXT, METHODS, {"privacy.mode": f'"{mode}"'}) for mode in ("dp", "plain"))
    for privacy, allowed in ((None, False), ({"epsilon": 1.0}, True)):
        (tmp_path / "report.json").write_text(json.dumps({"privacy": privacy}))
        assert privacy_pin.may_go_on_from(tmp_path, plan) == allowed
        assert privacy_pin.may_go_on_from(tmp_path, plain)
