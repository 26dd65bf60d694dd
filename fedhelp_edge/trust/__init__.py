"""Rules of trust: who may sign what, and when. Pure functions: files, sockets and clocks stay outside."""
