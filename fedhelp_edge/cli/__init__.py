"""One file for each command: read the arguments, call one function, print."""

COMMANDS = (
    "demo", "doctor", "join", "label", "outline", "check", "train", "distill", "upload", "download", "sync", "status",
    "leave", "evaluate", "export", "predict", "serve", "pacs", "compare", "plan", "keys", "inspect", "knowledge",
    "encoder", "lab", "audit",
)  # fmt: skip
