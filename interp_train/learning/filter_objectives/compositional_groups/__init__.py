"""Filters in groups that share their region of activation."""
