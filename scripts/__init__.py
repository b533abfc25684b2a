"""Programs for whoever works on granet: the demo, the soak, the embedded data, pictures."""
