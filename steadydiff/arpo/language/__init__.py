"""Language models as proposers: what they are asked, how their answers are read, where they are reached."""
