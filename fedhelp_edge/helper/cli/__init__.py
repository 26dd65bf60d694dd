"""The command line of a helper: `fedhelp-helper`. One file for each command."""

from fedhelp_edge import __version__, shell

COMMANDS = ("init", "sum", "run", "status")
ABOUT = "Tell a coordinator the sum of the masks of its sites, so that nobody sees the update of one."


def main() -> None:
    shell.run(shell.command_group("fedhelp_edge.helper.cli", COMMANDS, "fedhelp-helper", ABOUT, __version__))
