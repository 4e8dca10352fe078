"""From logits to tokens. Knows no scheduler."""
