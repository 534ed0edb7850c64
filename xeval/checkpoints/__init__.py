"""Load networks from files: run directories and weight files, which may be hostile.

Nothing else in the package opens a weight file. Files that other projects wrote are taken apart in
:mod:`xeval.checkpoints.convert`, in a process of its own.
"""
