"""The decoder: what does a token sequence cost?"""

from models.config import DecoderConfig

__all__ = ["DecoderConfig"]
