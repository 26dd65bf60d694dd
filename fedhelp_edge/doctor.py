"""Check this machine: what the kit needs, and what to put right first."""

from __future__ import annotations

import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedhelp_edge.cores import usable_cores
from fedhelp_edge.errors import FedhelpError, NoKeysError
from fedhelp_edge.infer import bundle
from fedhelp_edge.parcel import keys, parcel, sshsig, statement
from fedhelp_edge.safe_text import counted
from fedhelp_edge.site import connection, signer_check, verified

PASS, WARN, FAIL = "pass", "warn", "fail"
_ORDER = (PASS, WARN, FAIL)
_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16")  # features that speed nets up
_TIMEOUT = 120  # seconds for a check in its own process


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    state: str
    detail: str
    remedy: str = ""


def run_checks(home: Path, model: Path | None = None) -> Iterator[Check]:
    """Run the checks one by one; with a model, also check that it answers here as at export."""
    for check in (_python, _packages, _processor, _memory, _parcel, _telemetry, _training):
        yield check()
    for check_home in (_disk, _keys, _clock, _carrier):
        yield check_home(home)
    if model:
        yield _model(home, model)


def verdict(results: list[Check]) -> str:
    """The worst state of all checks."""
    return max((check.state for check in results), key=_ORDER.index)


def _python() -> Check:
    bits = struct.calcsize("P") * 8
    detail = f"{platform.python_version()}, {bits} bits, {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 10) or bits < 64:
        return Check("python", FAIL, detail, "install a 64-bit Python, 3.10 or newer")
    return Check("python", PASS, detail)


def _packages() -> Check:
    versions = {name: _version(name) for name in ("cryptography", "numpy", "pillow", "onnxruntime", "typer", "rich")}
    detail = ", ".join(f"{name} {number or 'missing'}" for name, number in versions.items())
    if not all(versions.values()):
        return Check("packages", FAIL, detail, "install the kit again: pip install fedhelp-edge")
    return Check("packages", PASS, detail)


def _processor() -> Check:
    flags = _cpu_flags()
    features = [name for name in _CPU_FEATURES if name in flags]
    detail = f"{usable_cores()} cores; {', '.join(features) or 'no special features known'}"
    if flags and "avx2" not in flags and platform.machine() in ("x86_64", "AMD64"):
        return Check("processor", WARN, detail, "training will be slow here; diagnosing is not affected")
    return Check("processor", PASS, detail)


def _memory() -> Check:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return Check("memory", PASS, "not known on this system")
    if total < 1.5:
        return Check("memory", WARN, f"{total:.1f} GiB", "close other programs during training")
    return Check("memory", PASS, f"{total:.1f} GiB")


def _parcel() -> Check:
    """Seal a parcel and open it again: this tests keys, signature, encryption and disk at once."""
    with tempfile.TemporaryDirectory() as temporary:
        new_keys, path = keys.generate(), Path(temporary) / "doctor.fhx"
        fingerprint = sshsig.fingerprint(new_keys.public.sign)
        context = statement.new_context(
            "update", federation=f"fh-{'0' * 32}", round=0, task=statement.ZERO_HASH, base=statement.ZERO_HASH,
            sender="doctor", sender_key=fingerprint, recipients=[new_keys.public.recipient], seq=1,
        )  # fmt: skip
        try:
            parcel.seal(path, context, b"well", new_keys.sign, [new_keys.public.recipient])
            with parcel.open(path, parcel.any_signer, [new_keys.identity]) as opened:
                if opened.body.read() == b"well":
                    return Check("parcel", PASS, "sealed and opened one")
        except (FedhelpError, OSError) as error:
            return Check("parcel", FAIL, f"cannot seal and open: {error}", "install the kit again; check the disk")
    return Check("parcel", FAIL, "the opened parcel differs from the sealed one", "install the kit again")


def _telemetry() -> Check:
    """onnxruntime sends telemetry unless disabled before its import: check that it writes nothing to an empty home."""
    if not _version("onnxruntime"):
        return Check("telemetry", FAIL, "onnxruntime is missing", "install the kit again: pip install fedhelp-edge")
    with tempfile.TemporaryDirectory() as empty:
        quiet = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_RUNNING_UNIT_TESTS")}
        quiet |= {"HOME": empty, "XDG_CACHE_HOME": empty, "ORT_DISABLE_TELEMETRY": "1"}
        error = _run_python(["-c", "import onnxruntime"], env=quiet)[1]
        if error:
            return Check("telemetry", FAIL, "onnxruntime does not start", f"install it again; its error: {error}")
        if any(Path(empty).iterdir()):
            return Check("telemetry", FAIL, "onnxruntime left traces", "install the version that the kit names")
    return Check("telemetry", PASS, "onnxruntime starts without a trace")


def _training() -> Check:
    """Find out in another process which training packages exist: torch is not imported here."""
    output, error = _run_python(["-m", "fedhelp_edge.knowledge.torchvision_shim"])
    if error:
        return Check("training", FAIL, "torch does not start", f"install it again; its error: {error}")
    packages = json.loads(output)
    if not packages["torch"]:
        return Check("training", PASS, "not installed: this computer diagnoses, and does not train")
    detail = f"torch {packages['torch']} on {packages['device']}, onnx {packages['onnx'] or 'missing'}"
    if "vision" in packages:
        detail += f", torchvision {packages['torchvision']} ({packages['vision']})"
    if sys.platform == "linux":
        detail += f"; {_thread_waiting()}"
    if not packages["onnx"]:
        return Check("training", WARN, detail, "to export models: pip install 'fedhelp-edge[train]'")
    return Check("training", PASS, detail)


def _thread_waiting() -> str:
    """How the threads of training wait for each other (docs/decisions/threads.md)."""
    settings = [f"{name}={os.environ[name]}" for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ]
    if settings:
        return f"{usable_cores()} threads, which wait as {' and '.join(settings)} says"
    return f"{usable_cores()} threads, which sleep while other programs need the cores"


def _disk(home: Path) -> Check:
    folder = next(path for path in (home, *home.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 2**30
    if not os.access(folder, os.W_OK):
        return Check("disk", FAIL, f"cannot write to {home}", "name another folder with --home")
    detail = f"{free:.1f} GiB free for {home}"
    if free < 0.2:
        return Check("disk", FAIL, detail, "free some space, or name another folder with --home")
    return Check("disk", WARN if free < 2 else PASS, detail, "free some space before training" if free < 2 else "")


def _keys(home: Path) -> Check:
    try:
        public_keys = keys.load_public(home)
        keys.check_permissions(home)
    except NoKeysError:
        return Check("keys", PASS, f"none yet in {home}; joining makes them")
    except FedhelpError as error:
        return Check("keys", FAIL, error.cause, error.remedy)
    return Check(
        "keys", PASS, sshsig.fingerprint(public_keys.sign) + ("" if keys.is_locked(home) else ", no passphrase")
    )


def _clock(home: Path) -> Check:
    """Compare the clock with signed times and the kit's own files, which cannot be from the future; no network."""
    now = datetime.now(timezone.utc)
    oldest = datetime.fromtimestamp(Path(__file__).stat().st_mtime, timezone.utc)
    try:
        state = verified.state(home)
    except FedhelpError as error:
        return Check("clock", FAIL, f"the state in {home} cannot be read: {error.cause}", error.remedy)
    earliest = state.latest_time(oldest) if state else oldest
    if now < earliest:
        days = counted((earliest - now).days, "day")
        return Check("clock", WARN, f"{now:%Y-%m-%d %H:%M} UTC is at least {days} slow", "set the clock")
    return Check("clock", PASS, f"{now:%Y-%m-%d %H:%M} UTC")


def _carrier(home: Path) -> Check:
    """Check whether parcels can travel now. If not, this is only a warning: training does not need it."""
    try:
        if verified.state(home) is None:
            return Check("carrier", PASS, "no federation joined yet")
        for carrier in connection.carriers(home, str, give_up_after=3):
            carrier.check()
    except FedhelpError as error:
        return Check("carrier", WARN, error.cause, error.remedy)
    return Check("carrier", PASS, "reachable" if "via" not in connection.read(home) else "the folder is there")


def _model(home: Path, path: Path) -> Check:
    """Compare a model's answers with those at export; onnxruntime opens it only if its signer is known here."""
    try:
        model = bundle.load_any(path, lambda key: signer_check.model_warning(home, key, None))
        used = model.parity()
    except FedhelpError as error:
        return Check("model", FAIL, f"{error.code}: {error.cause}", error.remedy)
    detail = (
        f"{model.facts.name}, round {model.facts.round}: answers as at export, within {used:.0%} of what is allowed"
    )
    if model.why:
        return Check("model", WARN, f"{detail}; not trusted: {model.why}", "compare the words that 'inspect' shows")
    return Check("model", PASS, detail)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = [line.split(":", 1)[1] for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].split()) if lines else set()


def _run_python(arguments: list[str], env: dict[str, str] | None = None) -> tuple[str, str]:
    """Run another Python: its output, and the last line of its errors if it fails."""
    try:
        process = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=env, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "", f"no answer in {_TIMEOUT} s"
    return process.stdout, (process.stderr.strip().splitlines() or ["no reason"])[-1] if process.returncode else ""
