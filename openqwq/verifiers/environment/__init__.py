"""Tasks of the `verifiers` library, judged by their own rubric."""
