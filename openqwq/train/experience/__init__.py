"""Rollouts for training: collected, overlapped, written to and read from files, and how stale they are."""
