"""How shares become one model, in numpy."""
