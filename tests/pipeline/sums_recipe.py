"""How the small recipes of these tests begin: the shipped base model, one thread, sums of two digits."""

from pathlib import Path

BASE = Path(__file__).parents[2] / "recipes" / "base" / "tiny"
SUMS = f"""
threads = 1

[model]
path = "{BASE}"

[source.chain_sum]
type = "reasoning_gym"
config = {{ min_terms = 2, max_terms = 2, min_digits = 1, max_digits = 1 }}
"""
