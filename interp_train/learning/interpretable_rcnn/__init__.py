"""Interpretable R-CNN: object detection whose boxes come with a parse tree."""
