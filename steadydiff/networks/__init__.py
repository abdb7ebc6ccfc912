"""Networks that a method brings along: modules and their sizes, nothing else."""
