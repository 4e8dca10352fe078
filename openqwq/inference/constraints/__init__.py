"""What may be written: grammars, writing systems, loops. Knows no scheduler."""
