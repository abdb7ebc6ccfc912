"""The tiny world: drawings, words and small networks; to run offline and to measure claims on."""
