"""What to harvest: pure functions from view and history to actions, each with its reason."""
