"""Class gates: a matrix that says which filter may serve which category, learned by gating."""
