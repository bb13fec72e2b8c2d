"""Methods that learn: batch -> named loss terms and new weights."""
