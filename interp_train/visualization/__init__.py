"""Network and units -> pictures of what the units encode."""
