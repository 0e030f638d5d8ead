"""Energy models: densities known up to a constant, and their scores."""
