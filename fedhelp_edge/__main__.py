"""The command line of a site: `fedhelp-edge`, or `python -m fedhelp_edge`."""

from fedhelp_edge import __version__, shell
from fedhelp_edge.cli import COMMANDS

ABOUT = "Train one diagnostic model with other clinics and hospitals while every image stays at home."


def main() -> None:
    shell.run(shell.command_group("fedhelp_edge.cli", COMMANDS, "fedhelp-edge", ABOUT, __version__))


if __name__ == "__main__":
    main()
