"""Sampled filter classes: filters in clusters, one per category, drawn at random while learning."""
