"""The trainer: one state, one step, one loop for every method."""
