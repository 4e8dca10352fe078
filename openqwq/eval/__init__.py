"""Evaluation: policies on families of problems, intervals, the recipe's targets, the report. No torch in here.

`evaluate` samples and judges, `summarise` makes results, `check_targets` compares stages,
`report.write_report` writes the page. The policy is handed in.
"""
