"""Mathematical answers: our strict reading, and the official evaluation of QwQ-32B."""
