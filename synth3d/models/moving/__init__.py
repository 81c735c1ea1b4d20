"""Convolutions whose taps move: deformed or rotated."""
