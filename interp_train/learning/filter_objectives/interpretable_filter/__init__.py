"""Template masks and losses that make each filter stand for one part of one category."""
