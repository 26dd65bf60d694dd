"""The one training loop, its checkpoints, and what makes it quick."""
