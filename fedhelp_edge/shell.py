"""What both command lines share: lazy commands, the home folder, passphrases, results on stdout, errors on stderr."""

import importlib
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fedhelp_edge import console, errors, hints

Home = Annotated[
    Path,
    typer.Option(
        "--home", envvar="FEDHELP_HOME", help="Where this site lives.", show_default="~/fedhelp", readable=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="FEDHELP_PASSPHRASE_FILE",
        help="A file that holds the passphrase.",
        readable=False,
    ),
]
NoPassphrase = Annotated[bool, typer.Option("--no-passphrase", help="Leave keys to file permissions.")]
OwnPassphrase = Annotated[bool, typer.Option("--own", help="Type a passphrase of your own.")]
DEFAULT_HOME = Path("~/fedhelp")
_JSON = {"--json", "--format json", "--format=json"}  # how a program asks for an answer that it can read
_STOPPED = 130  # what typer makes of Ctrl-C
_EXTRAS = {
    "torch": "train", "onnx": "train", "torchvision": "foundation", "open_clip": "foundation",
    "pydicom": "medical", "nibabel": "medical", "matplotlib": "lab", "segno": "server",
    "starlette": "server", "uvicorn": "server",
}  # fmt: skip


def named(what: str) -> Any:
    """An argument that names a file or folder. Whether it can be read is found out on reading: no usage error."""
    return typer.Argument(help=what, readable=False)


def check_order(first: Sequence[Path], suffix: str, others: Sequence[Path], order: str) -> None:
    """Refuse paths in another order than the command takes, by their names alone: perhaps none of them is there."""
    for path in (path for path in first if path.suffix.lower() != suffix):
        swapped = any(other.suffix.lower() == suffix for other in others)
        if not path.exists():
            raise errors.FileMissingError(
                f"{path.name} is not there", remedy=order if swapped else f"check the name, and {order}"
            )
        if swapped:
            raise errors.FileKindError(f"{path.name} stands where a file that ends in {suffix} is wanted", remedy=order)


class Commands(MutableMapping[str, Any]):
    """Command names and, in a package, the module of each, imported when the command is asked for."""

    def __init__(self, package: str, names: Sequence[str]) -> None:
        self._package, self._names = package, list(names)
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            command = typer.main.get_command(importlib.import_module(f"{self._package}.{name}").app)
            command.name = name
            self._made[name] = command
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __setitem__(self, name: str, command: Any) -> NoReturn:
        raise TypeError("commands are files")

    __delitem__ = __setitem__  # type: ignore[assignment]


def app(**options: Any) -> typer.Typer:
    """A Typer as every file of commands makes one: plain text, no tracebacks of its own, quick to start."""
    plain = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False, **options}
    return typer.Typer(context_settings={"help_option_names": ["-h", "--help"]}, **plain)


def group(package: str, names: Sequence[str], program: str, about: str, version: str) -> TyperGroup:
    """The whole command line of a program."""
    epilog = "Every command has --help with an example."
    root = app(no_args_is_help=True, help=about, epilog=epilog, add_completion=True)

    def show_version(wanted: bool) -> None:
        if wanted:
            console.show(f"{program} {version}")
            raise typer.Exit

    @root.callback()
    def main(
        version: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
        ] = False,
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    ) -> None:
        pass

    made = typer.main.get_command(root)
    assert isinstance(made, TyperGroup)  # noqa: S101 - a callback makes it one
    made.name = program
    made.commands = Commands(package, names)
    return made


def run(commands: TyperGroup, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and leave: 0 done, 1 refused, failed or not ready, 2 wrong usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("FEDHELP_DEBUG"))
    if "--debug" in arguments:  # wherever it stands
        arguments.remove("--debug")
    if "--version" in arguments:  # behind a command too
        arguments = ["--version"]
    hints.Caller.commands, hints.Caller.options = commands, hints.carried(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a letter shows "?" and goes on
    try:
        code = commands.main(args=arguments, prog_name=commands.name, standalone_mode=False)
        sys.stdout.flush()
        if code == _STOPPED:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as fault:
        if type(fault).__name__ == "NoArgsIsHelpError":  # typer has its own, or click's, by its version
            console.say(*fault.ctx.get_help().splitlines())  # type: ignore[union-attr]
            sys.exit(2)
        if debug:
            raise
        _fail(_ours(fault), as_json=not _JSON.isdisjoint([*arguments, *map(" ".join, pairwise(arguments))]))


def _ours(fault: BaseException) -> errors.FedhelpError:
    match fault:
        case errors.FedhelpError():
            return fault
        case typer.Abort() | KeyboardInterrupt():
            return errors.StoppedByHandError("stopped by hand")
        case OSError():
            return errors.from_os(fault)
        case ModuleNotFoundError() if fault.name in _EXTRAS:
            return errors.MissingPackageError(f"{fault.name} is not installed", remedy=remedy(fault.name))
        case MemoryError():
            return errors.NoSpaceError(
                "not enough memory", remedy="close other programs, then run the same command again"
            )
    if hasattr(fault, "format_message"):
        said = str(fault.format_message()).strip().removesuffix(".")
        at = getattr(fault, "ctx", None)  # where it is known which command was meant
        return errors.UsageError(said[:1].lower() + said[1:], remedy=f"see '{at.command_path} --help'" if at else "")
    return errors.InternalError(f"{type(fault).__name__} in this program")


def remedy(module: str) -> str:
    """How to get an optional package."""
    return f"pip install 'fedhelp-edge[{_EXTRAS[module]}]'"


def _fail(fault: errors.FedhelpError, *, as_json: bool) -> NoReturn:
    hint = hints.typed(fault.remedy)
    first, *more = fault.lines
    console.say(f"error: {fault.code}: {first}", *(f"  {line}" for line in more), f"hint: {hint}")
    if as_json:
        console.result(error={"code": fault.code, "cause": fault.cause, "remedy": hint})
    sys.exit(2 if isinstance(fault, errors.UsageError) else 1)


def home(given: Path) -> Path:
    return given.expanduser()
