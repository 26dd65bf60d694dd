"""Loading checks the signature first, then the signer, then the metadata; onnxruntime is last."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import fedhelp_edge as fh
from fedhelp_edge.errors import (
    BadBundleError,
    DisagreesError,
    FedhelpError,
    SignerMismatchError,
    SignerRevokedError,
    SignerUnknownError,
    SignerWindowError,
)
from fedhelp_edge.infer import bundle, metadata
from fedhelp_edge.infer.bundle import Bundle
from fedhelp_edge.parcel import keys, sshsig
from fedhelp_edge.site import signer_check
from server_ref.hub import members
from tests import bundles
from tests.clinic import Clinic
from tests.federation import Federation


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    for path in (model, bundle.signature_path(model)):
        shutil.copy(path, tmp_path)
    return tmp_path / model.name


def tamper(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def unsign(path: Path) -> None:
    bundle.signature_path(path).unlink()


def garble(path: Path) -> None:
    bundle.signature_path(path).write_bytes(b"\xff" * 300)


def swap(path: Path) -> None:
    """The signature of another model, by the same site."""
    bundle.signature_path(path).write_text(sshsig.sign(b"another model", bundles.site().keys.sign, bundle.NAMESPACE))


def misuse(path: Path) -> None:
    """A signature of these bytes for another purpose."""
    bundle.signature_path(path).write_text(sshsig.sign(path.read_bytes(), bundles.site().keys.sign, "git"))


FALSE: dict[Callable[[Path], None], str] = {
    tamper: "E_SIG_BAD", truncate: "E_SIG_BAD", lengthen: "E_SIG_BAD", unsign: "E_BUNDLE_UNSIGNED",
    garble: "E_SIG_FORMAT", swap: "E_SIG_BAD", misuse: "E_SIG_NAMESPACE",
}  # fmt: skip


@pytest.mark.parametrize("spoil", FALSE, ids=lambda spoil: spoil.__name__)
def test_a_model_without_a_valid_signature_is_refused_with_or_without_a_home(
    spoil: Callable[[Path], None], copy: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(copy)
    monkeypatch.setattr(Bundle, "engine", property(lambda self: pytest.fail("onnxruntime saw it")))
    for folder in (home, tmp_path / "nowhere"):
        with pytest.raises(FedhelpError) as refused:
            bundle.load(copy, lambda key, folder=folder: signer_check.model_warning(folder, key, None))
        assert refused.value.code == FALSE[spoil]


def test_a_refused_model_does_not_import_onnxruntime(copy: Path, tmp_path: Path) -> None:
    tamper(copy)
    code = (
        "import sys; from fedhelp_edge.__main__ import main\n"
        f"sys.argv = ['fedhelp-edge', 'predict', {str(copy)!r}, {str(copy)!r}, '--home', {str(tmp_path)!r}]\n"
        "try: main()\nexcept SystemExit as end: print(end.code, 'onnxruntime' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 False False\n"
    assert "E_SIG_BAD" in done.stderr


def test_one_photograph_is_answered_without_the_code_that_reads_whole_sets(model: Path, home: Path) -> None:
    """On an old PC each module of it costs time, at each start."""
    photograph = home.parent / "photograph.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photograph)
    code = (
        "import sys; from fedhelp_edge.__main__ import main\n"
        f"sys.argv = ['fedhelp-edge', 'predict', {str(model)!r}, {str(photograph)!r}, '--home', {str(home)!r}]\n"
        "try: main()\nfinally: print(*{name for name in sys.modules if name.startswith('fedhelp_edge.data.')})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.removeprefix("fedhelp_edge.data.") for name in done.stdout.splitlines()[-1].split()}
    assert "picture" in loaded
    assert not loaded & {"loading", "check", "store", "npz", "masks", "segmentation", "near_duplicates"}


def test_without_a_home_a_model_is_not_trusted(model: Path, tmp_path: Path) -> None:
    assert "no home here" in bundle.load(model, lambda key: signer_check.model_warning(tmp_path, key, None)).why


def test_a_model_signed_by_this_site_is_trusted_and_a_strangers_is_refused(home: Path, tmp_path: Path) -> None:
    assert signer_check.model_warning(home, bundles.site().keys.public.sign, None) == ""
    with pytest.raises(SignerUnknownError):
        signer_check.model_warning(home, keys.generate().public.sign, None)


def test_a_person_can_name_the_trusted_key(home: Path, tmp_path: Path) -> None:
    stranger = keys.generate().public.sign
    assert signer_check.model_warning(home, stranger, sshsig.fingerprint(stranger)) == ""
    assert signer_check.model_warning(tmp_path, stranger, sshsig.fingerprint(stranger)) == ""
    with pytest.raises(SignerMismatchError):
        signer_check.model_warning(home, stranger, sshsig.fingerprint(bundles.site().keys.public.sign))


def test_in_a_federation_models_of_sites_in_the_roster_are_trusted(three: Federation, tmp_path: Path) -> None:
    clinic = Clinic(three, tmp_path)
    clinic.join()
    clinic.carry_stick()
    clinic.download()
    active, revoked = (each.keys.public.sign for each in three.clinics[:2])
    assert signer_check.model_warning(clinic.home, active, None) == ""
    members.revoke(three.hub, three.coordinator_keys, three.clinics[1].id, 1, "stolen")
    clinic.carry_stick()
    clinic.download()
    for named in (None, sshsig.fingerprint(revoked)):
        with pytest.raises(SignerRevokedError):
            signer_check.model_warning(clinic.home, revoked, named)
    with pytest.raises((SignerUnknownError, SignerWindowError)):
        signer_check.model_warning(clinic.home, keys.generate().public.sign, None)


def test_answers_that_differ_from_those_at_export_are_detected(opened: Bundle) -> None:
    assert opened.parity() <= 0.1
    parity_note = opened.notes[metadata.PARITY_NOTE]
    other = {**opened.notes, metadata.PARITY_NOTE: parity_note.replace('"data":"', '"data":"AACAPw', 1)}
    with pytest.raises((DisagreesError, BadBundleError)):
        Bundle(opened.model, "", "", "", other, opened.facts).parity()


def test_nothing_is_diagnosed_on_a_machine_that_gives_other_answers(
    model: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bundle.TOLERANCE, "fp32", 1e-12)  # as if this processor rounded differently
    code, out, err = bundles.run_command(
        capsys, "predict", model, bundles.write_test_images(tmp_path, 1), "--home", home
    )
    assert (code, out) == (1, "")
    assert "E_PARITY" in err


def test_facts_are_read_as_written(opened: Bundle) -> None:
    assert metadata.read(opened.facts.text()).text() == opened.facts.text()
    assert opened.facts.classes == bundles.CLASSES


@pytest.mark.parametrize(
    "change", ['"classes":[]', '"bias":[]', '"schema_version":2', '"calibration":7', '"image":null']
)
def test_invalid_facts_are_refused(change: str, opened: Bundle) -> None:
    key = change.partition(":")[0]
    text = opened.facts.text()
    begin = text.index(key + ":")
    with pytest.raises(BadBundleError):
        metadata.read(text[:begin] + change + ',"was' + text[begin + 1 :])


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_not_a_model(data: bytes) -> None:
    with pytest.raises(BadBundleError):
        metadata.read_notes(data)


@given(st.integers(0, 10**9), st.integers(0, 255))
def test_a_model_with_any_changed_byte_is_read_or_refused_without_a_crash(offset: int, byte: int) -> None:
    data = bytearray(bundles.export_result().model)
    data[offset % len(data)] = byte
    with suppress(BadBundleError):
        metadata.read(metadata.read_notes(bytes(data))[metadata.FACTS_NOTE])


def test_in_python_a_model_for_classes_is_none_for_masks(model: Path, home: Path) -> None:
    with pytest.raises(FedhelpError, match="is a model for classes, not for masks") as refused:
        fh.load_mask_bundle(model, home=home, threads=1)
    assert refused.value.remedy == "use load_bundle"
