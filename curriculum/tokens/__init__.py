"""TOKENS: documents as token ids; fixed-length samples are windows of them."""
