"""Shared by the command lines: lazy commands, common options, and errors on stderr."""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from fedhelp_edge import console, errors, hints
from fedhelp_edge.safe_text import visible

Home = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="FEDHELP_HOME",
        help="The folder of this site or hub.",
        show_default="~/fedhelp",
        readable=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        envvar="FEDHELP_PASSPHRASE_FILE",
        help="A file with the passphrase.",
        readable=False,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", help="Serve figures for Prometheus at [HOST:]PORT; without a host to this computer."),
]
LogJson = Annotated[  # `run` reads it, so that errors of usage are such lines too
    bool, typer.Option("--log-json", help="Write each line of the log as a JSON object.")
]
NoPassphrase = Annotated[bool, typer.Option("--no-passphrase", help="Protect the keys by file permissions only.")]
OwnPassphrase = Annotated[bool, typer.Option("--own", help="Type your own passphrase.")]
Url = Annotated[str, typer.Option("--url", help="The coordinator's address.")]
CaFile = Annotated[
    Path | None, typer.Option("--ca-file", help="Certificates to trust besides the usual ones.", readable=False)
]
DEFAULT_HOME = Path("~/fedhelp")
_JSON_OPTIONS = {"--json", "--format json", "--format=json"}  # options by which a program asks for JSON
_INTERRUPTED_EXIT = 130  # typer's exit code for Ctrl-C
_EXTRAS = {
    "torch": "train", "onnx": "train", "scipy": "train", "torchvision": "foundation", "open_clip": "foundation",
    "pydicom": "medical", "highdicom": "hospital", "pynetdicom": "hospital", "matplotlib": "lab", "ray": "ray",
    "segno": "server", "starlette": "server", "uvicorn": "server",
}  # fmt: skip


def path_argument(description: str) -> Any:
    """An argument that names a file or folder. Whether it is readable shows on reading: that is not a usage error."""
    return typer.Argument(help=description, readable=False)


def check_order(first: Sequence[Path], suffix: str, others: Sequence[Path], remedy: str) -> None:
    """Refuse paths in another order than the command takes, by their names alone: perhaps none of them is there."""
    for path in (path for path in first if path.suffix.lower() != suffix):
        swapped = any(other.suffix.lower() == suffix for other in others)
        if not path.exists():
            raise errors.FileMissingError(
                f"{path.name} is not there", remedy=remedy if swapped else f"check the name, and {remedy}"
            )
        if swapped:
            raise errors.FileKindError(f"{path.name} is in the place of a file that ends in {suffix}", remedy=remedy)


class LazyCommands(MutableMapping[str, Any]):
    """The commands of a package by name; a command's module is imported when it is first used."""

    def __init__(self, package: str, names: Sequence[str]) -> None:
        self._package, self._names = package, list(names)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            command = typer.main.get_command(self._app(name))
            command.name = name
            self._loaded[name] = command
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def listed(self, name: str) -> TyperCommand:
        """A command as lists show it: its help alone. To build its options takes longer than all else in a list."""
        app = self._app(name)
        return TyperCommand(name, help=app.info.help or inspect.getdoc(app.registered_commands[0].callback))

    def _app(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        return importlib.import_module(f"{self._package}.{name}").app

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __setitem__(self, name: str, command: Any) -> NoReturn:
        raise TypeError("commands are files")

    __delitem__ = __setitem__  # type: ignore[assignment]


class Program(TyperGroup):
    """The command line of a program. Only the command that runs is built, none that `--help` or a shell lists."""

    commands: LazyCommands

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command as lists show it, or None."""
        return self.commands.listed(cmd_name) if cmd_name in self.commands else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name, with its options; before it its name, behind it the other arguments."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, self.commands[name] if name else None, rest


def app(**options: Any) -> typer.Typer:
    """A Typer app as every command file makes one: plain text, without its own tracebacks, quick to start."""
    settings = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False, **options}
    return typer.Typer(context_settings={"help_option_names": ["-h", "--help"]}, **settings)


def command_group(package: str, names: Sequence[str], program: str, description: str, version: str) -> Program:
    """The command line of a program, with its `--version` and `--debug`."""
    epilog = "Every command has --help with an example."
    root = app(cls=Program, no_args_is_help=True, help=description, epilog=epilog, add_completion=True)

    def show_version(requested: bool) -> None:
        if requested:
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

    commands = typer.main.get_command(root)
    assert isinstance(commands, Program)  # noqa: S101 - a callback makes it one
    commands.name = program
    commands.commands = LazyCommands(package, names)
    return commands


def run(commands: TyperGroup, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 done, 1 refused, failed or not ready, 2 wrong usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("FEDHELP_DEBUG"))
    if "--debug" in arguments:  # wherever it stands
        arguments.remove("--debug")
    if "--version" in arguments:  # behind a command too
        arguments = ["--version"]
    console.LogFormat.is_json = "--log-json" in arguments
    hints.CurrentCommand.commands, hints.CurrentCommand.options = commands, hints.carried_options(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console that lacks a character shows "?"
    try:
        code = commands.main(args=arguments, prog_name=commands.name, standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED_EXIT:
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except BrokenPipeError:  # the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # typer's or click's, depending on the version
            console.say(*error.ctx.get_help().splitlines())  # type: ignore[union-attr]
            sys.exit(2)
        if debug:
            raise
        _exit_with(
            _as_fedhelp_error(error),
            as_json=not _JSON_OPTIONS.isdisjoint([*arguments, *map(" ".join, pairwise(arguments))]),
        )
    finally:
        # Ctrl-C in an exec of text, as where a module makes its dataclasses, leaves a mark in CPython. `python -m` then
        # ends by SIGINT, although the exception was caught. The next exec of text removes the mark.
        exec("")  # noqa: S102


def _as_fedhelp_error(error: BaseException) -> errors.FedhelpError:
    match error:
        case errors.FedhelpError():
            return error
        case typer.Abort() | KeyboardInterrupt():
            return errors.StoppedByHandError("stopped by hand")
        case OSError():
            return errors.from_os(error)
        case ModuleNotFoundError() if error.name in _EXTRAS:
            return errors.MissingPackageError(f"{error.name} is not installed", remedy=install_hint(error.name))
        case MemoryError():
            return errors.NoSpaceError(
                "not enough memory", remedy="close other programs, then run the same command again"
            )
    if hasattr(error, "format_message"):
        message = str(error.format_message()).strip().removesuffix(".")
        context = getattr(error, "ctx", None)  # there if the command is known
        return errors.UsageError(
            message[:1].lower() + message[1:], remedy=f"see '{context.command_path} --help'" if context else ""
        )
    if method := _added_method(error):
        return errors.PluginError(f"method {method!r} fails: {type(error).__name__}: {visible(str(error))}")
    return errors.InternalError(f"{type(error).__name__} in this program")


def _added_method(error: BaseException) -> str:
    """The method of another package in whose code an error arose, or ""."""
    import traceback
    from importlib.metadata import entry_points

    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    packages = {module.partition(".")[0] for module in modules}
    points = entry_points(group="fedhelp_edge.methods")
    return next((point.name for point in points if point.module.partition(".")[0] in packages), "")


def install_hint(module: str) -> str:
    """How to install an optional package."""
    return f"pip install 'fedhelp-edge[{_EXTRAS[module]}]'"


def _exit_with(error: errors.FedhelpError, *, as_json: bool) -> NoReturn:
    hint = hints.with_caller_options(error.remedy)
    first, *details = error.log_lines if console.LogFormat.is_json else error.lines
    console.say(f"error: {error.code}: {first}", *(f"  {line}" for line in details), f"hint: {hint}")
    if as_json:
        console.print_json(error={"code": error.code, "cause": error.cause, "remedy": hint})
    sys.exit(2 if isinstance(error, errors.UsageError) else 1)


def home_folder(path: Path) -> Path:
    """The folder that `--home` names, with `~` expanded."""
    return path.expanduser()
