"""The command line of a coordinator: `fedhelp-coordinator`. One file for each command."""

from fedhelp_edge import __version__, shell

COMMANDS = (
    "init", "invite", "invites", "requests", "approve", "revoke", "roster", "knowledge", "encoder", "open", "serve",
    "exchange", "run", "status", "aggregate", "review", "reaggregate", "finish", "audit", "backup", "restore",
    "rotate", "kit", "clock", "unlock", "lock",
)  # fmt: skip
ABOUT = "Open rounds, collect the updates of sites, merge them and publish a better model."


def main() -> None:
    shell.run(shell.command_group("server_ref.cli", COMMANDS, "fedhelp-coordinator", ABOUT, __version__))
