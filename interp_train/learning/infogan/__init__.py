"""Generative networks whose latent codes are tied to what the images show."""
