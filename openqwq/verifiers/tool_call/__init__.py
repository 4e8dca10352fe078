"""Tool calls, compared with the expected ones."""
