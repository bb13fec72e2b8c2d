"""Callbacks: they listen to a run, and let measures, pictures and records read it."""
