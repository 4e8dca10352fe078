"""The files that run inside the jail. They import the standard library and each other only."""
