"""Completing a BIDS dataset as a BIDS-App: participant by participant, then a table of all."""

from synth3d.bids.group import group_table

__all__ = ["group_table"]
