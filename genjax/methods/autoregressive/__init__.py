"""Models that give each pixel a distribution that sees the pixels before it."""
