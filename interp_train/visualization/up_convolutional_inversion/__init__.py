"""What a layer still knows of an image, by a network that learns to draw it."""
