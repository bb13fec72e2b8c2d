"""Filters that follow parts of an object, learned from image labels and views."""
