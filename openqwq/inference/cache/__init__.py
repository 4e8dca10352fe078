"""The paged KV cache: blocks, pools and sizes. Knows no sequence."""
