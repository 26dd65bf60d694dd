"""Kits for sites without internet: they hold what another system needs, and install without network."""

from __future__ import annotations

import ensurepip
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from html import unescape
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("packaging")

from fedhelp_edge.errors import BadInviteError, KitDamagedError, KitIncompleteError, TargetExistsError, UsageError
from fedhelp_edge.parcel import keys, sshsig
from fedhelp_edge.parcel import kit as kits
from fedhelp_edge.trust import enrol, round_record
from server_ref.kit import build
from server_ref.kit.build import SYSTEMS
from tests import command
from tests.clinic import Clinic
from tests.command import COORDINATOR, error_code, json_output, run, run_in_process
from tests.federation import Federation

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
LINUX, WINDOWS = "manylinux_2_28_x86_64", "win_amd64"
CUT = ("unshare", "--net", "--map-root-user")
can_cut = shutil.which("unshare") and not subprocess.run([*CUT, "true"], capture_output=True, check=False).returncode


def wheel(
    folder: Path, name: str, *requires: str, version: str = "1.0", tag: str = "py3-none-any", prints: str = ""
) -> None:
    """A wheel of one module, with a program of its name that prints something."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    contents = {
        f"{name.replace('-', '_')}.py": f"def main(): print({prints!r})\n",
        f"{stem}.dist-info/METADATA": "\n".join(lines) + "\n",
        f"{stem}.dist-info/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{stem}.dist-info/entry_points.txt": f"[console_scripts]\n{name} = {name.replace('-', '_')}:main\n",
    }
    contents[f"{stem}.dist-info/RECORD"] = "".join(f"{path},,\n" for path in [*contents, f"{stem}.dist-info/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as archive:
        for path, text in contents.items():
            archive.writestr(path, text)


@pytest.fixture(scope="session")
def download_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Downloads with pip what is asked for the first time, and copies the same wheels the next time."""
    download = build._download
    folders: dict[tuple[str, ...], Path] = {}

    def fetch(requirements: list[str], system: build.TargetSystem, python: str, wheels: Path) -> None:
        offered = sorted(path.name for path in Path(os.environ["PIP_FIND_LINKS"]).iterdir())
        request = *requirements, system.name, python, *offered
        if request not in folders:
            folder = tmp_path_factory.mktemp("downloads")
            download(requirements, system, python, folder)
            folders[request] = folder
        shutil.copytree(folders[request], wheels, dirs_exist_ok=True)

    return fetch


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download_once: Callable[..., None]) -> Path:
    """A folder where pip fetches packages: a program that needs one more package on Windows."""
    package_index = tmp_path / "package_index"
    wheel(package_index, "alpha-for-kits", "beta-for-kits; sys_platform == 'win32'", "gamma-for-kits; extra == 'more'")
    wheel(package_index, "beta-for-kits", tag="py3-none-win_amd64")
    wheel(package_index, "gamma-for-kits", version="2.0")
    (bundled,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(bundled, package_index)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(package_index))
    version = bundled.name.split("-")[1]
    monkeypatch.setattr(build, "_download", download_once)
    monkeypatch.setattr(build.metadata, "version", lambda name: version if name == "pip" else not_installed(name))
    return package_index


def not_installed(name: str) -> str:
    raise build.metadata.PackageNotFoundError(name)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A small program in place of the kit's own."""

    def replace(*requires: str) -> None:
        def build_stub(folder: Path) -> None:
            wheel(folder, "fedhelp-edge", *requires, prints="doctor: this machine is ready")

        monkeypatch.setattr(build, "build_own_wheel", build_stub)

    return replace


@pytest.mark.parametrize(
    ("platform", "extra", "expected"),
    [
        (WINDOWS, "", {"alpha-for-kits", "beta-for-kits"}),
        ("macosx_14_0_arm64", "[more]", {"alpha-for-kits", "gamma-for-kits"}),
    ],
)
def test_only_what_another_system_needs_is_fetched(
    platform: str, extra: str, expected: set[str], package_index: Path, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    build.fetch_wheels([f"alpha-for-kits{extra}"], SYSTEMS[platform], HERE, wheels, lambda _: None)
    assert set(build._wheels_by_name(wheels)) == expected


def test_a_missing_package_leaves_no_half_kit(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program("no-such-package")
    with pytest.raises(KitIncompleteError, match="no-such-package"):
        build.build_kit(LINUX, tmp_path / "kit", lambda _: None)
    assert not (tmp_path / "kit").exists()


def test_versions_that_do_not_fit_together_are_refused(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    wheel(package_index, "delta-for-kits", "gamma-for-kits<2")
    program("gamma-for-kits", "delta-for-kits")
    with pytest.raises(KitIncompleteError, match=r"pip fetched gamma-for-kits 2.0, but gamma-for-kits<2 is needed"):
        build.build_kit(LINUX, tmp_path / "kit", lambda _: None)


def test_the_projects_wheel_has_every_file_and_is_reproducible(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first, again = build.build_own_wheel(tmp_path), build.build_own_wheel(tmp_path / "again")
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert {"fedhelp_edge/trust/words.txt", "server_ref/kit/install.py", "export/__init__.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    licences = metadata.distribution(build.PACKAGE_NAME).metadata.get_all("License-File") or []
    assert {f"licenses/{name}" for name in licences} == {
        name.partition("/")[2] for name in names if "/licenses/" in name
    }, "who hands the program on hands its licence on"
    result = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", tmp_path / "in",
         first],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "in" / "bin" / "fedhelp-edge").exists()


def write_invite(path: Path) -> Path:
    path.write_text(json.dumps({"code": enrol.new_code(), "federation": "fh-0"}))
    return path


@pytest.fixture
def a_kit(package_index: Path, program: Callable[..., None], tmp_path: Path) -> build.BuiltKit:
    program("alpha-for-kits")
    write_invite(tmp_path / "a.invite")
    (tmp_path / "a.invite.png").write_bytes(b"a picture")
    return build.build_kit(LINUX, tmp_path / "kit", lambda _: None, invite=tmp_path / "a.invite")


@pytest.mark.skipif(not sys.platform.startswith("linux") or not can_cut, reason="the network cannot be cut here")
def test_a_kit_installs_without_network(a_kit: build.BuiltKit, tmp_path: Path) -> None:
    assert {path.name for path in (tmp_path / "kit").iterdir()} == {
        "a.invite", "a.invite.png", "install.py", "SHA256SUMS", "kit.json", "leaflet.html", "requirements.txt",
        "wheels",
    }  # fmt: skip
    result = install(tmp_path)
    assert result.returncode == 0, result.stderr
    assert "doctor: this machine is ready" in result.stdout
    assert f"join {tmp_path / 'kit' / 'a.invite'}" in result.stdout


def test_the_leaflet_shows_the_hash_of_the_systems_own_tool(a_kit: build.BuiltKit, tmp_path: Path) -> None:
    checksum = subprocess.run(
        ["sha256sum", tmp_path / "kit" / "install.py"], capture_output=True, text=True, check=True
    )
    digest, leaflet = checksum.stdout.split()[0], (tmp_path / "kit" / "leaflet.html").read_text()
    assert digest in leaflet
    assert a_kit.fingerprint in leaflet
    assert a_kit.fingerprint.replace(" ", "") == digest[:32]


def test_every_changed_or_missing_file_is_detected_before_anything_of_the_kit_runs(
    a_kit: build.BuiltKit, tmp_path: Path
) -> None:
    """The leaflet's hash covers the installer, the installer covers all else, and `inspect` covers everything."""
    kit = tmp_path / "kit"
    assert json_output(run("inspect", kit, "--json", home=tmp_path))["fingerprint"] == a_kit.fingerprint
    used = [path for path in kit.rglob("*") if path.is_file() and path.suffix not in (".html", ".png")]
    assert {path.name.partition("-")[0] for path in used} >= {"pip", "alpha_for_kits", "fedhelp_edge", "install.py"}
    for path in used:
        content = path.read_bytes()
        for spoiled in (content + b"\n#", content[:-1], bytes([content[0] ^ 1]) + content[1:], None):
            path.unlink() if spoiled is None else path.write_bytes(spoiled)
            if path.name == "install.py":
                assert spoiled is None or kits.fingerprint(spoiled) != a_kit.fingerprint
            else:
                result = install(tmp_path)
                assert (result.returncode, result.stdout) == (1, "")
                assert path.name in result.stderr
                assert not (tmp_path / "installed").exists()
                with pytest.raises(KitDamagedError, match=re.escape(path.name)):
                    kits.inspect(kit)
        path.write_bytes(content)


def test_files_beside_the_installer_have_no_effect(a_kit: build.BuiltKit, tmp_path: Path) -> None:
    """Python imports modules from the folder of its program; pip looks at any wheel."""
    for name in ("hashlib", "json", "subprocess", "tempfile", "venv", "pathlib", "platform", "os", "sitecustomize"):
        (tmp_path / "kit" / f"{name}.py").write_text("open('stolen', 'w'); raise SystemExit(3)")
    wheel(tmp_path / "kit" / "wheels", "alpha-for-kits", version="9.0", prints="an attacker's")
    for isolated in (["-I"], []):
        command_line = [sys.executable, *isolated, tmp_path / "kit" / "install.py", tmp_path / "installed"]
        result = subprocess.run(command_line, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert not (tmp_path / "stolen").exists()
        process = subprocess.run([tmp_path / "installed/bin/python", "-m", "alpha_for_kits"], check=False)
        assert process.returncode == 0
    asking = "from importlib import metadata; print(metadata.version('alpha-for-kits'))"
    version = subprocess.run(
        [tmp_path / "installed/bin/python", "-c", asking],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert version.stdout == "1.0\n"


def test_a_joined_site_recognizes_a_kit_of_its_coordinator(
    package_index: Path, program: Callable[..., None], clinic: Clinic, three: Federation, tmp_path: Path
) -> None:
    program()
    clinic.join()
    hub, coordinator_keys = three.hub, three.coordinator_keys

    def inspect(name: str, *options: str) -> subprocess.CompletedProcess[str]:
        return run_in_process("inspect", tmp_path / name, "--home", clinic.home, *options, home=tmp_path)

    def inspected(name: str, signer: keys.Keys | None) -> dict[str, object]:
        sign = partial(sshsig.sign, private_key=signer.sign, namespace=kits.NAMESPACE) if signer else None
        build.build_kit(LINUX, tmp_path / name, lambda _: None, sign=sign)
        return json_output(inspect(name, "--json"))

    assert inspected("coordinators", coordinator_keys)["trusted"]
    signers = tmp_path / "allowed_signers"
    signers.write_text(round_record.allowed_signers(hub.charter, hub.roster))
    command_line = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "coordinator", "-n", kits.NAMESPACE]
    with (tmp_path / "coordinators" / "install.py").open("rb") as installer:
        subprocess.run([*command_line, "-s", tmp_path / "coordinators/install.py.sig"], stdin=installer, check=True)
    assert inspected("strangers", keys.generate())["why"] == "the coordinator did not sign it"
    assert inspected("fronts", hub.front_keys())["why"] == "the coordinator did not sign it"
    assert str(inspected("nobodys", None)["why"]).startswith("nobody signed it")
    shutil.copy(tmp_path / "coordinators" / "install.py.sig", tmp_path / "nobodys")
    with (tmp_path / "nobodys" / "install.py").open("ab") as file:  # two kits may be the same to the byte
        file.write(b"\n")
    assert error_code(inspect("nobodys")) == "E_SIG_BAD"
    signature = sshsig.sign(
        (tmp_path / "nobodys/install.py").read_bytes(), coordinator_keys.sign, "bundle.v1.fedhelp-edge"
    )
    (tmp_path / "nobodys" / "install.py.sig").write_text(signature)
    assert error_code(inspect("nobodys")) == "E_KIT_DAMAGED"


def test_the_command_signs_a_kit_only_where_the_hub_is(
    package_index: Path, program: Callable[..., None], fed: Federation, tmp_path: Path
) -> None:
    program()
    for home, signed in ((fed.hub.home, True), (tmp_path, False)):
        command_line = ("kit", "--platform", LINUX, "--out", tmp_path / f"kit{signed}", "--home", home, "--json")
        json_output(run_in_process(*command_line, home=tmp_path, program=COORDINATOR))
        assert (tmp_path / f"kit{signed}" / "install.py.sig").exists() == signed


def install(folder: Path) -> subprocess.CompletedProcess[str]:
    command_line = [*CUT, sys.executable, "-I", folder / "kit" / "install.py", folder / "installed"]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(command_line, env=env, capture_output=True, text=True, check=False)


def test_another_python_or_system_is_refused_before_anything_is_installed(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program()
    for name, python in (("windows", ""), ("newer", "3.99")):
        build.build_kit(WINDOWS, tmp_path / name, lambda _: None, python=python)
    outputs = []
    for name in ("windows", "newer"):
        command_line = [sys.executable, "-I", tmp_path / name / "install.py", tmp_path / "installed"]
        outputs.append(subprocess.run(command_line, capture_output=True, text=True, check=False).stderr)
    assert "this kit is for another kind of computer" in outputs[0]
    assert "install the 64-bit Python 3.99" in outputs[1]
    assert not (tmp_path / "installed").exists()


def test_what_no_kit_can_be_built_from_is_refused_before_anything_is_fetched_or_asked(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("no invite")
    for more, error in (
        ({"platform": "amiga"}, UsageError),
        ({"python": "banana"}, UsageError),
        ({"python": "3.9"}, UsageError),
        ({"python": "3.12.1"}, UsageError),
        ({"invite": tmp_path / "plan.toml"}, BadInviteError),
        ({"invite": tmp_path / "nowhere.invite"}, FileNotFoundError),
        ({"out": tmp_path}, TargetExistsError),
    ):
        request: dict[str, Any] = {"platform": LINUX, "out": tmp_path / "kit", "python": "", "invite": None, **more}
        with pytest.raises(error):
            build.check_request(**request)


def test_a_kit_whose_building_was_killed_is_built_again_in_the_same_folder(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program()
    whole = tmp_path / "whole"
    build.build_kit(LINUX, whole, lambda _: None)
    killed = tmp_path / "killed"
    (killed / "wheels").mkdir(parents=True)
    for name in ("unfinished-kit", "wheels/pip-1.0-py3-none-any.whl"):
        (killed / name).touch()
    with pytest.raises(KitDamagedError):
        kits.inspect(killed)
    build.build_kit(LINUX, killed, lambda _: None)
    assert {path.relative_to(killed) for path in killed.rglob("*")} == {
        path.relative_to(whole) for path in whole.rglob("*")
    }


@pytest.mark.parametrize("name", ["Clinic A.invite", "requirements.txt", "letter to clinic.json"])
def test_an_invite_of_whatever_name_gets_one_in_the_kit_that_can_be_typed_and_replaces_nothing(
    name: str, package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program()
    invite = write_invite(tmp_path / name)
    build.build_kit(LINUX, tmp_path / "kit", lambda _: None, invite=invite)
    (copied,) = (tmp_path / "kit").glob("*.invite")
    assert copied.read_bytes() == invite.read_bytes()
    assert f"join /media/stick/kit/{copied.name} --via" in (tmp_path / "kit" / "leaflet.html").read_text()
    assert " " not in copied.name
    assert "--hash=sha256" in (tmp_path / "kit" / "requirements.txt").read_text()


def test_the_commands_of_a_leaflet_stand_out_and_work_for_a_user_whose_name_has_a_space(
    package_index: Path, program: Callable[..., None], tmp_path: Path
) -> None:
    program()
    build.build_kit(WINDOWS, tmp_path / "kit", lambda _: None)
    commands = [
        unescape(text) for text in re.findall("<code>(.*?)</code>", (tmp_path / "kit/leaflet.html").read_text())
    ]
    started = '"%USERPROFILE%\\fedhelp-edge\\Scripts\\fedhelp-edge"'
    assert commands == [
        "certutil -hashfile E:\\kit\\install.py SHA256",
        f"py -{HERE} -I E:\\kit\\install.py",
        f"{started} join E:\\kit\\INVITE --via FOLDER",
        f"{started} status",
    ]


@pytest.mark.proof
@pytest.mark.parametrize("platform", SYSTEMS)
def test_real_kits_are_complete_and_the_one_for_this_system_installs_without_network_access(
    platform: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not request.config.getoption("--proofs"):
        pytest.skip("fetches 200 MB: make proofs")
    command_line = ("kit", "--platform", platform, "--out", tmp_path / "kit", "--json")
    printed = command.json_output(command.run(*command_line, home=tmp_path, program=command.COORDINATOR))
    assert 20 <= printed["wheels"] <= 40
    assert 30e6 < printed["size"] < 120e6
    if platform == LINUX and can_cut:
        result = install(tmp_path)
        assert result.stdout.splitlines()[-2:] == [
            "this machine is ready", f"next: {tmp_path / 'installed' / 'bin' / 'fedhelp-edge'} join INVITE",
        ]  # fmt: skip
