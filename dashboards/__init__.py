"""Leaderboards from the results lake."""
