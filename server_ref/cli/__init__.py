"""The command line of a coordinator: `fedhelp-coordinator`. One file for each command."""

from fedhelp_edge import __version__, shell

COMMANDS = ()
ABOUT = "Open rounds, take in what sites send, merge it, and hand back a better model."


def main() -> None:
    shell.run(shell.group("server_ref.cli", COMMANDS, "fedhelp-coordinator", ABOUT, __version__))
