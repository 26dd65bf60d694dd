"""Differential privacy of a site's training images (docs/decisions/differential-privacy.md). Needs no torch."""
