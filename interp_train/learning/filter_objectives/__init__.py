"""Objectives that give the filters of named layers a meaning while they learn."""
