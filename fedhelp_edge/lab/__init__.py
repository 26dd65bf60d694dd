"""Whole federations on one machine, with the same learners, codecs and merging as between machines."""
