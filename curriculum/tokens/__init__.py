"""TOKENS: documents as token ids; samples are fixed-length windows over them."""
