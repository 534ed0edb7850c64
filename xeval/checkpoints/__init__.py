"""From a file to a network: run directories, weight files, and everything hostile that such files may hold.

Nothing else in the package opens a weight file. What other projects wrote is taken apart in
:mod:`xeval.checkpoints.convert`, in a process of its own.
"""
