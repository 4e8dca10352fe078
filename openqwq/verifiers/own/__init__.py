"""Functions of the user's own as verifiers: the verifier, the child's side, and forks for functions from Python."""
