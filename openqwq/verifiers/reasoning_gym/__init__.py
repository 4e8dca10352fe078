"""Answers to reasoning-gym's tasks."""
