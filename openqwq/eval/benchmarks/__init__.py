"""Public benchmarks under their published protocols: what they are, their runs, their statistics, their report.

`catalogue.BENCHMARKS` lists them, `own.read_benchmark` reads one of the user's own, `run.run_benchmark` samples and
judges, `results.summarise_run` makes scores with intervals, `report` writes them. The sampler is handed in.
"""
