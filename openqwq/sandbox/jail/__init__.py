"""The host's side of the jail: how it is made, started and limited."""
