"""Worked solutions for the cold start: who writes them, and how they are drawn and filtered."""
