"""One file for each command: read the arguments, call one function, print."""

COMMANDS = ("doctor", "check", "train", "distill", "evaluate", "plan", "keys", "inspect", "knowledge", "lab", "audit")
