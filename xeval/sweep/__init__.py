"""Runs many trainings and scorings: what to train and score, where each job stands, and the machines that run them.

``plan`` makes runs from recipes, seeds and methods; ``records`` keeps one JSON file per run in ``OUT/.sweep/``;
``jobs`` trains and scores one of them; ``local`` and ``slurm`` start the jobs through submitit.
"""
