"""What both command lines share: lazy commands, the home folder, passphrases, results on stdout, errors on stderr."""

import importlib
import json
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fedhelp_edge import errors, safe_text

SCHEMA_VERSION = 1

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
_SAID = 10  # characters of a new passphrase that say something
_OBVIOUS = re.compile(
    "pass ?phrase|pass ?words?|passwort|mot de passe|secrets?|geheim|fed ?help|edge|co-?ordinator|federation|hospital"
    "|clinic|qwert[yz](uiop)?|azerty|asdf(gh(jkl)?)?|[yz]xcvb(nm)?|let ?me ?in|welcome|admin(istrator)?|change ?me|test"
    "|i ?love ?you|monkey|dragon|master|login|root|(19|20)[0-9]{2}"
)
_STOPPED = 130  # what typer makes of Ctrl-C
_CARRIED = ("--home", "--plan", "--url", "--via", "--passphrase-file")  # what the next command needs as well
_COMMAND = re.compile(r"\b(fedhelp-(?:edge|coordinator)) ([a-z]+)(?: ([a-z]+))?(?=([^',;]*))")  # and what follows it
_PLAIN = re.compile(r"[\w@%+=:,./\\-]+" if os.name == "nt" else r"[\w@%+=:,./-]+")  # a shell reads it as it is
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
            show(f"{program} {version}")
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


class _Caller:
    """The command line that runs now: its commands, and the options that its next command needs as well."""

    commands: TyperGroup | None = None
    options: Mapping[str, str] = {}


def run(commands: TyperGroup, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and leave: 0 done, 1 refused, failed or not ready, 2 wrong usage."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("FEDHELP_DEBUG"))
    if "--debug" in arguments:  # wherever it stands
        arguments.remove("--debug")
    if "--version" in arguments:  # behind a command too
        arguments = ["--version"]
    _Caller.commands, _Caller.options = commands, _carried(arguments)
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
            say(*fault.ctx.get_help().splitlines())  # type: ignore[union-attr]
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
    hint = typed(fault.remedy)
    first, *more = fault.lines
    say(f"error: {fault.code}: {first}", *(f"  {line}" for line in more), f"hint: {hint}")
    if as_json:
        result(error={"code": fault.code, "cause": fault.cause, "remedy": hint})
    sys.exit(2 if isinstance(fault, errors.UsageError) else 1)


def result(**values: Any) -> None:
    """One line, one object: what a program reads."""
    line = json.dumps({"schema_version": SCHEMA_VERSION, **values}, ensure_ascii=True)
    print(line.replace("\x7f", "\\u007f"), flush=True)


def show(*lines: str) -> None:
    """Print the result, each argument as one line, whatever it holds. All that is printed goes through here or `say`,
    for names and causes that others wrote may hold line ends and signs that steer a terminal."""
    for line in lines:
        print(safe_text.visible(line), flush=True)


@contextmanager
def progress(what: str) -> Iterator[Callable[..., None] | None]:
    """A bar with the time left, for whoever watches a terminal; None where nobody does."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        what = safe_text.visible(what)
        task = bar.add_task(what, total=None)

        def show(done: int, total: int, rate: float | None = None) -> None:
            speed = f", {rate:.0f} images/s" if rate else ""
            bar.update(task, completed=done, total=total, description=f"{what}{speed}")

        yield show


@contextmanager
def bars() -> Iterator[Callable[[str], Callable[..., None] | None]]:
    """A bar for each part of long work, the last one at a time."""
    with ExitStack() as shown:

        def watch(what: str) -> Callable[..., None] | None:
            shown.close()
            return shown.enter_context(progress(what))

        yield watch


def told(before: str, one: Mapping[str, str]) -> list[str]:
    """What became of something among others; if it was refused, its code and cause, and below them what to do."""
    if not one["code"]:
        return [before.rstrip()]
    return [f"{before}{one['code']}: {one['cause']}", f"    hint: {typed(errors.remedy_of(one['code']))}"]


def say(*lines: str) -> None:
    """To the person, not to the program that reads stdout: each argument one line, as `show` prints it."""
    for line in lines:
        print(safe_text.visible(line), file=sys.stderr, flush=True)


def say_next(text: str) -> None:
    """What to do after this command. Each command in the text works as it is printed, in the shell that printed it."""
    say(f"next: {typed(text)}")


def typed(text: str) -> str:
    """A text whose commands of this program carry the caller's `--home`, `--plan` and the like, where they take them.

    An option that the environment gave is not repeated: the shell still holds it.
    """
    return _COMMAND.sub(_complete, text)


def quoted(word: str | Path) -> str:
    """A word as a shell reads it back. Single quotes stand around whole commands already."""
    word = str(word)
    if _PLAIN.fullmatch(word):
        return word
    if os.name == "nt" or not set(word) & set("\"'\\$`!"):
        return f'"{word}"'
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", word)


def _complete(command: re.Match[str]) -> str:
    program, first, second, rest = command.groups()
    if _Caller.commands is None or program != _Caller.commands.name or first not in _Caller.commands.commands:
        return command[0]
    target: Any = _Caller.commands.commands[first]
    name = f"{program} {first}"
    if second in getattr(target, "commands", ()):
        target, name = target.commands[second], f"{name} {second}"
    takes = {option for parameter in target.params for option in parameter.opts} - set(rest.split())
    more = [f"{option} {quoted(value)}" for option, value in _Caller.options.items() if option in takes]
    if "--help" in rest:
        more = []
    return " ".join([name, *more]) + command[0].removeprefix(name)


def _carried(arguments: Sequence[str]) -> dict[str, str]:
    given = {}
    for word, following in zip(arguments, [*arguments, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option in _CARRIED:
            given[option] = value if equals else following
    return given


def say_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """What figures that were just printed cannot tell, or tell too well."""
    for finding in findings:
        say(f"note: {finding['sentence']}")


def say_drawn(names: Sequence[str]) -> None:
    """Of first weights that somebody gave: what of the net they lack."""
    if names:
        few = ", ".join(names[:3])
        say(f"{len(names)} tensors keep their drawn values, for those given lack them or differ in shape: {few}")


def home(given: Path) -> Path:
    return given.expanduser()


def asker(file: Path | None, prompt: str = "passphrase", *, twice: bool = False) -> Callable[[], str]:
    """What gives the passphrase when it is needed: a file, else a prompt, else a refusal. A new one is typed `twice`,
    and must not be weak."""

    def ask() -> str:
        if file is None and not sys.stdin.isatty():
            raise errors.PassphraseNeededError("the keys are locked, and there is nobody to ask")
        if file is not None:
            secret = _from_file(file)
        else:
            secret = str(typer.prompt(prompt, hide_input=True, err=True, confirmation_prompt=twice))
        if twice:
            check_passphrase(secret)
        return secret

    return ask


def new_passphrase(make: Callable[[], str], file: Path | None, *, own: bool) -> str:
    """The passphrase of new keys: from a file, chosen at a prompt, or made.

    One that was made is shown and must be typed before anything is locked with it, so that nobody is locked out by a
    passphrase that was never read. Where nobody watches none is made, for it would end up in a log, or be lost.
    """
    if file is not None:
        return asker(file, twice=True)()
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise errors.PassphraseNeededError(
            "new keys need a passphrase, and nobody is there to read one",
            remedy="name a file that holds one with --passphrase-file, or add --no-passphrase",
        )
    if own:
        return asker(None, "new passphrase", twice=True)()
    made = make()
    say(f"passphrase: {made}")
    say("write these five words on paper and keep them away from this computer; nobody can bring them back")
    check = asker(None, "type the passphrase, to be sure that it stands on paper")
    while "-".join(check().replace("-", " ").split()).lower() != made:
        say("that is another one; the passphrase is the five words above, with hyphens")
    return made


def check_passphrase(secret: str) -> None:
    """Refuse a new passphrase that is soon guessed: whoever copies the key file may try as many as they like.

    Counted are characters that say something: no spaces, no obvious words, no runs ("aaa", "123"), no repetition.
    """
    left = unicodedata.normalize("NFKC", secret.strip()).casefold()
    left = next(left[:size] for size in range(len(left) + 1) if (left[:size] * len(left))[: len(left)] == left)
    left = _OBVIOUS.sub(" ", left)
    said = [char for before, char in pairwise(f" {left}") if char != " " and abs(ord(char) - ord(before)) > 1]
    if len(said) < _SAID or len(set(said)) < _SAID // 2:
        raise errors.WeakPassphraseError("the passphrase would soon be guessed")


def _check_private(name: str, found: os.stat_result) -> None:
    """Refuses a passphrase file that other users can read. Windows' modes say nothing of who may read.

    What root owns may have a group: systemd lends credentials so, by an access list that shows as the group's rights.
    """
    if os.name == "nt" or not stat.S_ISREG(found.st_mode):
        return
    mask = 0o007 if found.st_uid == 0 else 0o077
    if found.st_mode & mask or found.st_uid not in (0, os.geteuid()):
        raise errors.KeysModeError(
            f"{name} holds a passphrase, and other users can read or change it", remedy=f"chmod 600 {name}"
        )


def _from_file(file: Path) -> str:
    with file.open(encoding="utf-8") as opened:
        _check_private(file.name, os.fstat(opened.fileno()))
        lines = opened.read().splitlines()
    if not lines or not lines[0].strip():
        raise errors.PassphraseNeededError(f"{file.name} is empty")
    return lines[0]
