"""Capsule networks: groups of units whose length says whether, and whose direction how."""
