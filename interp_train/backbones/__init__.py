"""Networks with named layers: torchvision models, a small one, and the user's own."""
