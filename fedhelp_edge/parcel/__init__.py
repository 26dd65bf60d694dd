"""The sealed file: signed by its sender, encrypted where it is private, opened by ordinary `age` and `ssh-keygen`."""
