"""The reference coordinator."""
