"""How updates become one model, in numpy."""
