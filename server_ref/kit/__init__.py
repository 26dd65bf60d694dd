"""Kits: what a site without internet needs, in a folder for a stick: wheels, an installer, the invite, a leaflet."""
