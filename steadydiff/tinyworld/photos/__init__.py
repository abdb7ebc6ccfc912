"""A second small world on real pictures: CIFAR-10's ten classes at 32x32, in pixel space."""
