"""Models and their inputs: what is run, counted on meta tensors and built with real weights or seeded ones."""
