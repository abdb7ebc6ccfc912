"""The tiny world: drawings, words and small networks, so that every workflow runs offline and every claim can be measured."""
