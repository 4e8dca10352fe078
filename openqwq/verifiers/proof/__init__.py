"""Formal proofs: Metamath, Coq and Lean."""
