"""The hub's tables: one file for each, with every query on it. No other room writes SQL."""
