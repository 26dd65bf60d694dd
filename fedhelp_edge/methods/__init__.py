"""One file for each method. `registry` names them without importing any."""
