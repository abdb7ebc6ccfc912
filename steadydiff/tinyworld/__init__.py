"""The tiny world: drawings, words and small networks; workflows run offline on it, claims are measured on it."""
