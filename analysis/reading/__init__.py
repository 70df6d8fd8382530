"""Finished runs read back, without the model."""
