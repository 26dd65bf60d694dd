"""The nets. `spec` tells what travels, without torch; the modules themselves need torch."""
