"""Verifiers' processes: the pool, the child's side, and the verifier that uses them."""
