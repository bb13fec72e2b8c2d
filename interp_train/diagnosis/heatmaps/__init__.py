"""Heatmap methods: network, images, target -> where in each image the evidence lies."""
