"""Training: one loop, the losses, and what each trained method fits. No command lines here."""
