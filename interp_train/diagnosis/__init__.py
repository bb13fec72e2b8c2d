"""Diagnosis: network and labelled samples -> evidence of what a decision rests on."""
