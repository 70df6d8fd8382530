"""The ways to load a model: a folder, a name on the hub, a GGUF file, quantised weights."""
