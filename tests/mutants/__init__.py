"""Mutation testing: small mistakes in the program, one at a time, each of which its tests must detect."""
