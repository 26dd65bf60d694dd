"""One file for each command: read the arguments, call one function, print."""

COMMANDS = (
    "doctor", "join", "check", "train", "distill", "upload", "download", "sync", "status", "leave", "evaluate",
    "export", "predict", "compare", "plan", "keys", "inspect", "knowledge", "lab", "audit", "label",
)  # fmt: skip
