"""Programs, judged by running them against tests in the sandbox."""
