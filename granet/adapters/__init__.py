"""The sparsifier in loops that belong to other libraries: Lightning, the Trainer of transformers, Accelerate.

    granet.adapters.lightning.SparsifierCallback
    granet.adapters.transformers.SparsifierCallback
    granet.adapters.accelerate.prepare

Each is a few lines around ``granet.Sparsifier``: they find the optimizer and the number of steps, call ``step`` where
the host has just called ``optimizer.step()``, and keep the state in the host's own checkpoint. Importing one of these
modules imports its library and raises a ``UsageError`` that names the extra to install when it is not there; importing
``granet`` imports none of them.
"""
