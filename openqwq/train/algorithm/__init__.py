"""The algorithm as pure functions: advantages, credit, losses, objective, importance, KL, rewards."""
