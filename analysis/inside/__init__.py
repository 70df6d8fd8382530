"""What lies inside: what heads write and read, where they lie, how sets of them overlap."""
