"""Clinics and hospitals train one diagnostic model together while every image stays at home."""

__version__ = "0.1.0"
