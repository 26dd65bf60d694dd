"""Pages for one person at this computer: served on its own loopback address, seen by nobody else."""
