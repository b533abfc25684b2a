"""Channel coupling: which channels of a network live and die together, traced through its operators."""
